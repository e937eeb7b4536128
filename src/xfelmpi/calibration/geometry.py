"""Where the pixels are: from a CrystFEL geometry, or extra-geom's nominal quadrants.

Coordinates are those of CrystFEL, CXI and extra-geom alike: right-handed, origin where the beam
meets the sample, z along the beam, y up; x and y are therefore used as extra-geom gives them.
"""

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration import geometry_file
from xfelmpi.calibration.distance import Distance, find_distance
from xfelmpi.calibration.plausible_geometry import implausible_panels
from xfelmpi.core.errors import InputError
from xfelmpi.core.input_files import UsedFile
from xfelmpi.core.log import shortened
from xfelmpi.core.machine_records import BeamlineSource, QuadrantMotors, ZMotor
from xfelmpi.detectors.base import Detector

_MOTOR_COMMENT = re.compile(r"^;XGEOM MOTOR", re.MULTILINE)

_MOTION = 20e-6
"""m: quadrants that move further during a run, a tenth of a pixel, are worth a warning."""


@dataclass(frozen=True)
class DetectorGeometry:
    """Positions of all pixels.

    z is ``distance`` + the panel's own offset along the beam (``coffset``), as CrystFEL defines
    it; with an unknown distance, every z is NaN while x and y stay.

    Parameters
    ----------
    xyz : ndarray, float64 (3, module, ss, fs)
        Centres of the pixels in m; axes (coordinate, module, ss, fs).
    corner_position : ndarray, float64 (module, 3)
        Corner of each module's first pixel in m (CXI 1.6, "orientation of pixel detectors").
    basis_vectors : ndarray, float64 (module, 2, 3)
        Step in m from the first pixel of each module to the next one in ss (row 0) and in fs
        (row 1), as CXI 1.6 orders them: first row for the first dimension of the data. Exact
        within the first tile; those of all tiles follow.
    distance : float
        Sample to detector in m (CrystFEL's ``clen``), NaN if unknown.
    description : str
        Where this comes from, for the log.
    detector : Detector
    files : tuple of UsedFile
        The geometry file, if there is one.
    bad : ndarray, bool (module, ss, fs), or None
        Pixels in the bad regions of the geometry file.
    tile_corners : ndarray, float64 (tile, 3)
        Corner of each tile's first pixel in m, module by module. Default: by `xyz`.
    tile_basis : ndarray, float64 (tile, 2, 3)
        Step in m from pixel to pixel of a tile in ss (row 0) and in fs (row 1). The centre of pixel
        (i, j) is at corner + (i + 0.5) · row 0 + (j + 0.5) · row 1. Default: by `xyz`.
    along : BeamlineSource or None
        Where the distance came from.
    """

    xyz: np.ndarray
    corner_position: np.ndarray
    basis_vectors: np.ndarray
    distance: float
    description: str
    detector: Detector
    files: tuple[UsedFile, ...] = ()
    bad: np.ndarray | None = None
    tile_corners: np.ndarray | None = None
    tile_basis: np.ndarray | None = None
    along: BeamlineSource | None = None

    def __post_init__(self):
        if self.tile_corners is None:
            corners, basis = _tiles(self.xyz, self.detector)
            object.__setattr__(self, "tile_corners", corners)
            object.__setattr__(self, "tile_basis", basis)


def share_geometry(comm, geometry: DetectorGeometry | None) -> DetectorGeometry:
    """Return the geometry of rank 0 on all ranks; collective.

    The positions of the pixels are in memory once per node.
    """
    if comm.size == 1:
        return geometry
    xyz = geometry.xyz if comm.rank == 0 else None
    about = comm.bcast(replace(geometry, xyz=xyz[:, :0]) if comm.rank == 0 else None)
    shape = 3, *about.detector.frame_shape
    # where shared memory has no room for it, every rank has its own
    return replace(about, xyz=mpi.share_from_root(comm, xyz, shape, np.float64, limit=sys.maxsize))


def _tiles(xyz: np.ndarray, detector: Detector) -> tuple[np.ndarray, np.ndarray]:
    """Return corners and bases of all tiles, by the first pixels of each."""
    n_ss, n_fs = detector.tile_shape
    # (module, ss of tile, fs of tile, coordinate)
    first, down, right = (
        np.moveaxis(xyz[:, :, a::n_ss, b::n_fs], 0, -1) for a, b in ((0, 0), (1, 0), (0, 1))
    )
    basis = np.stack([down - first, right - first], axis=-2)
    corners = first - basis.sum(axis=-2) / 2
    return corners.reshape(-1, 3), basis.reshape(-1, 2, 3)


