"""Dark runs → constants: offset, noise, bad pixels and stage thresholds, per pixel and cell.

The frames of one (module, cell) are read together, as many pixels at a time as the memory limit
allows, so that every byte is read once and the clipped estimate sees the same values as the first.
No rank holds more than that; tasks are (module, cell), distributed evenly.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from xfelmpi._kernels import _darks
from xfelmpi.calibration.constants_file import STAGES
from xfelmpi.core.problems import Problem
from xfelmpi.detectors.base import Detector
from xfelmpi.run.frames.file_pool import FilePool

ALWAYS_HIGH = 65536
"""A threshold that no 16-bit digital level reaches."""

CLIP = 5.0
"""Values farther than this many standard deviations from the mean are left out …"""

CLIP_ROUNDS = 2
"""… twice, since the first mean and deviation still contain them."""


@dataclass(frozen=True)
class StageStatistics:
    """Statistics of the dark frames of one stage, module and cell.

    Parameters
    ----------
    frames : ndarray, uint32 (pixel,)
        Frames that count, after clipping.
    mean, noise : ndarray, float64 (pixel,)
        Of the analogue signal, clipped, in ADU; NaN without frames.
    digital : ndarray, float64 (pixel,)
        Mean digital level.
    """

    frames: np.ndarray
    mean: np.ndarray
    noise: np.ndarray
    digital: np.ndarray


@dataclass(frozen=True)
class CellConstants:
    """Constants of one module and cell, as stored in the files.

    Parameters
    ----------
    offset, gain, noise : ndarray, float32 (gain stage, ss, fs)
        ADU, ADU of the high stage per ADU, ADU.
    level : ndarray, int32 (gain stage, ss, fs)
        Thresholds between the stages in [1] and [2]; 0 in [0].
    bad : ndarray, uint8 (gain stage, ss, fs)
        0 = good.
    """

    offset: np.ndarray
    gain: np.ndarray
    level: np.ndarray
    bad: np.ndarray
    noise: np.ndarray


def stage_statistics(analogue: np.ndarray, digital: np.ndarray) -> StageStatistics:
    """Return the statistics of dark frames.

    Parameters
    ----------
    analogue, digital : ndarray, uint16 (frame, pixel)
    """
    n_pixels = analogue.shape[1]
    low, high = np.zeros(n_pixels, np.uint16), np.full(n_pixels, 65535, np.uint16)
    number, mean, noise = _moments(analogue, low, high)
    for _ in range(CLIP_ROUNDS):
        # at least one ADU, so that rounding alone never clips
        reach = np.maximum(CLIP * np.nan_to_num(noise), 1)
        low = np.clip(np.ceil(np.nan_to_num(mean) - reach), 0, 65535).astype(np.uint16)
        high = np.clip(np.floor(np.nan_to_num(mean) + reach), 0, 65535).astype(np.uint16)
        number, mean, noise = _moments(analogue, low, high)
    _, level, _ = _moments(digital, np.zeros_like(low), np.full_like(high, 65535))
    return StageStatistics(number, mean, noise, level)


def _moments(values, low, high) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return number, mean and standard deviation of the values between two limits, per pixel."""
    n_pixels = values.shape[1]
    number = np.zeros(n_pixels, np.uint32)
    total, squares = np.zeros((2, n_pixels), np.uint64)
    _darks.add_moments(np.ascontiguousarray(values), low, high, number, total, squares)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / number
        # the sums are exact integers; the difference loses about 1e-8 ADU² in float64
        variance = squares / number - mean**2
        return number, mean, np.sqrt(np.maximum(variance, 0))


