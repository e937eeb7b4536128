"""Pixels in bins of |q| and azimuth, and the hits' photons in them."""

from dataclasses import dataclass

import numpy as np

from xfelmpi._kernels._bins import sum_in_bins
from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.module_bits import modules_of
from xfelmpi.detectors.pixel_bits import unpack
from xfelmpi.detectors.scattering import ewald_vectors, polarisation, solid_angle


@dataclass(frozen=True, kw_only=True)
class PolarBins:
    """Bins of pixels: rings of |q|, each in sectors; opposite sectors are one.

    A particle scatters the same to q and −q as long as the Ewald sphere is flat, so azimuths count
    from 0 to π.

    Parameters
    ----------
    pixel_bin : ndarray, int32 (pixel,)
        Bin of each pixel; `n_bins` where it is in none.
    exposure : ndarray, float64 (pixel,)
        Solid angle in sr × polarisation.
    first : ndarray, int64 (ring,)
        First bin of each ring; bins of a ring follow each other.
    ring_of_bin : ndarray, int64 (bin,)
    total : ndarray, float64 (bin,)
        Exposure of all pixels.
    q : ndarray, float64 (bin,)
        Mean |q| in 1/m, weighted by the exposure; 0 in a bin without pixels.
    spread : ndarray, float64 (bin,)
        Standard deviation of |q| in a bin.
    ring_q, ring_spread : ndarray, float64 (ring,)
        Mean and standard deviation of |q| in a ring.
    q_x, q_y : ndarray, float64 (bin,)
        Mean of q across the beam, of the half plane with azimuths from 0 to π.
    """

    pixel_bin: np.ndarray
    exposure: np.ndarray
    first: np.ndarray
    ring_of_bin: np.ndarray
    total: np.ndarray
    q: np.ndarray
    spread: np.ndarray
    ring_q: np.ndarray
    ring_spread: np.ndarray
    q_x: np.ndarray
    q_y: np.ndarray

    @property
    def n_bins(self) -> int:
        """Number of bins."""
        return len(self.total)

    def of_rings(self, values: np.ndarray) -> np.ndarray:
        """Return sums over the bins of each ring, (…, bin) → (…, ring)."""
        return np.add.reduceat(values, self.first, axis=-1)


def ring_edges(step: float, largest: float, growth: float) -> np.ndarray:
    """Return the edges of rings that are at least `step` wide, in the unit of `step`.

    Parameters
    ----------
    step : float
    largest : float
        The last edge is not below it.
    growth : float
        Width of a ring over its radius, where that is more than `step`.
    """
    edges = [0.0]
    while edges[-1] < largest:
        edges.append(edges[-1] + max(step, growth * edges[-1]))
    return np.array(edges)


def pixel_step(geometry: DetectorGeometry, wavelength: float) -> float:
    """Return the step of |q| from pixel to pixel at the detector's centre, in 1/m."""
    return min(geometry.detector.pixel_size) / (float(np.median(geometry.xyz[2])) * wavelength)


def make_bins(
    geometry: DetectorGeometry,
    wavelength: float,
    direction: str,
    edges: np.ndarray,
    sectors: np.ndarray,
) -> PolarBins:
    """Put the pixels into bins.

    Parameters
    ----------
    geometry : DetectorGeometry
        With a distance.
    wavelength : float
        In m.
    direction : str
        Of the electric field, ``x``, ``y`` or ``none``.
    edges : ndarray, float64 (ring + 1,)
        Of the rings, in 1/m.
    sectors : ndarray, int (ring,)
        Bins of every ring.
    """
    first = np.cumsum(sectors) - sectors
    n_bins = int(sectors.sum())
    pixel_bin, exposure = [], []
    sums = np.zeros((5, n_bins + 1))
    # module by module: temporary arrays stay small
    for module in range(geometry.detector.n_modules):
        xyz = geometry.xyz[:, module]
        weight = solid_angle(xyz, geometry.detector.asic_shape) * polarisation(xyz, direction)
        weight = weight.reshape(-1)
        vectors = ewald_vectors(xyz.reshape(3, -1), 1 / wavelength)
        bins, moments = _binned(vectors, edges, sectors)
        for row, value in enumerate(moments):
            sums[row] += np.bincount(bins, weight * value, n_bins + 1)
        pixel_bin.append(bins.astype(np.int32))
        exposure.append(weight)
    total, by_q, by_square, by_x, by_y = sums[:, :-1]
    filled = np.where(total > 0, total, 1.0)
    ring_total = np.add.reduceat(total, first)
    ring_filled = np.where(ring_total > 0, ring_total, 1.0)
    ring_q = np.add.reduceat(by_q, first) / ring_filled
    square = np.add.reduceat(by_square, first) / ring_filled
    return PolarBins(
        pixel_bin=np.concatenate(pixel_bin),
        exposure=np.concatenate(exposure),
        first=first,
        ring_of_bin=np.repeat(np.arange(len(sectors)), sectors),
        total=total,
        q=by_q / filled,
        spread=np.sqrt(np.maximum(by_square / filled - (by_q / filled) ** 2, 0.0)),
        ring_q=ring_q,
        ring_spread=np.sqrt(np.maximum(square - ring_q**2, 0.0)),
        q_x=by_x / filled,
        q_y=by_y / filled,
    )


