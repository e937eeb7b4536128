"""What the report and the Python interface read of a CXI file: its arrays, and single hits."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.calibration.plausible_geometry import FARTHEST_PIXEL
from xfelmpi.core.errors import InputError
from xfelmpi.io.checked import checked_array, checked_text
from xfelmpi.io.dataset_storage import frame_places
from xfelmpi.io.input_file import finished_file
from xfelmpi.output.cxi.reader import (
    DETECTOR,
    ENTRY,
    check_frames,
    pixel_positions,
    read_background,
)


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
        detector = file[DETECTOR]
        xyz = pixel_positions(detector)
        rows = checked_array(file, f"{ENTRY}/vds_index", np.uint64, (None,))
        check_frames(detector, len(rows))
        sizes = [checked_array(detector, f"{a}_pixel_size", np.float64, ()) for a in "xy"]
        if not 0 < min(sizes) < FARTHEST_PIXEL:
            raise ValueError(f"pixels of {sizes} m")
        return HitFile(
            path,
            checked_text(file, f"{ENTRY}/sample_1/name"),
            checked_text(file, f"{ENTRY}/start_time") if "entry_1/start_time" in file else "",
            xyz.reshape(3, -1),
            _run_background(detector, xyz.shape[1:]).reshape(-1),
            rows.astype(np.int64),
            float(min(sizes)),
        )


def _run_background(detector: h5py.Group, frame: tuple[int, ...]) -> np.ndarray:
    """Return the mean of the run, float32 (module, ss, fs)."""
    background, _ = read_background(detector, frame)
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
        photons, mask = (file[DETECTOR][name] for name in ("data", "mask"))
        place = int(frame_places(mask, np.array([hit]))[0])
        if place not in known:
            known[place] = mask[hit].reshape(-1) == 0
        return photons[hit].reshape(-1), known[place]