def outliers(
    values: np.ndarray, usable: np.ndarray, n_sigma: float, detector: Detector
) -> np.ndarray:
    """Return which pixels lie apart from the others of their ASIC, bool (pixel,).

    Apart: farther from the ASIC's median than `n_sigma` robust standard deviations (1.4826 × the
    median distance from the median).

    Parameters
    ----------
    values : ndarray, float64 (pixel,)
        Of a module.
    usable : ndarray, bool (pixel,)
        Pixels that count in the medians; the others are not judged.
    n_sigma : float
    detector : Detector
    """
    (n_ss, n_fs), fs = detector.asic_shape, detector.module_shape[1]
    by_asic = np.where(usable, values, np.nan).reshape(-1, n_ss, fs // n_fs, n_fs)
    middle = _nanmedian(by_asic)
    distance = np.abs(by_asic - middle)
    width = np.maximum(1.4826 * _nanmedian(distance), 1e-9)
    return (distance > n_sigma * width).reshape(-1)


def _nanmedian(by_asic: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        # of an ASIC without any usable pixel nothing is judged
        warnings.filterwarnings("ignore", "All-NaN slice")
        return np.nan_to_num(np.nanquantile(by_asic, 0.5, axis=(1, 3), keepdims=True))


def combine_stages(
    stages: list[StageStatistics | None],
    gains: tuple[float, float, float],
    offset_sigma: float,
    noise_sigma: float,
    detector: Detector,
) -> CellConstants:
    """Put the statistics of up to three stages of one cell together.

    Parameters
    ----------
    stages : list of StageStatistics or None
        High, medium, low; None where there are no frames. A stage without a run is never reached:
        the threshold to it is out of the range of the digital level, and its pixels are bad.
    gains : (float, float, float)
        Relative gains.
    offset_sigma, noise_sigma : float
        Pixels whose offset or noise lies farther from the others of their ASIC, in robust
        standard deviations, are bad.
    detector : Detector
    """
    n_pixels = detector.module_pixels
    offset, noise = np.zeros((2, STAGES, n_pixels), np.float32)
    bad = np.ones((STAGES, n_pixels), np.uint8)
    level = np.full((STAGES, n_pixels), ALWAYS_HIGH, np.int32)
    level[0] = 0
    for i, stage in enumerate(stages):
        if stage is None:
            continue
        # two frames at least: one says nothing of the noise
        usable = (stage.frames >= 2) & (stage.noise > 0)
        offset[i] = np.nan_to_num(stage.mean)
        noise[i] = np.nan_to_num(stage.noise)
        bad[i] = (
            ~usable
            | outliers(stage.mean, usable, offset_sigma, detector)
            | outliers(stage.noise, usable, noise_sigma, detector)
        )
    for i in (1, 2):
        if stages[i - 1] is not None and stages[i] is not None:
            # high below the first threshold, low above the second
            middle = (stages[i - 1].digital + stages[i].digital) / 2
            level[i] = np.where(np.isnan(middle), ALWAYS_HIGH, np.round(middle))
    gain = np.repeat(np.float32(gains)[:, None], n_pixels, axis=1)
    shape = (STAGES, *detector.module_shape)
    return CellConstants(*(a.reshape(shape) for a in (offset, gain, level, bad, noise)))


class DarkFrames:
    """The frames of one dark run, read cell by cell.

    Parameters
    ----------
    files : FilePool
    cell_id : ndarray, uint16 (frame,)
    file, row : ndarray, int32 (frame, module)
        Where each module has the frame; file -1: nowhere.
    limit : int
        Bytes at most that are read at a time.
    module_pixels : int
    """

    def __init__(self, files: FilePool, cell_id, file, row, limit: int, module_pixels: int):
        self._files = files
        self._cell_id, self._file, self._row = cell_id, file, row
        self._limit = limit
        self._module_pixels = module_pixels
        self._unreadable: set[tuple[int, int]] = set()
        self.problems: list[Problem] = []

    def statistics(self, module: int, cell: int) -> StageStatistics | None:
        """Return the statistics of a module and cell, None if it has no frame there."""
        frames = np.flatnonzero((self._cell_id == cell) & (self._file[:, module] >= 0))
        if not len(frames):
            return None
        per_pixel = 4 * len(frames)
        fit = self._limit // per_pixel // 4096 * 4096
        n_pixels = int(np.clip(fit, 4096, self._module_pixels))
        parts = [
            stage_statistics(*self._read(module, frames, first, first + n_pixels))
            for first in range(0, self._module_pixels, n_pixels)
        ]
        names = StageStatistics.__dataclass_fields__
        return StageStatistics(*(np.concatenate([getattr(p, n) for p in parts]) for n in names))

    def _read(self, module: int, frames: np.ndarray, first: int, end: int):
        """Return analogue and digital values of some pixels, each uint16 (frame, pixel)."""
        end = min(end, self._module_pixels)
        values = np.zeros((2, len(frames), end - first), np.uint16)
        good = np.ones(len(frames), bool)
        for i, (number, row) in enumerate(self._places(module, frames)):
            try:
                self._files.get(number).read_raw_pixels(row, first, values[:, i])
            except (OSError, KeyError) as error:
                good[i] = False
                if (number, row) not in self._unreadable:
                    self._unreadable.add((number, row))
                    self.problems.append(
                        Problem(
                            f"dark frame in row {row} cannot be read: {error}",
                            self._files.name(number),
                            module,
                            0,
                            "frame left out",
                        )
                    )
        return values[0, good], values[1, good]

    def _places(self, module: int, frames: np.ndarray) -> Iterator[tuple[int, int]]:
        yield from zip(
            self._file[frames, module].tolist(), self._row[frames, module].tolist(), strict=True
        )
