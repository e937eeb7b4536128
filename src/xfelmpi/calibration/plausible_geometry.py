"""Geometries that can be read, but cannot be those of a detector."""

from pathlib import Path

import numpy as np

from xfelmpi.calibration.geometry_file import more_of
from xfelmpi.core.errors import InputError

FARTHEST_PIXEL = 10.0
"""m: no pixel is farther from the beam."""

_OTHER_AREA = 0.05
"""Share by which a pixel's area may differ from that of the detector's pixels."""


def implausible_panels(geometry, path: Path) -> list[str]:
    """Return warnings of panels whose pixels have another size, or that lie on each other.

    Parameters
    ----------
    geometry : DetectorGeometry
    path : Path
        Its file.

    Raises
    ------
    InputError
        If a pixel is nowhere, or metres away from the beam.
    """
    detector = geometry.detector
    corner, basis = geometry.tile_corners, geometry.tile_basis
    shape = np.array(detector.tile_shape)
    centre = corner[:, :2] + (basis[:, :, :2] * (shape / 2)[:, None]).sum(axis=1)
    reach = np.abs(corner[:, :2]) + (np.abs(basis[:, :, :2]) * shape[:, None]).sum(axis=1)
    wrong = ~(reach < FARTHEST_PIXEL).all(axis=1)  # also where it is NaN
    if wrong.any():
        which = int(np.argmax(wrong))
        x, y = corner[which, :2]
        raise InputError(
            f"{path}: panel {_name(which, detector)} has its corner at x = {x:g} m, y = {y:g} m, "
            f"expected less than {FARTHEST_PIXEL:g} m from the beam"
        )
    return [*_odd_pixels(basis, detector, path), *_overlaps(centre, basis, detector, path)]


def _odd_pixels(basis: np.ndarray, detector, path: Path) -> list[str]:
    area = np.linalg.norm(np.cross(basis[:, 0], basis[:, 1]), axis=1)
    expected = float(np.median(detector.pixel_area))
    odd = np.flatnonzero(np.abs(area / expected - 1) > _OTHER_AREA)
    if not len(odd):
        return []
    first = odd[0]
    return [
        f"{path}: pixels of {_name(first, detector)}{more_of(odd)} have an area of "
        f"{area[first] * 1e12:.4g} µm², those of {detector.title} {expected * 1e12:.4g}"
        " µm²: check res, fs and ss"
    ]


def _overlaps(centre: np.ndarray, basis: np.ndarray, detector, path: Path) -> list[str]:
    apart = np.linalg.norm(centre[:, None] - centre[None], axis=2)
    sides = np.linalg.norm(basis, axis=2) * detector.tile_shape
    pairs = np.argwhere(np.triu(apart < sides.min() / 2, 1))
    if not len(pairs):
        return []
    a, b = (_name(number, detector) for number in pairs[0])
    return [f"{path}: panels {a} and {b}{more_of(pairs)} lie on each other"]


def _name(number: int, detector) -> str:
    """Return the name that extra-geom gives a tile in geometry files, e.g. ``p3a2``."""
    tiles = len(detector.tile_names) // detector.n_modules
    return f"p{number // tiles}a{number % tiles}"
