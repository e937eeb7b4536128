"""The constants files of raw data: checked, and one cell at a time in the form the kernel needs.

Layout (Cheetah, OM): ``Cheetah-AGIPDmm-calib.h5`` with ``AnalogOffset``, ``RelativeGain``,
``DigitalGainLevel`` and ``Badpixel``, each (3, cell, 512, 128), first axis the gain stage high,
medium, low. The stage of a pixel is high if digital < DigitalGainLevel[1], low if digital >
DigitalGainLevel[2], else medium; its signal is (analogue − offset[stage]) × gain[stage] in
float32, in ADU of the high stage.
"""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.core.config.parts import RawSettings
from xfelmpi.core.errors import InputError
from xfelmpi.core.problems import Problem
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.pixel_bits import pack_flat
from xfelmpi.io.dataset_storage import require_whole_readable
from xfelmpi.io.input_file import input_file
from xfelmpi.io.virtual_sources import not_written

STAGES = 3
NEVER = 65535
"""Cut of a pixel that cannot have a photon in the high stage."""

_FEW = 0.01
"""Of the pixels of a cell: constants that so many good ones lack are no damage of the file."""


@dataclass(frozen=True)
class ConstantsLayout:
    """How the arrays of all modules are kept: the tightest form that is exact."""

    offset: str
    gain_cells: bool
    gain_pixels: bool

    def join(self, other: "ConstantsLayout") -> "ConstantsLayout":
        """Return the tightest form that is exact for both."""
        return ConstantsLayout(
            "f4" if "f4" in (self.offset, other.offset) else "i2",
            self.gain_cells or other.gain_cells,
            self.gain_pixels or other.gain_pixels,
        )


def constants_file(folder: Path, module: int) -> Path:
    """Return the name of a module's constants file."""
    return folder / f"Cheetah-AGIPD{module:02}-calib.h5"


def open_constants(path: Path):
    """Open a constants file; see `input_file`."""
    return input_file(path, "a file of calibration constants")


def check_constants(file: h5py.File, path: Path, detector: Detector) -> int:
    """Check the four datasets of a file and return its number of cells."""
    shapes = {}
    n_ss, n_fs = detector.module_shape
    for name, kinds in (
        ("AnalogOffset", "iuf"),
        ("RelativeGain", "f"),
        ("DigitalGainLevel", "iuf"),
        ("Badpixel", "biu"),
    ):
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise InputError(f"{path}: no dataset {name} in this file of calibration constants")
        require_whole_readable(dataset)
        if dataset.dtype.kind not in kinds:
            raise InputError(
                f"{path}: {name} is {dataset.dtype}, expected kind {' or '.join(kinds)}"
            )
        if dataset.ndim != 4 or (dataset.shape[0], *dataset.shape[2:]) != (
            STAGES,
            *detector.module_shape,
        ):
            raise InputError(
                f"{path}: {name} has shape {dataset.shape}, expected (3, cells, {n_ss}, {n_fs})"
            )
        if reason := not_written(dataset):
            raise InputError(f"{path}: {name}: {reason}")
        shapes[name] = dataset.shape
    if len(set(shapes.values())) > 1:
        raise InputError(f"{path}: datasets differ in their number of cells: {shapes}")
    return shapes["AnalogOffset"][1]


def descending_thresholds(file: h5py.File, name: str) -> str:
    """Return a warning if a constants file has its gain stages in the wrong order, else nothing.

    The digital level rises from high to low gain, and so do the thresholds between them. Those of
    the first cell are compared, in pixels that are good in all stages.
    """
    if not file["DigitalGainLevel"].shape[1]:
        return ""
    level, bad = (file[key][:, 0] for key in ("DigitalGainLevel", "Badpixel"))
    judged = ~(bad != 0).any(axis=0)
    judged &= np.isfinite(level[1:]).all(axis=0)
    if not judged.any():
        return ""
    first, second = (float(np.median(level[i][judged])) for i in (1, 2))
    if first <= second:
        return ""
    return (
        f"{name}: DigitalGainLevel descends from {first:,.0f} (high to medium gain) to "
        f"{second:,.0f} (medium to low): were the dark runs in the wrong order?"
    )


def survey(path: Path, cells_used) -> ConstantsLayout:
    """Find the tightest exact form of a module's offsets and gains, one cell at a time."""
    with open_constants(path) as file:
        offset, gain = file["AnalogOffset"], file["RelativeGain"]
        cells = [c for c in cells_used if c < offset.shape[1]]
        tight = offset.dtype.str[1:] in ("i2", "i1", "u1")
        if not tight:
            tight = all(_fits_i2(offset[s, c]) for c in cells for s in range(STAGES))
        by_cell = by_pixel = False
        for stage in range(STAGES):
            first = None
            for cell in cells:
                if by_cell and by_pixel:
                    break
                values = gain[stage, cell]
                first = values if first is None else first
                by_pixel = by_pixel or bool((values != values[0, 0]).any())
                by_cell = by_cell or not np.array_equal(values, first)
    return ConstantsLayout("i2" if tight else "f4", by_cell, by_pixel)


