"""Finds bad pixels and memory cells in sums over many frames; pure.

Two comparisons: every cell of a pixel with its other cells, and with the pixels around it. Both
allow for the shot noise of the counts: with few frames, few pixels are called bad.
"""

from dataclasses import dataclass

import numpy as np

from xfelmpi.detectors.base import Detector
from xfelmpi.hitfinding.thresholds import IQR_OF_NORMAL

HOT, DEAD, NOISY, BRIGHT = 1, 2, 4, 8
"""Kinds: too many photons, too few, too many pairs of photons in one frame, and cells of a module
that outshine the others in most trains."""

KINDS = {HOT: "hot", DEAD: "dead", NOISY: "noisy", BRIGHT: "bright"}

WINDOW = 7
"""Edge in pixels of the neighbourhood, which ends with the ASIC."""

LEAST_CELLS = 8
"""With fewer cells, a cell is only compared with the pixels around it."""

LEAST_PART = 0.2
"""Cells whose counts differ from the others' by less than this fraction are alike, even if the
difference is significant."""

_CLIP = 4.0
_FAR = 2.5
_PRIOR = 100
"""Photons that pull the brightness of a cell towards that of the others: with few, it is noise."""


@dataclass(frozen=True)
class BadPixelCriteria:
    """When a count is too far from what is expected.

    Parameters
    ----------
    sigma : float
        Standard deviations; of the shot noise, or of the quartiles of the other cells if these
        are wider.
    ratio : float
        Of a count and that of the neighbourhood.
    dead_chance : float
        A pixel without photons is dead if a good one would be so with a smaller chance.
    """

    sigma: float = 6.0
    ratio: float = 3.0
    dead_chance: float = 1e-3


@dataclass(frozen=True)
class Counts:
    """Sums over frames, for cells × pixels.

    Parameters
    ----------
    photons, pairs : ndarray, float64 (cell, pixel)
    frames : ndarray, float64 (cell, pixel)
        Frames in which the pixel was good; 0 if it shall not be judged.
    level : ndarray, float64 (cell, pixel)
        Brightness of the cell, relative to the others.
    """

    photons: np.ndarray
    pairs: np.ndarray
    frames: np.ndarray
    level: np.ndarray

    def together(self, these: np.ndarray) -> "Counts":
        """Return the sums over some of the cells, bool (cell, pixel), as those of one cell."""
        sums = (
            np.where(these, values, 0).sum(axis=0, keepdims=True)
            for values in (self.photons, self.pairs, self.frames)
        )
        return Counts(*sums, np.ones((1, 1)))


