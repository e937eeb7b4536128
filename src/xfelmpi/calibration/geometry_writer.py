"""A geometry that was refined, as a CrystFEL file that extra-geom writes."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from xfelmpi.calibration.geometry import DetectorGeometry, first_pixels
from xfelmpi.core.units import ELECTRONVOLT, PLANCK_TIMES_C


def moved(geometry: DetectorGeometry, shift: np.ndarray, description: str) -> DetectorGeometry:
    """Return a geometry whose modules are moved across the beam.

    Parameters
    ----------
    geometry : DetectorGeometry
    shift : ndarray, float64 (module, 2)
        In m, of x and y.
    description : str
    """
    by = np.concatenate([shift, np.zeros((len(shift), 1))], axis=1)
    tiles = len(geometry.tile_corners) // len(shift)
    return replace(
        geometry,
        xyz=geometry.xyz + by.T[:, :, None, None],
        corner_position=geometry.corner_position + by,
        tile_corners=geometry.tile_corners + np.repeat(by, tiles, axis=0),
        description=description,
        files=(),
    )


def crystfel_text(geometry: DetectorGeometry, wavelength: float) -> bytes:
    """Return a geometry as a CrystFEL file, to which `load_geometry` gives the same positions.

    Parameters
    ----------
    geometry : DetectorGeometry
        With a distance, or without: the file has no ``clen`` then.
    wavelength : float
        In m, NaN if unknown.
    """
    # slow to import, and needed on one rank only
    import extra_geom
    from extra_geom.base import GeometryFragment

    of_detector = getattr(extra_geom, geometry.detector.geometry)
    corners = geometry.tile_corners.copy()
    # positions along the beam count from the distance
    corners[:, 2] -= geometry.distance if np.isfinite(geometry.distance) else corners[:, 2]
    steps = np.nan_to_num(geometry.tile_basis)
    shape = geometry.detector.tile_shape
    fragments = [
        GeometryFragment(corner, *vectors, *shape)
        for corner, vectors in zip(corners, steps, strict=True)
    ]
    # the fragments are in the order of the data, EXtra-geom has its own
    order = np.argsort(np.argsort(first_pixels(geometry.detector)))
    n = len(order)
    modules = [[fragments[a + i] for i in order] for a in range(0, len(fragments), n)]
    known = {}
    if np.isfinite(geometry.distance):
        known["clen"] = geometry.distance
    if np.isfinite(wavelength):
        known["photon_energy"] = PLANCK_TIMES_C / wavelength / ELECTRONVOLT
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "refined.geom"
        of_detector(modules).write_crystfel_geom(str(path), **known)
        return path.read_bytes()
