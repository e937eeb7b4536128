"""The CXI file of a finished run, read back: where the pixels are, and single hits."""

import os
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.detectors.agipd import FRAME_PIXELS
from xfelmpi.io.chunk_index import ChunkIndex, UnknownLayoutError
from xfelmpi.io.input_file import finished_file

_DETECTOR = "entry_1/instrument_1/detector_1"


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
    """

    path: Path
    sample: str
    start_time: str
    xyz: np.ndarray
    background: np.ndarray
    rows: np.ndarray


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
            detector["xyz_map"][()].reshape(3, FRAME_PIXELS),
            detector["background"][()].reshape(FRAME_PIXELS),
            file["entry_1/vds_index"][()].astype(np.int64),
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
            known[place] = mask[hit].reshape(FRAME_PIXELS) == 0
        return photons[hit].reshape(FRAME_PIXELS), known[place]


def _place(path: Path, dataset: h5py.Dataset, frame: int) -> int:
    """Return the byte of the file at which a frame begins, or a number of its own if unknown."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return int(ChunkIndex(fd, dataset).find(np.array([frame]))[0][0])
    except UnknownLayoutError:
        return -2 - frame
    finally:
        os.close(fd)