def _fits_i2(values: np.ndarray) -> bool:
    # NaN is neither: such offsets stay floats, and their pixels become bad
    with np.errstate(invalid="ignore"):
        return bool(((values >= -32768) & (values <= 32767) & (values == np.trunc(values))).all())


def fill_without_constants(arrays: dict[str, np.ndarray], rows) -> None:
    """Write what stands for no constants into some rows of a module's part of the shared arrays."""
    for name in ("one_photon_adc", "lowest1", "level1", "level2"):
        arrays[name][rows] = NEVER
    arrays["offset"][rows] = 0
    arrays["bad"][:, rows] = 0xFF
    if arrays["gain"].shape[0] > 1:
        arrays["gain"][rows] = 1


def problem_of_cells(file: str, module: int, n_cells: int, cells_used) -> list[Problem]:
    """Return the problem of cells that the run uses and that a file of constants lacks, if any."""
    lacking = [int(cell) for cell in cells_used if cell >= n_cells]
    if not lacking:
        return []
    text = f"calibration constants have {n_cells} cells, the run uses cell {lacking[-1]}"
    action = "pixels of the cells without them count as bad"
    return [Problem(text, file, module, 0, action)]


def lacking_constants(offset, gain, level, bad, *, subtracted: bool) -> np.ndarray:
    """Return pixels of a cell without constants that are not called bad, bool (3, pixel).

    No offset or threshold of the detector's converters is 0: an array has that where nobody has
    filled it in. A few pixels may have anything.

    Parameters
    ----------
    offset, gain, level : ndarray (3, pixel)
    bad : ndarray, bool (3, pixel)
    subtracted : bool
        All offsets of the file are 0.
    """
    with np.errstate(invalid="ignore"):
        lacking = ~np.isfinite(offset) | ~(np.isfinite(gain) & (gain > 0))
        if not subtracted:
            lacking |= offset == 0
        lacking |= ~(level[1:] > 0).all(axis=0)
    lacking &= ~bad
    lacking[lacking.mean(axis=1) <= _FEW] = False
    return lacking


def prepare_cell(offset, gain, level, bad, settings: RawSettings) -> dict[str, np.ndarray]:
    """Put constants of one module into the kernel's form: those of a cell, or of parts of cells.

    Parameters
    ----------
    offset, gain, level : ndarray (3, pixel)
        Rows of 64 pixels, which belong together.
    bad : ndarray, bool (3, pixel)
    settings : RawSettings
        ``adu_per_photon``, ``photon_threshold``.

    Returns
    -------
    dict
        The fields of `ModuleConstants`.
        Pixels whose constants are not finite, or whose gain is not positive, become bad; so do
        those whose signal could be more than float32 holds.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        offset = offset.astype(np.float32)
        gain = gain.astype(np.float32)
        # the median of an ASIC adds two signals
        farthest = 2 * (np.abs(offset) + 65535) * gain
        usable = np.isfinite(farthest) & (gain > 0) & ~np.isnan(level[1:]).any(axis=0)
    offset = np.where(np.isfinite(farthest), offset, np.float32(0))
    gain = np.where(np.isfinite(farthest) & (gain > 0), gain, np.float32(1))
    bad = bad | ~usable
    cut = _smallest_photon(offset[0], gain[0], settings.adu_per_photon, settings.photon_threshold)
    # the digital level is an integer, so thresholds that are not can be rounded to the next one
    level = np.nan_to_num(level.astype(np.float64))
    # a bad pixel is of no interest, whatever its stage
    level1 = np.where(bad[0], NEVER, np.clip(np.ceil(level[1]), 0, 65535)).astype(np.uint16)
    level2 = np.clip(np.floor(level[2]), 0, 65535)
    return {
        "one_photon_adc": np.where(bad[0], NEVER, cut).astype(np.uint16),
        "lowest1": level1.reshape(-1, 64).min(axis=1),
        "level1": level1,
        "level2": level2.astype(np.uint16),
        "offset": offset,
        "gain": gain,
        "bad": pack_flat(bad),
    }


def _smallest_photon(offset, gain, adu_per_photon: float, threshold: float) -> np.ndarray:
    """Return the smallest analogue value 0 … 65535 that is a photon in the high stage, (pixel,).

    65535 also where no value is: the kernel takes what is not below for a candidate only.
    """
    adu, threshold = np.float32(adu_per_photon), np.float32(threshold)

    def is_photon(analogue):
        # the very arithmetic of the kernel, which rounds after every step
        with np.errstate(over="ignore"):
            return (
                np.floor((analogue.astype(np.float32) - offset) * gain / adu + 1 - threshold) >= 1
            )

    about = np.floor(offset + threshold * adu_per_photon / gain.astype(np.float64))
    low = np.clip(about - 2, 0, 65535).astype(np.int32)
    high = np.clip(about + 3, 0, 65535).astype(np.int32)
    # rounding of float32 may have moved the edge farther than the few values around it
    low = np.where(is_photon(low), 0, low)
    high = np.where(is_photon(high), high, 65535)
    while (low < high).any():
        middle = (low + high) // 2
        found = is_photon(middle)
        high = np.where(found, middle, high)
        low = np.where(found, low, np.minimum(middle + 1, high))
    return low
