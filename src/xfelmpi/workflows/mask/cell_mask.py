"""Judging the cells of a run together: every rank those pixels that it has the sums of."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xfelmpi import mpi
from xfelmpi._kernels._cells import BAND_PIXELS, INVALID, PAIRS, PHOTONS
from xfelmpi.calibration.constants_file import constants_file, open_constants
from xfelmpi.calibration.dark_statistics import outliers
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.errors import InputError
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.pixel_bits import pack, pack_flat, unpack
from xfelmpi.workflows.mask.bad_pixels import (
    BRIGHT,
    DEAD,
    KINDS,
    BadPixelCriteria,
    Counts,
    brightness,
    capped,
    dark,
    judge_by_neighbours,
    judge_cells,
    masked_median,
    mostly_bad,
)
from xfelmpi.workflows.mask.cell_sums import Part, band_rows

_CHUNK = 1 << 15
"""Cells × pixels judged at a time, about: what the nearest caches hold."""


@dataclass(frozen=True)
class Tally:
    """What was found, summed over the ranks at the end.

    Parameters
    ----------
    kinds : ndarray, int64 (4, module)
        Cells × pixels of every kind, by module; one can be of several kinds.
    judged, too_dark : ndarray, int64 (module,)
        Cells × pixels that were judged, and those that got too little light to be called dead.
    pixels_too_dark : ndarray, int64 (module,)
        Pixels that got too little light even in all cells together.
    asics : ndarray, int64 (2, block)
        Photons and frames, summed over the pixels and cells of every ASIC, or part of an ASIC, in
        a band; see `block_shape`.
    """

    kinds: np.ndarray
    judged: np.ndarray
    too_dark: np.ndarray
    pixels_too_dark: np.ndarray
    asics: np.ndarray

    @classmethod
    def zeros(cls, detector: Detector) -> "Tally":
        """Return the tally of nothing."""
        n = detector.n_modules
        blocks = detector.frame_pixels // math.prod(block_shape(detector))
        shapes = ((len(KINDS), n), n, n, n, (2, blocks))
        return cls(*(np.zeros(shape, np.int64) for shape in shapes))

    def of_all_ranks(self, comm) -> "Tally":
        """Return the sum over the ranks; collective."""
        return Tally(*(mpi.allreduce_sum(comm, a) for a in vars(self).values()))


def block_shape(detector: Detector) -> tuple[int, int]:
    """Return the pixels, (ss, fs), of an ASIC within a band: all of it in an AGIPD."""
    return band_rows(detector), detector.asic_shape[1]


class PartJudge:
    """Judges the pixels of one part; every rank its own.

    Parameters
    ----------
    comm : Intracomm
    part : Part
    sums : ndarray, uint32 (plane, cell, place)
        From `CellSums`.
    frames : dict of str to ndarray, int64 (module, cell)
        Frames of each module and cell, of all ranks: ``judged`` and ``all``.
    masks : Masks
        Pixels that are bad anyway.
    cells : ndarray, int (cell,)
    limits : BadPixelCriteria
    tally : Tally
        Is added to.
    """

    def __init__(self, comm, part: Part, sums, frames, masks: Masks, *, cells, limits, tally):
        self._comm = comm
        self._part = part
        self._sums = sums
        self._judged = frames["judged"]
        self._outshines = 2 * frames["judged"] < frames["all"]
        self._masks = masks
        self._mask_row = masks.row_of_cell[cells]
        self._limits: BadPixelCriteria = limits
        self._tally: Tally = tally
        self._first, self._end = part.owned(comm.rank)
        self._kinds = np.zeros((len(cells), self._end - self._first), np.uint8)

    def bad_bits(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (module, bits of the bad pixels, uint8 (cell, byte)) of the part; collective."""
        level = self._levels()
        for at, n, module in self._chunks():
            counts = self._counts(at, n, module, level)
            self._kinds[:, at : at + n] = judge_cells(counts, self._limits)
        typical = self._neighbourhoods(self._pixel_totals())
        for at, n, module in self._chunks():
            self._judge_by_neighbours(at, n, module, level, typical)
        return self._gathered()

    def _chunks(self) -> Iterator[tuple[int, int, int]]:
        """Yield (place in the stripe, number, module) of some pixels, all of the same band."""
        n_fs = self._part.detector.module_shape[1]
        rows = max(1, _CHUNK // len(self._kinds) // n_fs)
        at = self._first
        while at < self._end:
            end_of_band = (at // BAND_PIXELS + 1) * BAND_PIXELS
            end = min(at + rows * n_fs, end_of_band, self._end)
            yield (
                at - self._first,
                end - at,
                int(self._part.pixels(at, at + 1)[0] // self._part.detector.module_pixels),
            )
            at = end

    def _frames(self, at: int, n: int, module: int) -> np.ndarray:
        """Return in how many frames that count some pixels were good, int64 (cell, pixel)."""
        pixel = int(self._part.pixels(self._first + at, self._first + at + 1)[0])
        pixel %= self._part.detector.module_pixels
        bits = self._masks.good[module][self._mask_row, pixel // 8 : (pixel + n) // 8]
        there = np.where(self._outshines[module], 0, self._judged[module])[:, None]
        return unpack(bits) * np.maximum(there - self._sums[INVALID, :, at : at + n], 0)

    def _counts(self, at: int, n: int, module: int, level: np.ndarray) -> Counts:
        photons, pairs = self._sums[[PHOTONS, PAIRS], :, at : at + n].astype(np.float64)
        band = (self._first + at) // BAND_PIXELS
        frames = self._frames(at, n, module).astype(np.float64)
        return Counts(photons, pairs, frames, level[band][:, None])

    def _levels(self) -> np.ndarray:
        """Return the brightness of every cell in every band, float64 (band, cell); collective."""
        totals = np.zeros((2, len(self._part.bands), len(self._kinds)), np.int64)
        for at, n, module in self._chunks():
            band = (self._first + at) // BAND_PIXELS
            frames = self._frames(at, n, module)
            photons = np.where(frames > 0, self._sums[PHOTONS, :, at : at + n], 0)
            totals[0, band] += np.where(frames > 0, capped(photons), 0).sum(axis=1)
            totals[1, band] += frames.sum(axis=1)
        return brightness(*mpi.allreduce_sum(self._comm, totals))

    def _pixel_totals(self) -> np.ndarray:
        """Return photons, pairs and frames over the cells good so far, int64 (3, place)."""
        totals = np.zeros((3, self._end - self._first), np.int64)
        for at, n, module in self._chunks():
            chunk = slice(at, at + n)
            frames = np.where(self._kinds[:, chunk] == 0, self._frames(at, n, module), 0)
            for i, plane in enumerate((PHOTONS, PAIRS)):
                totals[i, chunk] = np.where(frames > 0, self._sums[plane, :, chunk], 0).sum(axis=0)
            totals[2, chunk] = frames.sum(axis=0)
        return totals

    def _neighbourhoods(self, totals: np.ndarray) -> np.ndarray:
        """Return photons and pairs in a frame, typical of the pixels around, float64 (2, place).

        Collective; the bands are distributed to the ranks.
        """
        typical = np.zeros((2, totals.shape[1]))
        n_pixels = self._part.detector.module_pixels
        for a in range(0, self._part.n_pixels, n_pixels):
            b = min(a + n_pixels, self._part.n_pixels)
            first, end = np.clip((self._first, self._end), a, b)
            own, here = slice(first - a, end - a), slice(first - self._first, end - self._first)
            piece = np.zeros((3, b - a), np.int64)
            piece[:, own] = totals[:, here]
            piece = mpi.allreduce_sum(self._comm, piece)
            rates = np.zeros((2, b - a))
            for place in range(a, b, BAND_PIXELS):
                if place // BAND_PIXELS % self._comm.size == self._comm.rank:
                    band = slice(place - a, place - a + BAND_PIXELS)
                    rates[:, band] = self._band_rates(place, piece[:, band])
            # all but one rank have zeros: the sum is exact
            typical[:, here] = mpi.allreduce_sum(self._comm, rates)[:, own]
        return typical

    def _band_rates(self, place: int, totals: np.ndarray) -> np.ndarray:
        """Return the typical rates of photons and pairs of a band, float64 (2, pixel)."""
        n_ss, n_fs = block_shape(self._part.detector)
        images = totals.reshape(3, n_ss, -1, n_fs)
        n_blocks, band = images.shape[2], self._part.bands[place // BAND_PIXELS]
        own = slice(n_blocks * band, n_blocks * (band + 1))
        self._tally.asics[:, own] += images[[0, 2]].sum(axis=(1, 3))
        rates = np.full((2, *images.shape[1:]), np.nan)
        np.divide(images[:2], images[2], out=rates, where=images[2] > 0)
        for rate in rates:
            for asic in range(rate.shape[1]):
                rate[:, asic] = masked_median(rate[:, asic])
        return rates.reshape(2, -1)

    def _judge_by_neighbours(self, at, n, module, level, typical) -> None:
        rate, pair_rate = typical[:, at : at + n]
        counts = self._counts(at, n, module, level)
        kinds, judged = self._kinds[:, at : at + n], counts.frames > 0
        kinds |= judge_by_neighbours(counts, rate, pair_rate, self._limits)
        # a pixel as a whole by its good cells, so that a bad one does not take them along
        whole = counts.together((kinds == 0) & judged)
        kinds |= np.where(judged, judge_by_neighbours(whole, rate, pair_rate, self._limits), 0)
        kinds |= mostly_bad(kinds, judged)
        kinds[self._outshines[module]] |= BRIGHT
        tally = self._tally
        tally.judged[module] += judged.sum()
        tally.too_dark[module] += dark(counts, rate, self._limits).sum()
        tally.pixels_too_dark[module] += dark(whole, rate, self._limits).sum()
        for i, kind in enumerate(KINDS):
            tally.kinds[i, module] += np.count_nonzero(kinds & kind)

    def _gathered(self) -> Iterator[tuple[int, np.ndarray]]:
        pixels = self._part.pixels(self._first, self._end)
        detector = self._part.detector
        for module in self._part.modules:
            own = pixels // detector.module_pixels == module
            bits = np.zeros((len(self._kinds), detector.module_bytes), np.uint8)
            if own.any():
                first = int(pixels[own][0]) % detector.module_pixels // 8
                packed = pack_flat(self._kinds[:, own] != 0)
                bits[:, first : first + packed.shape[1]] = packed
            yield module, mpi.allreduce_bor(self._comm, bits)


def dead_asics(tally: Tally, limits: BadPixelCriteria) -> np.ndarray:
    """Return the ASICs, bool (block,), that saw no photon where others would have seen some.

    Their pixels look like each other, so that no neighbourhood tells.
    """
    photons, frames = tally.asics
    lit = photons > 0
    if not lit.any():
        return lit
    # a tenth of what ASICs see, so that one in the dark is not taken for dead
    expected = 0.1 * np.median(photons[lit] / frames[lit]) * frames
    return ~lit & (frames > 0) & (np.exp(-expected) < limits.dead_chance)


def mask_dead_asics(detector: Detector, asics: np.ndarray, good: np.ndarray, tally: Tally) -> None:
    """Take all pixels of dead ASICs out of the good ones.

    Parameters
    ----------
    detector : Detector
    asics : ndarray, bool (block,)
    good : ndarray, uint8 (module, cell, byte)
        Bits of the good pixels.
    tally : Tally
    """
    (n_ss, n_fs), shape = block_shape(detector), detector.module_shape
    across = shape[1] // n_fs
    for number in np.flatnonzero(asics):
        module, asic = divmod(int(number), len(asics) // detector.n_modules)
        pixels = np.zeros(shape, bool)
        ss, fs = asic // across * n_ss, asic % across * n_fs
        pixels[ss : ss + n_ss, fs : fs + n_fs] = True
        added = (unpack(good[module]) == 1) & pixels.ravel()
        tally.kinds[list(KINDS).index(DEAD), module] += np.count_nonzero(added)
        good[module] &= pack(~pixels)


def noise_outliers(
    comm, detector: Detector, folder: Path, modules: list[int], cells: np.ndarray, sigma: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (module, bits, uint8 (cell, byte)) of pixels whose noise is unlike that of their ASIC.

    Collective. Of a cell that the constants lack, none.

    Raises
    ------
    InputError
        If a module has no file with the noise.
    """
    shape = detector.module_shape
    for module in modules:
        bits = np.zeros((len(cells), detector.module_bytes), np.uint8)
        with mpi.fail_together(comm):
            path = constants_file(folder, module)
            with open_constants(path) as file:
                if "Noise" not in file or file["Noise"].shape[2:] != shape:
                    raise InputError(
                        f"{path}: no Noise (3, cells, {str(shape)[1:]}; xfelmpi darks writes it"
                    )
                noise = file["Noise"]
                for i in range(comm.rank, len(cells), comm.size):
                    if cells[i] < noise.shape[1]:
                        values = noise[0, cells[i]].reshape(-1).astype(np.float64)
                        usable = np.isfinite(values) & (values > 0)
                        bad = outliers(values, usable, sigma, detector) | ~usable
                        bits[i] = pack(bad.reshape(shape))
        yield module, mpi.allreduce_bor(comm, bits)
