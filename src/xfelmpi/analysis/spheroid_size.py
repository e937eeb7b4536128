"""``--size spheroid``: every hit as a spheroid of uniform density."""

import numpy as np

from xfelmpi.analysis.hit_analysis import AnalysedHits, AnalysedRun, HitAnalysis
from xfelmpi.analysis.polar_bins import HitBinner, make_bins, pixel_step, ring_edges
from xfelmpi.analysis.sphere_size import NM3, column, largest_q, size_range
from xfelmpi.analysis.spheroid_fit import N_ANGLES, SpheroidFit

_N_DIAMETERS = 64
_RING, _GROWTH = 1.5, 1 / 20
"""Width of the rings in pixels at least, and over their radius."""


class SpheroidSize(HitAnalysis):
    """Both axes, angle, fluence, their errors, and how well a spheroid fits."""

    columns = (
        column("diameter", "m"),
        column("diameter_error", "m"),
        column("short_axis_diameter", "m"),
        column("short_axis_error", "m"),
        column("long_axis_diameter", "m"),
        column("long_axis_error", "m"),
        column("theta_x", "rad"),
        column("theta_z", "rad"),
        column("theta_z_error", "rad"),
        column("fluence", "photons/um2"),
        column("fluence_error", "photons/um2"),
        column("size_deviance"),
        column("size_edge"),
    )

    def __init__(self, run: AnalysedRun):
        step = pixel_step(run.geometry, run.wavelength)
        largest, config = largest_q(run), run.config
        edges = ring_edges(_RING * step, largest, _GROWTH)
        sectors = np.full(len(edges) - 1, N_ANGLES)
        bins = make_bins(run.geometry, run.wavelength, config.polarisation, edges, sectors)
        self._binner = HitBinner(bins, run.background, run.masks, run.modules_in_run)
        usual = (self._binner.mean_exposure, self._binner.mean_background)
        diameters = np.geomspace(*size_range(run, step, largest), _N_DIAMETERS)
        self._fit = SpheroidFit(bins, diameters, config.density / NM3, *usual)
        self._wavelength = run.wavelength

    def process(self, hits: AnalysedHits) -> list[np.ndarray]:
        """Return the columns of some hits."""
        found = self._fit(self._binner(hits.frames, hits.cell_id, hits.weighting))
        # the bins are those of the run's wavelength; only d · q counts, and fluence · d⁶
        ratio = hits.wavelength / self._wavelength
        ratio = np.where(np.isfinite(ratio), ratio, 1.0)
        per_um2 = 1e-12 / ratio**6
        lengths = [values * ratio for values in found[:6]]
        # out of the detector's plane: cannot be told from a shorter axis
        angles = [0 * found.angle, found.angle, found.angle_error]
        light = [found.fluence * per_um2, found.fluence_error * per_um2]
        return [*lengths, *angles, *light, found.deviance, found.edge]
