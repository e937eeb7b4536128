"""The CXI file of a finished run, read back: all that stands once, columns, single hits."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.module_bits import bits_of
from xfelmpi.io.chunk_index import ChunkIndex, UnknownLayoutError
from xfelmpi.io.input_file import finished_file
from xfelmpi.output.cxi.mask_bits import CXI_MISSING

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
    background : ndarray, float32 (module, ss, fs)
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
        for name in ("data", "mask"):
            if detector[name].shape != (n_hits, *detector["xyz_map"].shape[1:]):
                raise ValueError(f"{name} has shape {detector[name].shape}, but {n_hits} hits")
        modules = 0
        if n_hits:
            missing = detector["mask"][0, :, 0, 0] & CXI_MISSING
            modules = int(bits_of(missing == 0))
        geometry = DetectorGeometry(
            *(detector[name][()] for name in ("xyz_map", "corner_position", "basis_vectors")),
            float(detector["distance"][()]),
            str(path),
        )
        return FinishedHits(
            columns,
            modules,
            file[f"{_ENTRY}/start_time"][()].decode(),
            file[f"{_ENTRY}/sample_1/name"][()].decode(),
            file[f"{_ENTRY}/instrument_1/name"][()].decode(),
            str(file.attrs["proposal"]),
            geometry,
            *(detector[name][()] for name in ("good_pixels", "powder", "background")),
        )


def _columns(entry: h5py.Group) -> dict[str, HitColumn]:
    found = {}

    def visit(path, item):
        # frames have more axes
        if isinstance(item, h5py.Dataset) and item.attrs.get("axes") == "experiment_identifier":
            attributes = {name: value for name, value in item.attrs.items() if name != "axes"}
            found[path] = HitColumn(item[()], attributes)

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
                yield SparseFrames.join([_sparse(data[i], mask[i]) for i in part])


def _sparse(data: np.ndarray, mask: np.ndarray) -> SparseFrames:
    data, bad = data.reshape(-1), mask.reshape(-1) != 0
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
        return HitFile(
            path,
            file["entry_1/sample_1/name"].asstr("utf-8")[()],
            file["entry_1/start_time"].asstr()[()] if "entry_1/start_time" in file else "",
            detector["xyz_map"][()].reshape(3, -1),
            detector["background"][()].reshape(-1),
            file["entry_1/vds_index"][()].astype(np.int64),
            min(float(detector[f"{axis}_pixel_size"][()]) for axis in "xy"),
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
        Gets the good pixels by where their mask stands in the file. Hits share masks, which take
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
        place = _place(path, mask, hit)
        if place not in known:
            known[place] = mask[hit].reshape(-1) == 0
        return photons[hit].reshape(-1), known[place]


def _place(path: Path, dataset: h5py.Dataset, frame: int) -> int:
    """Return the byte of the file at which a frame begins, or a number of its own if unknown."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return int(ChunkIndex(fd, dataset).find(np.array([frame]))[0][0])
    except UnknownLayoutError:
        return -2 - frame
    finally:
        os.close(fd)
