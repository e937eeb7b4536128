"""``--size spheroid``: every hit as a spheroid of uniform density."""

import numpy as np

from xfelmpi.analysis.polar_bins import ring_edges
from xfelmpi.analysis.size_analysis import SizeAnalysis, column
from xfelmpi.analysis.spheroid_fit import N_ANGLES, SpheroidFit, Spheroids

_RING, _GROWTH = 1.5, 1 / 20
"""Width of the rings in pixels at least, and over their radius."""


class SpheroidSize(SizeAnalysis):
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
    n_diameters = 64
    fit = SpheroidFit

    def rings(self, step: float, largest: float) -> tuple[np.ndarray, np.ndarray]:
        """Return rings in which a turned spheroid is one that is moved along the azimuth."""
        edges = ring_edges(_RING * step, largest, _GROWTH)
        return edges, np.full(len(edges) - 1, N_ANGLES)

    def values(self, found: Spheroids, ratio: np.ndarray, light: np.ndarray) -> list[np.ndarray]:
        """Return the columns of some hits."""
        lengths = [values * ratio for values in found[:6]]
        # out of the detector's plane: it looks like a shorter axis
        angles = [0 * found.angle, found.angle, found.angle_error]
        fluence = [found.fluence * light, found.fluence_error * light]
        return [*lengths, *angles, *fluence, found.deviance, found.edge]
