"""The CXI file of a finished run, read back: all that stands once, columns, single hits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.calibration.distance import LONGEST_DISTANCE
from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.calibration.plausible_geometry import FARTHEST_PIXEL
from xfelmpi.core.errors import InputError
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.known import detector_of_modules
from xfelmpi.detectors.module_bits import bits_of
from xfelmpi.io.checked import check_stored, checked_array, checked_attribute, checked_text
from xfelmpi.io.chunk_index import ChunkIndex, UnknownLayoutError
from xfelmpi.io.dataset_storage import has_offsets, home_descriptor
from xfelmpi.io.input_file import finished_file
from xfelmpi.output.cxi.mask_bits import CXI_BAD, CXI_MISSING

_ENTRY = "entry_1"
_DETECTOR = f"{_ENTRY}/instrument_1/detector_1"


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


@dataclass(frozen=True)
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


def read_finished_hits(path: Path) -> FinishedHits:
    """Read all but the frames of a CXI file; one rank.

    Raises
    ------
    InputError
        If it is missing, damaged, or not made by this program.
    """
    with finished_file(path, "a CXI file") as file:
        columns = _columns(file[_ENTRY])
        detector = file[_DETECTOR]
        n_hits = len(columns["trainId"].values)
        if lengths := {
            path: len(c.values) for path, c in columns.items() if len(c.values) != n_hits
        }:
            raise ValueError(f"{n_hits} hits, but columns of other lengths: {lengths}")
        _check_frames(detector, n_hits)
        xyz = _positions(detector)
        frame = xyz.shape[1:]
        good = checked_array(detector, "good_pixels", bool, frame)
        powder = checked_array(detector, "powder", np.uint64, frame)
        background, cells = _background(detector, frame)
        modules = 0
        if n_hits:
            missing = detector["mask"][0, :, 0, 0] & CXI_MISSING
            modules = int(bits_of(missing == 0))
        geometry = _geometry(detector, xyz, path)
        return FinishedHits(
            columns,
            modules,
            checked_text(file, f"{_ENTRY}/start_time"),
            checked_text(file, f"{_ENTRY}/sample_1/name"),
            checked_text(file, f"{_ENTRY}/instrument_1/name"),
            checked_attribute(file, "proposal", str),
            geometry,
            good,
            powder,
            background,
            cells,
        )


def _background(
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
        detector = file[_DETECTOR]
        _, cells = _background(detector, detector["xyz_map"].shape[1:])
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
        _check_frames(file[f"{entry}/instrument_1/detector_1"], len(columns["trainId"].values))
        return checked_text(file, f"{entry}/title"), columns


def read_hit_columns(path: Path) -> dict[str, HitColumn]:
    """Return the values per hit of a CXI file, also of merged runs, by path below the entry.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    with finished_file(path, "a CXI file") as file:
        return _columns(file[_ENTRY])


def read_weighting(path: Path) -> np.ndarray:
    """Return what scales the background to each hit, float64 (hit,); likewise.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    with finished_file(path, "a CXI file") as file:
        return checked_array(file[_DETECTOR], "background_weighting", np.float64, (None,))


def read_positions(path: Path) -> np.ndarray:
    """Return the centres of the pixels in m, float64 (3, module, ss, fs); likewise.

    Raises
    ------
    InputError
        If they are missing or damaged.
    """
    with finished_file(path, "a CXI file") as file:
        return _positions(file[_DETECTOR])


def read_detector(path: Path) -> Detector:
    """Return what kind of detector the hits are of; likewise.

    Raises
    ------
    InputError
        If the file does not tell.
    """
    with finished_file(path, "a CXI file") as file:
        return _detector_of(file[_DETECTOR])


def _detector_of(detector: h5py.Group) -> Detector:
    names = detector["module_identifier"]
    check_stored(names)
    return detector_of_modules(names.asstr()[()].tolist())


def _check_frames(detector: h5py.Group, n_hits: int) -> None:
    """Check type and shape of the datasets of frames, of which each hit has one."""
    for name, dtypes in (("data", (np.uint8, np.uint16)), ("mask", (np.uint32,))):
        dataset, frame = detector[name], detector["xyz_map"].shape[1:]
        if dataset.dtype not in dtypes or dataset.shape != (n_hits, *frame):
            raise ValueError(
                f"{name} is {dataset.dtype} {dataset.shape}, but there are {n_hits} hits"
            )
        check_stored(dataset, known_shape=True)


def _positions(detector: h5py.Group) -> np.ndarray:
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


def stream_hits(
    paths: list[Path], source: np.ndarray, row: np.ndarray, block_frames: int
) -> Iterator[SparseFrames]:
    """Yield hits of several files as sparse frames, in blocks.

    Bad pixels are entries with count 0, all of them: such frames go with masks that call every
    pixel good.

    Parameters
    ----------
    paths : list of Path
    source : ndarray, int (hit,)
        Which file each hit is in, ascending.
    row : ndarray, int (hit,)
        Which hit of that file it is.
    block_frames : int
        Hits of a block, at most.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    for number in np.unique(source):
        rows = row[source == number]
        with finished_file(paths[number], "a CXI file") as file:
            data, mask = file[f"{_DETECTOR}/data"], file[f"{_DETECTOR}/mask"]
            for a in range(0, len(rows), block_frames):
                part = rows[a : a + block_frames]
                yield SparseFrames.join([_sparse(data[i], mask[i] != 0) for i in part])


