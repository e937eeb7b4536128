"""``--size sphere``: every hit as a sphere of uniform density."""

import numpy as np

from xfelmpi.analysis.polar_bins import ring_edges
from xfelmpi.analysis.size_analysis import SizeAnalysis, column
from xfelmpi.analysis.sphere_fit import SphereFit, Spheres

_GROWTH = 1 / 40
"""Width of the outer rings over their radius: there are few photons."""

_ARC, _SECTORS = 4.0, 16
"""Length of a bin in pixels at least, and bins of a ring at most."""


class SphereSize(SizeAnalysis):
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
    n_diameters = 256
    fit = SphereFit

    def rings(self, step: float, largest: float) -> tuple[np.ndarray, np.ndarray]:
        """Return rings a pixel wide; sectors tell what is no sphere."""
        edges = ring_edges(step, largest, _GROWTH)
        sectors = np.clip(np.pi * edges[:-1] / step / _ARC, 1, _SECTORS).astype(np.int64)
        return edges, sectors

    def values(self, found: Spheres, ratio: np.ndarray, light: np.ndarray) -> list[np.ndarray]:
        """Return the columns of some hits."""
        diameter, error = found.diameter * ratio, found.diameter_error * ratio
        fluence = (found.fluence * light, found.fluence_error * light)
        return [diameter, error, diameter, diameter, *fluence, found.deviance, found.edge]
