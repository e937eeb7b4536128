"""Positions of the detector's pixels in the pictures of the report, with even gaps."""

import math

import numpy as np

from xfelmpi.detectors.base import Detector
from xfelmpi.report.assembly import Assembler
from xfelmpi.report.images import LARGEST, Raster, make_raster

BINS = 2
"""Pixels of a point along each edge: tiles of 64 pixels with gaps of 2 stay at even steps."""


def lay_out(
    xyz: np.ndarray, detector: Detector, pixel_size: float, *bins: int
) -> list[tuple[Raster, tuple[float, float]]]:
    """Return on which point every pixel falls, and where the beam goes through the picture.

    Tiles are placed by EXtra-geom, as whole pixels, and binned one by one: no point belongs partly
    to a gap, and all gaps within a module look alike. Geometries that EXtra-geom cannot place so
    (tilted tiles, quadrants far apart, pixels that are no squares) are binned by the positions of
    the pixels.

    Parameters
    ----------
    xyz : ndarray, float64 (3, pixel)
        Positions in m.
    detector : Detector
    pixel_size : float
        In m.
    *bins : int
        Pixels of a point along each edge; several for several pictures.

    Returns
    -------
    list of (Raster, (float, float))
        With row and column of the beam, in points.
    """
    frames = xyz.reshape(3, *detector.frame_shape)
    if not _has_whole_tiles(detector, bins) or not _is_regular(frames, detector, pixel_size):
        return _by_positions(xyz, bins, pixel_size)
    assembler = Assembler(frames, detector)
    height, width = assembler.shape
    # of 32 bits: a dozen arrays of all pixels are needed for a moment
    place = assembler.target.astype(np.int32)
    place = place.reshape(detector.n_modules, -1, math.prod(detector.tile_shape))
    there = place < height * width
    if not there.any(axis=2).all():
        # a tile that others cover has no place
        return _by_positions(xyz, bins, pixel_size)
    y, x = assembler.beam
    found = []
    for size in bins:
        # seen along the beam, EXtra-geom's images are upside down, and mirrored
        row, first_row = _binned(height - 1 - place // width, there, size)
        column, first_column = _binned(width - 1 - place % width, there, size)
        shape = int(row.max()) + 1, int(column.max()) + 1
        beam = (height - y) / size - first_row, (width - x) / size - first_column
        point = (row * shape[1] + column).reshape(-1).astype(np.int64)
        found.append((Raster(point, shape, size * pixel_size), beam))
    return found


def _by_positions(
    xyz: np.ndarray, bins: tuple[int, ...], pixel_size: float
) -> list[tuple[Raster, tuple[float, float]]]:
    rasters = [make_raster(xyz, size, pixel_size) for size in bins]
    return [(r, (float(xyz[1].max() / r.size), float(xyz[0].max() / r.size))) for r in rasters]


def _has_whole_tiles(detector: Detector, bins: tuple[int, ...]) -> bool:
    """Whether tiles are rows of a module, of square pixels, whose edges can be binned."""
    return (
        detector.tile_shape == (detector.asic_shape[0], detector.module_shape[1])
        and detector.uniform_tiles
        and detector.pixel_size[0] == detector.pixel_size[1]
        and all(n % size == 0 for n in detector.tile_shape for size in bins)
    )


def tile_gaps(xyz: np.ndarray, detector: Detector) -> np.ndarray:
    """Return lines along the gaps between the tiles of a module, as seen along the beam.

    Parameters
    ----------
    xyz : ndarray, float64 (3, pixel)
        Positions in m.
    detector : Detector

    Returns
    -------
    ndarray, float64 (gap, 4)
        x and y of both ends in mm, x to the right.
    """
    n_ss = detector.tile_shape[0]
    module_ss, module_fs = detector.module_shape
    tiles = xyz[:2].reshape(2, detector.n_modules, module_ss // n_ss, n_ss, module_fs)
    # half way between the last row of a tile and the first one of the next
    middle = (tiles[:, :, :-1, -1] + tiles[:, :, 1:, 0]) / 2
    x, y = middle.reshape(2, -1, module_fs) * 1e3
    return np.stack([-x[:, 0], y[:, 0], -x[:, -1], y[:, -1]], axis=1)


def _is_regular(xyz: np.ndarray, detector: Detector, pixel_size: float) -> bool:
    """Whether tiles lie along x and y, and the whole is not much larger than the detector."""
    if max(np.ptp(xyz[0]), np.ptp(xyz[1])) > 2 * BINS * LARGEST * pixel_size:
        return False
    n_ss, n_fs = detector.tile_shape
    tiles = xyz[:2].reshape(2, -1, n_ss, n_fs)
    steps = np.stack(
        [
            (tiles[:, :, -1, 0] - tiles[:, :, 0, 0]) / (n_ss - 1),
            (tiles[:, :, 0, -1] - tiles[:, :, 0, 0]) / (n_fs - 1),
        ]
    )
    whole = np.abs(np.round(steps / pixel_size))
    # one step goes along x, the other one along y
    return bool((whole.sum(axis=0) == 1).all() and (whole.sum(axis=1) == 1).all())


def _binned(at: np.ndarray, there: np.ndarray, bins: int) -> tuple[np.ndarray, int]:
    """Return rows (or columns) of points for those of pixels, and how many were cut off before.

    Parameters
    ----------
    at : ndarray, int32 (module, tile, pixel)
    there : ndarray, bool (module, tile, pixel)
        Pixels that have a place; another tile may cover some.
    bins : int
    """
    first = np.where(there, at, np.iinfo(at.dtype).max).min(axis=2, keepdims=True)
    within = np.maximum(at - first, 0) // bins
    module = first.min(axis=1, keepdims=True)
    # steps from tile to tile are rounded within a module, so that its gaps are alike
    place = (module + bins // 2) // bins + (first - module + bins // 2) // bins
    found = np.where(there, place + within, place)
    start = int(found.min())
    return found - start, start
