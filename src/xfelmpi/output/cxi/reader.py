"""The CXI file of a finished run, read back: all but the frames."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.calibration.distance import LONGEST_DISTANCE
from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.calibration.plausible_geometry import FARTHEST_PIXEL
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.known import detector_of_modules
from xfelmpi.detectors.module_bits import bits_of
from xfelmpi.io.checked import check_stored, checked_array, checked_attribute, checked_text
from xfelmpi.io.input_file import finished_file
from xfelmpi.output.cxi.mask_bits import CXI_MISSING
from xfelmpi.output.hit_columns import DETECTOR as IN_ENTRY
from xfelmpi.output.hit_columns import INSTRUMENT

ENTRY = "entry_1"
DETECTOR = f"{ENTRY}/{IN_ENTRY}"


@dataclass(frozen=True)
class HitColumn:
    """A value per hit.

    Parameters
    ----------
    values : ndarray (hit,)
    attributes : dict
        Units and so on.
    """

    values: np.ndarray
    attributes: dict


@dataclass(frozen=True, kw_only=True)
class FinishedHits:
    """What a CXI file has besides the frames.

    Parameters
    ----------
    columns : dict of HitColumn
        By path below the entry.
    modules : int
        Bit m set: module m is in the run; 0 without hits.
    start_time, sample, instrument, proposal : str
    geometry : DetectorGeometry
    good_pixels : ndarray, bool (module, ss, fs)
    powder : ndarray, uint64 (module, ss, fs)
    background : ndarray, float32 (module, ss, fs) or (run, module, ss, fs)
    background_cell : ndarray, int32 (background,), or None
        Of a file with backgrounds of memory cells: -1, that of all, which `background` is, and the
        cells of the others.
    configuration : dict
        The options that the run was processed with, as JSON has them.
    """

    columns: dict[str, HitColumn]
    modules: int
    start_time: str
    sample: str
    instrument: str
    proposal: str
    geometry: DetectorGeometry
    good_pixels: np.ndarray
    powder: np.ndarray
    background: np.ndarray
    background_cell: np.ndarray | None = None
    configuration: dict = field(default_factory=dict)


def read_finished_hits(path: Path) -> FinishedHits:
    """Read all but the frames of a CXI file; one rank.

    Raises
    ------
    InputError
        If it is missing, damaged, or not made by this program.
    """
    with finished_file(path, "a CXI file") as file:
        columns = _columns(file[ENTRY])
        detector = file[DETECTOR]
        n_hits = len(columns["trainId"].values)
        if lengths := {
            path: len(c.values) for path, c in columns.items() if len(c.values) != n_hits
        }:
            raise ValueError(f"{n_hits} hits, but columns of other lengths: {lengths}")
        check_frames(detector, n_hits)
        xyz = pixel_positions(detector)
        frame = xyz.shape[1:]
        good = checked_array(detector, "good_pixels", bool, frame)
        powder = checked_array(detector, "powder", np.uint64, frame)
        background, cells = read_background(detector, frame)
        modules = 0
        if n_hits:
            missing = detector["mask"][0, :, 0, 0] & CXI_MISSING
            modules = int(bits_of(missing == 0))
        geometry = _geometry(detector, xyz, path)
        return FinishedHits(
            columns=columns,
            modules=modules,
            start_time=checked_text(file, f"{ENTRY}/start_time"),
            sample=checked_text(file, f"{ENTRY}/sample_1/name"),
            instrument=checked_text(file, f"{ENTRY}/{INSTRUMENT}/name"),
            proposal=checked_attribute(file, "proposal", str),
            geometry=geometry,
            good_pixels=good,
            powder=powder,
            background=background,
            background_cell=cells,
            configuration=_configuration(file),
        )


def _configuration(file: h5py.File) -> dict:
    found = json.loads(checked_attribute(file, "configuration", str))
    if not isinstance(found, dict):
        raise ValueError(f"configuration: {str(found)[:40]!r}, expected the options of a job")
    return found


def read_background(
    detector: h5py.Group, frame: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the mean of the run, or one for each run of merged hits, and `background_cell`."""
    dataset = detector["background"]
    if "background_cell" not in detector:
        # merged hits have one for each run
        several = (None,) if dataset.ndim == 1 + len(frame) else ()
        return checked_array(detector, "background", np.float32, (*several, *frame)), None
    cells = checked_array(detector, "background_cell", np.int32, (None,))
    if not len(cells) or cells[0] != -1 or (np.diff(cells) <= 0).any():
        raise ValueError("background_cell: expected -1, and memory cells in ascending order")
    _check_rows(dataset, len(cells), frame)
    # those of all cells may take gigabytes
    return dataset[0], cells


def _check_rows(dataset: h5py.Dataset, n: int, frame: tuple[int, ...]) -> None:
    if dataset.dtype != np.float32 or dataset.shape != (n, *frame):
        raise ValueError(
            f"background is {dataset.dtype} {dataset.shape}, expected float32 {(n, *frame)}"
        )
    check_stored(dataset)