def capped(photons: np.ndarray) -> np.ndarray:
    """Return counts (cell, pixel) cut above three times a typical one of the pixel, int64.

    The excess of a hot cell then hardly changes the sum over many pixels.
    """
    lower = np.sort(photons, axis=0)[(len(photons) - 1) // 4].astype(np.int64)
    return np.minimum(photons, 3 * lower + 8)


def brightness(photons: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Return how bright the cells are, relative to all.

    Parameters
    ----------
    photons, frames : ndarray, int64 (group, cell)
        Capped photons, and frames, summed over the pixels of a group of pixels.

    Returns
    -------
    ndarray, float64 (group, cell)
    """
    total = np.maximum(frames.sum(axis=1, keepdims=True), 1)
    expected = frames * (photons.sum(axis=1, keepdims=True) / total)
    return (photons + _PRIOR) / (expected + _PRIOR)


def judge_cells(counts: Counts, limits: BadPixelCriteria) -> np.ndarray:
    """Compare every cell of a pixel with its other cells; returns kinds, uint8 (cell, pixel)."""
    kinds = np.zeros(counts.photons.shape, np.uint8)
    if len(kinds) < LEAST_CELLS:
        return kinds
    exposure = counts.frames * counts.level
    rate, width = _typical(counts.photons, exposure)
    expected, width = rate * exposure, width * exposure
    off = counts.photons - expected
    least = LEAST_PART * expected
    far = np.maximum(limits.sigma * np.maximum(np.sqrt(expected + 1), width), least)
    kinds[off > far] |= HOT
    far = np.maximum(limits.sigma * np.maximum(np.sqrt(expected), width), least)
    none = _surely_lit(expected, limits) & (counts.photons == 0) & (expected > _FAR * width)
    kinds[(off < -far) | none] |= DEAD
    mean = rate * counts.level
    exposure = exposure * counts.level
    rate, width = _typical(counts.pairs, exposure)
    expected, width = rate * exposure, width * exposure
    far = limits.sigma * np.maximum(np.sqrt(_pair_variance(expected, mean)), width)
    kinds[counts.pairs - expected > np.maximum(far, LEAST_PART * expected)] |= NOISY
    kinds[counts.frames == 0] = 0
    return kinds


def judge_by_neighbours(
    counts: Counts, rate: np.ndarray, pair_rate: np.ndarray, limits: BadPixelCriteria
) -> np.ndarray:
    """Compare counts with those of the pixels around.

    Parameters
    ----------
    counts : Counts
    rate, pair_rate : ndarray, float64 (pixel,)
        Photons and pairs in a frame, typical of the neighbourhood.
    limits : BadPixelCriteria

    Returns
    -------
    ndarray, uint8 (cell, pixel)
        Kinds.
    """
    kinds = np.zeros(counts.photons.shape, np.uint8)
    exposure = counts.frames * counts.level
    expected = rate * exposure
    shot = limits.sigma * np.sqrt(expected + 1)
    kinds[counts.photons > np.maximum(limits.ratio * expected, expected + shot)] |= HOT
    few = counts.photons < np.minimum(
        expected / limits.ratio, expected - limits.sigma * np.sqrt(expected)
    )
    kinds[few | (_surely_lit(expected, limits) & (counts.photons == 0))] |= DEAD
    # pairs grow with the square: a pixel that is brighter, but not hot, has more of them
    brighter = np.clip(counts.photons / np.maximum(expected, 1), 1, np.sqrt(limits.ratio))
    pairs = pair_rate * exposure * counts.level * brighter**2
    shot = limits.sigma * np.sqrt(_pair_variance(pairs, rate * counts.level * brighter))
    kinds[counts.pairs > np.maximum(limits.ratio * pairs, pairs + shot)] |= NOISY
    kinds[counts.frames == 0] = 0
    return kinds


def mostly_bad(kinds: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Return the kinds of pixels more than half of whose cells are bad, for all of their cells.

    Parameters
    ----------
    kinds : ndarray, uint8 (cell, pixel)
    judged : ndarray, bool (cell, pixel)

    Returns
    -------
    ndarray, uint8 (cell, pixel)
        0 where a pixel is not so bad, or a cell was not judged.
    """
    mostly = 2 * np.count_nonzero(kinds, axis=0) > np.count_nonzero(judged, axis=0)
    return np.where(mostly & judged, np.bitwise_or.reduce(kinds, axis=0), 0).astype(np.uint8)


def dark(counts: Counts, rate: np.ndarray, limits: BadPixelCriteria) -> np.ndarray:
    """Return where there is too little light to tell good from dead, bool (cell, pixel)."""
    expected = rate * counts.frames * counts.level
    return (counts.frames > 0) & ~_surely_lit(expected, limits)


def _surely_lit(expected: np.ndarray, limits: BadPixelCriteria) -> np.ndarray:
    # Poisson: the chance of no photon at all
    return np.exp(-expected) < limits.dead_chance


def _pair_variance(expected: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return the variance of a number of pairs, plus 1, given the mean photons in a frame.

    Of Poisson counts: the variance of c (c − 1) is 4 mean³ + 2 mean², its mean is mean².
    """
    return expected * (1 + 2 * mean) + 1


def _typical(counts: np.ndarray, exposure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rate and width (pixel,) of the rates of a pixel's cells, outliers left out."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = np.where(exposure > 0, counts / exposure, np.nan)
    lower, median, upper = quartiles(rates)
    width = (upper - lower) / IQR_OF_NORMAL
    expected = median * exposure
    near = _CLIP * np.maximum(np.sqrt(expected + 1), width * exposure)
    near = (np.abs(counts - expected) <= near) & (exposure > 0)
    total = np.maximum(np.where(near, exposure, 0).sum(axis=0), 1e-9)
    return np.where(near, counts, 0).sum(axis=0) / total, width


def quartiles(values: np.ndarray, which: tuple[int, ...] = (1, 2, 3)) -> np.ndarray:
    """Return quartiles over the first axis, without NaN: (value, pixel) → (quartile, pixel).

    As `numpy.nanpercentile` does, many times faster; 0 where there are no values.
    """
    ordered = np.sort(values, axis=0)
    n = np.count_nonzero(~np.isnan(values), axis=0)
    found = []
    for quarter in which:
        at = np.maximum(n - 1, 0) * quarter / 4
        below = at.astype(np.intp)
        above = np.minimum(below + 1, np.maximum(n - 1, 0))
        low, high = (np.take_along_axis(ordered, i[None], axis=0)[0] for i in (below, above))
        found.append(low + (high - low) * (at - below))
    return np.nan_to_num(np.array(found))


def masked_median(image: np.ndarray) -> np.ndarray:
    """Return the median of the `WINDOW` × `WINDOW` pixels around each pixel, without NaN.

    Parameters
    ----------
    image : ndarray, float64 (ss, fs)
        NaN where a pixel is bad. There are no pixels beyond the edges.

    Returns
    -------
    ndarray, float64 (ss, fs)
        0 where there is no good pixel.
    """
    padded = np.pad(image, WINDOW // 2, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (WINDOW, WINDOW))
    return quartiles(windows.reshape(image.size, -1).T, (2,)).reshape(image.shape)


def asic_edges(detector: Detector) -> np.ndarray:
    """Return the pixels at the edges of the ASICs of a module, bool (ss, fs)."""
    ss, fs = np.ogrid[tuple(slice(n) for n in detector.module_shape)]
    n_ss, n_fs = detector.asic_shape
    return (ss % n_ss % (n_ss - 1) == 0) | (fs % n_fs % (n_fs - 1) == 0)
