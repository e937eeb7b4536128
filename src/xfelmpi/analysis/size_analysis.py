"""What ``--size sphere`` and ``--size spheroid`` have in common."""

from abc import abstractmethod

import numpy as np

from xfelmpi.analysis.hit_analysis import AnalysedHits, AnalysedRun, AnalysisColumn, HitAnalysis
from xfelmpi.analysis.polar_bins import HitBinner, PolarBins, make_bins, pixel_step

GROUP = "sizing"
"""Of the columns, below an entry of the CXI file; the name that other programs know."""

_LARGEST_STEPS = 4.0
"""Pixels per fringe of the largest particle: with fewer, fringes cannot be seen."""

_SMALLEST = 2.0
"""Diameter × largest |q| of the smallest particle: with less, its pattern is nearly flat."""

_NM3 = 1e-27


def column(name: str, units: str = "") -> AnalysisColumn:
    """Return a column of sizes."""
    return AnalysisColumn(name, units, GROUP, "f4")


class SizeAnalysis(HitAnalysis):
    """Measures every hit as a particle of one kind, by its photons in bins.

    A subclass has `columns`, `n_diameters`, `rings`, `fit` and `values`.
    """

    n_diameters: int
    """Of the grid."""

    def __init__(self, run: AnalysedRun):
        step, largest = pixel_step(run.geometry, run.wavelength), _largest_q(run)
        edges, sectors = self.rings(step, largest)
        bins = make_bins(run.geometry, run.wavelength, run.settings.polarisation, edges, sectors)
        self._binner = HitBinner(bins, run.background, run.masks, run.modules_in_run)
        usual = (self._binner.mean_exposure, self._binner.mean_background)
        diameters = np.geomspace(*_size_range(run, step, largest), self.n_diameters)
        self._fit = self.fit(bins, diameters, run.settings.density / _NM3, *usual)
        self._wavelength = run.wavelength

    @abstractmethod
    def rings(self, step: float, largest: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the edges of rings in 1/m, and how many sectors each ring has.

        Parameters
        ----------
        step : float
            Of |q| from pixel to pixel, in 1/m.
        largest : float
            |q| of a pixel, in 1/m.
        """

    @abstractmethod
    def fit(self, bins: PolarBins, diameters, density: float, exposure, background):
        """Return what fits binned hits; see `SphereFit`."""

    @abstractmethod
    def values(self, found, ratio: np.ndarray, light: np.ndarray) -> list[np.ndarray]:
        """Return the values of each column.

        Parameters
        ----------
        found : tuple of ndarray, float64 (hit,)
            What `fit` found, with the wavelength of the run.
        ratio, light : ndarray, float64 (hit,)
            What lengths and fluences are multiplied by.
        """

    def process(self, hits: AnalysedHits) -> list[np.ndarray]:
        """Return the columns of some hits."""
        found = self._fit(self._binner(hits.frames, hits.cell_id, hits.weighting))
        # the bins are those of the run's wavelength; only d · q counts, and fluence · d⁶
        ratio = hits.wavelength / self._wavelength
        ratio = np.where(np.isfinite(ratio), ratio, 1.0)
        return self.values(found, ratio, 1e-12 / ratio**6)


def _size_range(run: AnalysedRun, step: float, largest_q: float) -> tuple[float, float]:
    """Return the smallest and the largest diameter in m: those asked for, or of the geometry.

    Fringes of a sphere are 1 / d apart in |q|.
    """
    if run.settings.size_range:
        smallest, largest = run.settings.size_range
        return smallest * 1e-9, largest * 1e-9
    return _SMALLEST / largest_q, 1 / (_LARGEST_STEPS * step)


def _largest_q(run: AnalysedRun) -> float:
    """Return the largest |q| of a pixel, in 1/m."""
    x, y, z = run.geometry.xyz
    two_theta = np.arctan2(np.hypot(x, y), z).max()
    return float(2 * np.sin(two_theta / 2) / run.wavelength)
