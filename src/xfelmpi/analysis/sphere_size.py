"""``--size sphere``: every hit as a sphere of uniform density."""

import numpy as np

from xfelmpi.analysis.hit_analysis import AnalysedHits, AnalysedRun, AnalysisColumn, HitAnalysis
from xfelmpi.analysis.polar_bins import HitBinner, make_bins, pixel_step, ring_edges
from xfelmpi.analysis.sphere_fit import SphereFit

GROUP = "sizing"
"""Of the columns, below an entry of the CXI file; the name that other programs know."""

_N_DIAMETERS = 256
_LARGEST_STEPS = 4.0
"""Pixels per fringe of the largest particle: with fewer, fringes cannot be seen."""

_SMALLEST = 2.0
"""Diameter × largest |q| of the smallest particle: with less, its pattern is nearly flat."""

_GROWTH = 1 / 40
"""Width of the outer rings over their radius: there are few photons."""

_ARC, _SECTORS = 4.0, 16
"""Length of a bin in pixels at least, and bins of a ring at most."""

NM3 = 1e-27


def size_range(run: AnalysedRun, step: float, largest_q: float) -> tuple[float, float]:
    """Return the smallest and the largest diameter in m: those asked for, or of the geometry.

    Fringes of a sphere are 1 / d apart in |q|.

    Parameters
    ----------
    run : AnalysedRun
    step : float
        Of |q| from pixel to pixel, in 1/m.
    largest_q : float
        In 1/m.
    """
    if run.config.size_range:
        smallest, largest = run.config.size_range
        return smallest * 1e-9, largest * 1e-9
    return _SMALLEST / largest_q, 1 / (_LARGEST_STEPS * step)


def column(name: str, units: str = "") -> AnalysisColumn:
    """Return a column of sizes."""
    return AnalysisColumn(name, units, GROUP, "f4")


class SphereSize(HitAnalysis):
    """Diameter, fluence, their errors, and how well a sphere fits."""

    columns = (
        column("diameter", "m"),
        column("diameter_error", "m"),
        column("short_axis_diameter", "m"),
        column("long_axis_diameter", "m"),
        column("fluence", "photons/um2"),
        column("fluence_error", "photons/um2"),
        column("size_deviance"),
        column("size_edge"),
    )

    def __init__(self, run: AnalysedRun):
        step = pixel_step(run.geometry, run.wavelength)
        largest = largest_q(run)
        edges = ring_edges(step, largest, _GROWTH)
        sectors = np.clip(np.pi * edges[:-1] / step / _ARC, 1, _SECTORS).astype(np.int64)
        config = run.config
        bins = make_bins(run.geometry, run.wavelength, config.polarisation, edges, sectors)
        self._binner = HitBinner(bins, run.background, run.masks, run.modules_in_run)
        usual = (self._binner.mean_exposure, self._binner.mean_background)
        diameters = np.geomspace(*size_range(run, step, largest), _N_DIAMETERS)
        self._fit = SphereFit(bins, diameters, config.density / NM3, *usual)
        self._wavelength = run.wavelength

    def process(self, hits: AnalysedHits) -> list[np.ndarray]:
        """Return the columns of some hits."""
        found = self._fit(self._binner(hits.frames, hits.cell_id, hits.weighting))
        # the bins are those of the run's wavelength; only d · q counts, and fluence · d⁶
        ratio = hits.wavelength / self._wavelength
        ratio = np.where(np.isfinite(ratio), ratio, 1.0)
        diameter, error = found.diameter * ratio, found.diameter_error * ratio
        per_um2 = 1e-12 / ratio**6
        fluence = (found.fluence * per_um2, found.fluence_error * per_um2)
        return [diameter, error, diameter, diameter, *fluence, found.deviance, found.edge]


def largest_q(run: AnalysedRun) -> float:
    """Return the largest |q| of a pixel, in 1/m."""
    x, y, z = run.geometry.xyz
    two_theta = np.arctan2(np.hypot(x, y), z).max()
    return float(2 * np.sin(two_theta / 2) / run.wavelength)