def load_geometry(
    path: Path | None,
    detector: Detector,
    distance: float | None = None,
    motors: QuadrantMotors | None = None,
    offset: float | None = None,
    z_motor: ZMotor | None = None,
) -> tuple[DetectorGeometry, tuple[str, ...]]:
    """Load the geometry of a detector.

    Parameters
    ----------
    path : Path or None
        A CrystFEL geometry file; None for extra-geom's nominal quadrant positions.
    detector : Detector
    distance : float, optional
        Sample to detector in m; default: see `find_distance`.
    motors : QuadrantMotors, optional
        Where the quadrants' motors stood during the run. If the file says where they stood for
        its own positions (EXtra-geom's comments ``;XGEOM MOTOR…``), the quadrants are moved.
    offset : float, optional
        Distance in m where the detector's motor along the beam stands at 0.
    z_motor : ZMotor, optional
        Where that motor stood during the run.

    Returns
    -------
    geometry : DetectorGeometry
    warnings : tuple of str
        What the user should know: nominal positions, unknown distance.

    Raises
    ------
    InputError
        If the file cannot be read, or is not a geometry of such a detector.
    """
    # Slow to import, and needed on one rank only.
    import extra_geom

    of_detector = getattr(extra_geom, detector.geometry)
    if path is None:
        geometry, regions, text, found = nominal_geometry(detector), {}, "", []
        origin = "extra-geom's nominal quadrant positions"
        warnings = [
            "no geometry given: pixel positions are nominal, wrong by many pixels; "
            "give the experiment's .geom file"
        ]
    else:
        text = _text_of(path)
        found = geometry_file.statements(text)
        geometry_file.require_different_panels(found, path)
        geometry = _from_crystfel(of_detector, detector, path, text)
        # a moved geometry has lost them
        regions = geometry.metadata["crystfel"]["bad"]
        geometry, origin, warnings = _placed(geometry, detector, path, text, found, motors)
        warnings += geometry_file.unapplied(found, regions, path)
        warnings += geometry_file.other_panels(found, detector, path)
    along = find_distance(path, text, found, distance, offset, z_motor)
    warnings += along.warnings
    arrays = _arrays(geometry, detector, along, origin)
    if path is not None:
        warnings += implausible_panels(arrays, path)
    bad = geometry_file.bad_pixels(regions, arrays.xyz, geometry.pixel_size, _tile_slices(detector))
    if bad is not None:
        described = f"{arrays.description}, {int(bad.sum()):,} pixels in bad regions"
        arrays = replace(arrays, bad=bad, description=described)
    used = () if path is None else (UsedFile("geometry", str(path)),)
    return replace(arrays, files=used), tuple(warnings)


def nominal_geometry(detector: Detector):
    """Return extra-geom's nominal geometry of a detector."""
    import extra_geom

    of_detector = getattr(extra_geom, detector.geometry)
    # of a class for any number of modules, that of its arrays is not known
    any_number = not of_detector.expected_data_shape[0]
    return of_detector.example(**({"n_modules": detector.n_modules} if any_number else {}))


def _text_of(path: Path) -> str:
    if not path.exists():
        raise InputError(f"{path}: no such file (geometry)")
    return geometry_file.read_text(path)


def _placed(
    geometry,
    detector: Detector,
    path: Path,
    text: str,
    found: list[tuple[str, str]],
    motors: QuadrantMotors | None,
):
    """Return the geometry where the file's shift and the motors put it, its origin, warnings."""
    shift, complaints = geometry_file.detector_shift(found, path)
    geometry = geometry.offset(shift) if shift.any() else geometry
    warnings = complaints + geometry_file.odd_lines(text, path)
    warnings += geometry_file.unused_statements(found, path)
    geometry, moved, complaints = _moved(geometry, detector, path, text, motors)
    origin = f"{path}{moved}"
    if shift.any():
        origin += f", shifted by {shift[0] * 1e3:+.3f} {shift[1] * 1e3:+.3f} mm"
    return geometry, origin, warnings + complaints


def _from_crystfel(of_detector: type, detector: Detector, path: Path, text: str):
    """Read a CrystFEL geometry with extra-geom."""
    # only rank 0 reads one
    import tempfile

    try:
        with tempfile.NamedTemporaryFile("w", suffix=".geom", encoding="utf-8") as cleaned:
            cleaned.write(geometry_file.text_for_parser(text))
            cleaned.flush()
            return of_detector.from_crystfel_geom(cleaned.name)
    except KeyError as error:
        # extra-geom looks panels up by (module, first ss, first fs).
        raise InputError(f"{path}: not a geometry of {detector.title}: no {error}") from error
    # The parser raises many classes on what it cannot read, and its message is the useful part.
    except Exception as error:
        reason = " ".join(str(part) for part in error.args) or type(error).__name__
        raise InputError(
            f"{path}: not a CrystFEL geometry of {detector.title}: {shortened(reason, 300)}"
        ) from error