def _binned(vectors: np.ndarray, edges: np.ndarray, sectors: np.ndarray) -> tuple:
    """Return the bin of every scattering vector, and of what means over bins are made.

    Opposite vectors have the same bin, and the signs of those with y above 0.

    Parameters
    ----------
    vectors : ndarray, float64 (3, pixel)
        In 1/m.
    edges, sectors : ndarray
        See `make_bins`.

    Returns
    -------
    bins : ndarray, int64 (pixel,)
        The number of bins where no ring has it.
    moments : tuple
        1, |q|, |q|², and its components along x and y.
    """
    x, y, _ = vectors
    length = np.sqrt((vectors**2).sum(axis=0))
    ring = np.searchsorted(edges, length, side="right") - 1
    inside = ring < len(sectors)
    ring = np.where(inside, ring, 0)
    half = np.where((y < 0) | ((y == 0) & (x < 0)), -1.0, 1.0)
    turn = np.arctan2(y * half, x * half) / np.pi * sectors[ring]
    sector = np.minimum(turn.astype(np.int64), sectors[ring] - 1)
    first = np.cumsum(sectors) - sectors
    bins = np.where(inside, first[ring] + sector, sectors.sum())
    return bins, (1.0, length, length**2, x * half, y * half)


@dataclass(frozen=True)
class BinnedHits:
    """Hits in bins.

    Parameters
    ----------
    photons : ndarray, float64 (hit, bin)
        On good pixels.
    exposure : ndarray, float64 (hit, bin)
        Of the pixels that are good in the hit.
    background : ndarray, float64 (hit, bin)
        Expected background on these pixels.
    """

    photons: np.ndarray
    exposure: np.ndarray
    background: np.ndarray


class HitBinner:
    """Sums photons, exposure and background of hits over bins.

    Parameters
    ----------
    bins : PolarBins
    background : ndarray, float32 (pixel,)
        Mean photons per good frame over the non-hits; NaN where there is none.
    masks : Masks
    modules_in_run : int
        Bit field.
    """

    def __init__(self, bins: PolarBins, background: np.ndarray, masks: Masks, modules_in_run: int):
        self._bins = bins
        ground = np.nan_to_num(background.reshape(-1)).astype(np.float64)
        # exposure and background of each pixel
        self._of_pixel = np.stack([bins.exposure, ground], axis=1)
        self._masks = masks
        self._present = modules_of(modules_in_run, masks.n_modules)
        self._pixel_bin = bins.pixel_bin
        if not self._present.all():
            # hits may list pixels of absent modules as bad, which are not exposed anyway
            there = np.repeat(self._present, len(bins.pixel_bin) // masks.n_modules)
            self._pixel_bin = np.where(
                there, bins.pixel_bin, bins.pixel_bin.dtype.type(bins.n_bins)
            )
        self._of_row: dict[int, np.ndarray] = {}
        every = np.bincount(bins.pixel_bin, ground, bins.n_bins + 1)
        self._all_good = np.stack([np.append(bins.total, 0.0), every], axis=1)

    @property
    def mean_exposure(self) -> np.ndarray:
        """Exposure of all pixels of the run's modules, float64 (bin,), with the first masks."""
        return self._good_sums(0)[:-1, 0]

    @property
    def mean_background(self) -> np.ndarray:
        """Background of the same pixels, float64 (bin,)."""
        return self._good_sums(0)[:-1, 1]

    def _good_sums(self, row: int) -> np.ndarray:
        """Return exposure and background that a row of the masks leaves, float64 (bin + 1, 2)."""
        if row not in self._of_row:
            good = self._masks.good[:, row]
            bad = np.zeros(0, np.int64)
            if not self._present.all() or (good != 0xFF).any():
                usable = unpack(good).astype(bool) & self._present[:, None]
                bad = np.flatnonzero(~usable)
            self._of_row[row] = self._all_good - self._sums_of(bad)
        return self._of_row[row]

    def _sums_of(self, pixel: np.ndarray) -> np.ndarray:
        where, n = self._bins.pixel_bin[pixel], self._bins.n_bins + 1
        return np.stack([np.bincount(where, v, n) for v in self._of_pixel[pixel].T], axis=1)

    def __call__(
        self, hits: SparseFrames, cell_id: np.ndarray, weighting: np.ndarray
    ) -> BinnedHits:
        """Return the hits in bins.

        Parameters
        ----------
        hits : SparseFrames
        cell_id : ndarray, int (hit,)
        weighting : ndarray, float64 (hit,)
            What scales the background to each hit.
        """
        rows = self._masks.row_of_cell[cell_id]
        # the last bin is that of pixels in none
        photons = np.zeros((len(hits), self._bins.n_bins + 1))
        left = np.empty((*photons.shape, 2))
        for hit, row in enumerate(rows.tolist()):
            left[hit] = self._good_sums(row)
        lists = (hits.indptr, hits.pixel, hits.count)
        sum_in_bins(*lists, self._pixel_bin, self._of_pixel, photons, left)
        exposure, background = np.moveaxis(left[:, :-1], -1, 0)
        # what is left of differences is no exposure
        seen = exposure > 1e-9 * self._bins.total
        exposure = np.where(seen, exposure, 0.0)
        background = np.where(seen, np.maximum(background, 0.0), 0.0)
        return BinnedHits(photons[:, :-1].copy(), exposure, background * weighting[:, None])