def read_cell_backgrounds(path: Path) -> np.ndarray | None:
    """Return the backgrounds of memory cells, float32 (cell, module, ss, fs); one rank.

    Without that of all, the first; None if the file has none.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    with finished_file(path, "a CXI file") as file:
        detector = file[DETECTOR]
        _, cells = read_background(detector, detector["xyz_map"].shape[1:])
        return None if cells is None else detector["background"][1:]


def read_entry(path: Path, entry: str) -> tuple[str, dict[str, HitColumn]] | None:
    """Return title and columns of an entry, None if the file has none of that name.

    Raises
    ------
    InputError
        If they are damaged.
    """
    with finished_file(path, "a CXI file") as file:
        if entry not in file:
            return None
        columns = _columns(file[entry])
        check_frames(file[f"{entry}/{IN_ENTRY}"], len(columns["trainId"].values))
        return checked_text(file, f"{entry}/title"), columns


def read_hit_columns(path: Path) -> dict[str, HitColumn]:
    """Return the values per hit of a CXI file, also of merged runs, by path below the entry.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    with finished_file(path, "a CXI file") as file:
        return _columns(file[ENTRY])


def read_weighting(path: Path) -> np.ndarray:
    """Return what scales the background to each hit, float64 (hit,); likewise.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    with finished_file(path, "a CXI file") as file:
        return checked_array(file[DETECTOR], "background_weighting", np.float64, (None,))


def read_positions(path: Path) -> np.ndarray:
    """Return the centres of the pixels in m, float64 (3, module, ss, fs); likewise.

    Raises
    ------
    InputError
        If they are missing or damaged.
    """
    with finished_file(path, "a CXI file") as file:
        return pixel_positions(file[DETECTOR])


def read_detector(path: Path) -> Detector:
    """Return what kind of detector the hits are of; likewise.

    Raises
    ------
    InputError
        If the file does not tell.
    """
    with finished_file(path, "a CXI file") as file:
        return _detector_of(file[DETECTOR])


def _detector_of(detector: h5py.Group) -> Detector:
    names = detector["module_identifier"]
    check_stored(names)
    return detector_of_modules(names.asstr()[()].tolist())


def check_frames(detector: h5py.Group, n_hits: int) -> None:
    """Check type and shape of the datasets of frames, of which each hit has one."""
    for name, dtypes in (("data", (np.uint8, np.uint16)), ("mask", (np.uint32,))):
        dataset, frame = detector[name], detector["xyz_map"].shape[1:]
        if dataset.dtype not in dtypes or dataset.shape != (n_hits, *frame):
            raise ValueError(
                f"{name} is {dataset.dtype} {dataset.shape}, but there are {n_hits} hits"
            )
        check_stored(dataset, known_shape=True)


def pixel_positions(detector: h5py.Group) -> np.ndarray:
    """Return the centres of the pixels in m, float64 (3, module, ss, fs)."""
    xyz = checked_array(detector, "xyz_map", np.float64, (3, None, None, None))
    if not np.isfinite(xyz[:2]).all() or np.abs(xyz[:2]).max(initial=0) > FARTHEST_PIXEL:
        raise ValueError("xyz_map has pixels that are nowhere on a detector")
    # without a distance, z is NaN
    if (np.abs(xyz[2]) > LONGEST_DISTANCE).any() or not xyz.any(axis=0).all():
        raise ValueError("xyz_map has pixels at the sample, or too far from it")
    return xyz


def _geometry(detector: h5py.Group, xyz: np.ndarray, path: Path) -> DetectorGeometry:
    tiles = {}
    # older files have none
    if "tile_corner_position" in detector:
        tiles = {
            "tile_corners": checked_array(detector, "tile_corner_position", np.float64, (None, 3)),
            "tile_basis": checked_array(detector, "tile_basis_vectors", np.float64, (None, 2, 3)),
        }
    return DetectorGeometry(
        xyz,
        checked_array(detector, "corner_position", np.float64, (len(xyz[0]), 3)),
        checked_array(detector, "basis_vectors", np.float64, (len(xyz[0]), 2, 3)),
        float(checked_array(detector, "distance", np.float64, ())),
        str(path),
        _detector_of(detector),
        **tiles,
    )


def _columns(entry: h5py.Group) -> dict[str, HitColumn]:
    """Return everything that has one row per hit, by its path in the entry."""
    found = {}

    def visit(path, item):
        """Take a dataset that has one row per hit."""
        # frames have more axes
        if isinstance(item, h5py.Dataset) and item.attrs.get("axes") == "experiment_identifier":
            attributes = {name: value for name, value in item.attrs.items() if name != "axes"}
            if item.ndim < 1:
                raise ValueError(f"{path} has no rows")
            values = checked_array(entry, path, item.dtype, (None, *item.shape[1:]))
            found[path] = HitColumn(values, attributes)

    entry.visititems(visit)
    return found