def _moved(
    geometry, detector: Detector, path: Path, text: str, motors: QuadrantMotors | None
) -> tuple[object, str, list[str]]:
    """Move the quadrants to where the run's motors stood; return what the log should say, too.

    Motor positions of the file and axes of motion are EXtra-geom's (``AGIPD_1MMotors``), in mm.
    """
    import extra_geom.motors

    mover = getattr(extra_geom.motors, detector.motors.geometry, None)
    reference = getattr(geometry, "motor_positions", None)
    comments = _MOTOR_COMMENT.search(text)
    if reference is None and not comments:
        return geometry, "", []
    why_not = ""
    if reference is None:
        why_not = f"{path}: its motor comments are damaged"
    elif mover is None or reference.shape != mover.default_motor_axes.shape[:2]:
        why_not = f"{path}: has motors of another detector"
    elif motors is None:
        why_not = f"{path} has motor positions, but the run has none"
    elif np.isnan(motors.positions).any():
        missing = ", ".join(f"Q{q + 1}M{m + 1}" for q, m in np.argwhere(np.isnan(motors.positions)))
        why_not = f"the run has no positions of motor {missing} of {motors.device}"
    if why_not:
        return geometry, "", [f"{why_not}; the quadrants stay as in the file"]
    complaints = []
    if motors.travel.max() > _MOTION:
        q, m = np.unravel_index(motors.travel.argmax(), motors.travel.shape)
        name, far = f"{motors.device}Q{q + 1}M{m + 1}", motors.travel.max() * 1e3
        complaints.append(
            f"{name} moved by {far:.3f} mm during the run; its median position is used"
        )
    shift = motors.positions * 1e3 - reference
    by = ", ".join(f"Q{q + 1} {a:+.3f} {b:+.3f}" for q, (a, b) in enumerate(shift))
    moved = f", quadrants moved with the motors {motors.device} by {by} mm"
    return mover(geometry).geom_at(motors.positions * 1e3), moved, complaints


def first_pixels(detector: Detector) -> np.ndarray:
    """Return the first pixel of each tile of a module, int (tile,), in EXtra-geom's order.

    EXtra-geom counts the tiles of an LPD in another order than its data have them: counter-
    clockwise from the top right. The data's order is that of ascending first pixels.
    """
    import extra_geom

    numbers = np.arange(detector.module_pixels).reshape(detector.module_shape)
    parts = getattr(extra_geom, detector.geometry).split_tiles(numbers)
    return np.array([int(part.flat[0]) for part in parts])


def _tile_slices(detector: Detector) -> list[tuple[slice, slice]]:
    """Return rows and columns of each tile of a module, in EXtra-geom's order."""
    n_ss, n_fs = detector.tile_shape
    places = (divmod(int(first), detector.module_shape[1]) for first in first_pixels(detector))
    return [(slice(ss, ss + n_ss), slice(fs, fs + n_fs)) for ss, fs in places]


def _arrays(geometry, detector: Detector, along: Distance, origin: str) -> DetectorGeometry:
    """Turn an extra-geom geometry into arrays."""
    distance = along.metres
    xyz = np.ascontiguousarray(np.moveaxis(geometry.get_pixel_positions(), -1, 0))
    nearest, farthest = xyz[2].min() * 1e3, xyz[2].max() * 1e3
    xyz[2] += distance
    order = np.argsort(first_pixels(detector))
    tiles = [module[tile] for module in geometry.modules for tile in order]
    corner = np.array([tile.corner_pos for tile in tiles], np.float64)
    corner[:, 2] += distance
    basis = np.array([(tile.ss_vec, tile.fs_vec) for tile in tiles], np.float64)
    first = slice(None, None, len(geometry.modules[0]))
    description = f"{origin}, {along.words()}"
    if nearest or farthest:
        description += f", panels {nearest:+.3f} to {farthest:+.3f} mm along the beam from there"
    return DetectorGeometry(
        xyz,
        corner[first],
        basis[first],
        distance,
        description,
        detector,
        tile_corners=corner,
        tile_basis=basis,
        along=along.source,
    )