def stream_masked(
    path: Path,
    entry: str,
    rows: range,
    bad_in: Callable[[int], np.ndarray],
    block_frames: int,
) -> Iterator[SparseFrames]:
    """Yield frames of one file as sparse frames, with further bad pixels, in blocks.

    Bad pixels are entries with count 0, as in `stream_hits`, but not those that are only missing.

    Parameters
    ----------
    path : Path
    entry : str
    rows : range
        Which frames.
    bad_in : callable
        Returns the further bad pixels of one of the rows, bool (pixel,).
    block_frames : int

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    if not len(rows):
        return
    with finished_file(path, "a CXI file") as file:
        data, mask = (file[f"{entry}/instrument_1/detector_1/{d}"] for d in ("data", "mask"))
        for a in range(rows.start, rows.stop, block_frames):
            part = range(a, min(a + block_frames, rows.stop))
            own = (mask[i].reshape(-1) & np.uint32(CXI_BAD) != 0 for i in part)
            yield SparseFrames.join(
                [_sparse(data[i], bad_in(i) | its) for i, its in zip(part, own, strict=True)]
            )


def _sparse(data: np.ndarray, bad: np.ndarray) -> SparseFrames:
    data, bad = data.reshape(-1), bad.reshape(-1)
    pixel = np.flatnonzero(bad | (data > 0))
    count = np.where(bad[pixel], 0, data[pixel]).astype(np.uint16)
    return SparseFrames(np.array([0, len(pixel)], np.int64), pixel.astype(np.uint32), count)


@dataclass(frozen=True)
class HitFile:
    """What stands once in the CXI file.

    Parameters
    ----------
    path : Path
    sample, start_time : str
        Empty if unknown.
    xyz : ndarray, float64 (3, pixel)
        Centres of the pixels in m; z is NaN if the distance is unknown.
    background : ndarray, float32 (pixel,)
        Mean photons per good frame over all non-hits, NaN where no frame was good.
    rows : ndarray, int64 (hit,)
        Rows of the hits in the events file.
    pixel_size : float
        Step from pixel to pixel in m, the shorter one.
    """

    path: Path
    sample: str
    start_time: str
    xyz: np.ndarray
    background: np.ndarray
    rows: np.ndarray
    pixel_size: float


def read_hit_file(path: Path) -> HitFile:
    """Read what stands once in a CXI file.

    Raises
    ------
    InputError
        If it is missing or not one of this program's.
    """
    with finished_file(path, "a CXI file") as file:
        detector = file[_DETECTOR]
        xyz = _positions(detector)
        rows = checked_array(file, f"{_ENTRY}/vds_index", np.uint64, (None,))
        _check_frames(detector, len(rows))
        sizes = [checked_array(detector, f"{a}_pixel_size", np.float64, ()) for a in "xy"]
        if not 0 < min(sizes) < FARTHEST_PIXEL:
            raise ValueError(f"pixels of {sizes} m")
        return HitFile(
            path,
            checked_text(file, f"{_ENTRY}/sample_1/name"),
            checked_text(file, f"{_ENTRY}/start_time") if "entry_1/start_time" in file else "",
            xyz.reshape(3, -1),
            _run_background(detector, xyz.shape[1:]).reshape(-1),
            rows.astype(np.int64),
            float(min(sizes)),
        )


def _run_background(detector: h5py.Group, frame: tuple[int, ...]) -> np.ndarray:
    """Return the mean of the run, float32 (module, ss, fs)."""
    background, _ = _background(detector, frame)
    if background.shape != frame:
        raise ValueError(f"background is {background.shape}, expected {frame}")
    return background


def check_rows(hit_file: HitFile, is_hit: np.ndarray, n_pixels: int) -> None:
    """Check that a CXI file has the hits of an events file.

    Parameters
    ----------
    hit_file : HitFile
    is_hit : ndarray, bool (frame,)
        Of the events file.
    n_pixels : int
        Of the detector.

    Raises
    ------
    InputError
        If it has others.
    """
    if hit_file.xyz.shape[1] != n_pixels:
        raise InputError(f"{hit_file.path}: {hit_file.xyz.shape[1]} pixels, expected {n_pixels}")
    if not np.array_equal(hit_file.rows, np.flatnonzero(is_hit)):
        raise InputError(
            f"{hit_file.path}: {len(hit_file.rows)} hits, which are not the {is_hit.sum()} of the "
            "events file; process the run again"
        )


def read_hit(
    path: Path, hit: int, good_by_place: dict[int, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read one hit, by its position in the CXI file.

    Parameters
    ----------
    path : Path
    hit : int
    good_by_place : dict, optional
        Gets the good pixels by the position of their mask in the file. Hits share masks, which take
        longer to read than their photons.

    Returns
    -------
    photons : ndarray, uint8 or uint16 (pixel,)
    good : ndarray, bool (pixel,)

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    known = {} if good_by_place is None else good_by_place
    with finished_file(path, f"hit {hit} in a CXI file") as file:
        photons, mask = (file[_DETECTOR][name] for name in ("data", "mask"))
        place = _place(mask, hit)
        if place not in known:
            known[place] = mask[hit].reshape(-1) == 0
        return photons[hit].reshape(-1), known[place]


def _place(dataset: h5py.Dataset, frame: int) -> int:
    """Return the byte of the file at which a frame begins, or a number of its own if unknown."""
    descriptor = home_descriptor(dataset)
    if descriptor is None or dataset.chunks is None or not has_offsets(dataset):
        return -2 - frame
    try:
        found = int(ChunkIndex(descriptor, dataset).find(np.array([frame]))[0][0])
    except UnknownLayoutError:
        return -2 - frame
    return found if found >= 0 else -2 - frame
