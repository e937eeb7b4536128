"""The frames of CXI files as sparse frames, block by block, for commands that write them again."""

from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.io.dataset_storage import frame_places
from xfelmpi.io.input_file import finished_file
from xfelmpi.output.cxi.mask_bits import CXI_BAD
from xfelmpi.output.cxi.reader import DETECTOR
from xfelmpi.output.hit_columns import DETECTOR as IN_ENTRY

BLOCK_FRAMES = 8
"""Frames of a block, read dense: 1 or 2 MiB each."""

_MASKS_KEPT = 400
"""Different masks that are kept as bits, 128 KiB each: those of all cells."""


def stream_hits(paths: list[Path], source: np.ndarray, row: np.ndarray) -> Iterator[SparseFrames]:
    """Yield hits of several files as sparse frames, in blocks of `BLOCK_FRAMES` at most.

    Bad pixels are entries with count 0, all of them: such frames go with masks that call every
    pixel good.

    Parameters
    ----------
    paths : list of Path
    source : ndarray, int (hit,)
        Which file each hit is in, ascending.
    row : ndarray, int (hit,)
        Which hit of that file it is.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    for number in np.unique(source):
        rows = row[source == number]
        with finished_file(paths[number], "a CXI file") as file:
            data, masks = file[f"{DETECTOR}/data"], _Masks(file[f"{DETECTOR}/mask"], rows)
            for a in range(0, len(rows), BLOCK_FRAMES):
                part = rows[a : a + BLOCK_FRAMES]
                yield SparseFrames.join([_sparse(data[i], masks.bad(i)) for i in part])


class _Masks:
    """Bad pixels of some frames; masks that share a chunk are read once.

    Parameters
    ----------
    masks : h5py.Dataset
    rows : ndarray, int (frame,)
        Which frames.
    bits : int
        Bits of the masks that make a pixel bad.
    """

    def __init__(self, masks: h5py.Dataset, rows: np.ndarray, bits: int = 0xFFFFFFFF):
        self._masks, self._bits = masks, np.uint32(bits)
        self._known: dict[int, np.ndarray] = {}
        self._place = dict(zip(rows.tolist(), frame_places(masks, rows).tolist(), strict=True))

    def bad(self, row: int) -> np.ndarray:
        """Return the bad pixels of a frame, bool (pixel,)."""
        place = self._place[row]
        if place not in self._known:
            if len(self._known) == _MASKS_KEPT:
                self._known.clear()
            self._known[place] = np.packbits(self._masks[row] & self._bits != 0)
        return np.unpackbits(self._known[place]).view(bool)


def stream_masked(
    path: Path,
    entry: str,
    rows: range,
    bad_in: Callable[[int], np.ndarray],
) -> Iterator[SparseFrames]:
    """Yield frames of one file, with further bad pixels, as `stream_hits` yields hits.

    Bad pixels are entries with count 0, as in `stream_hits`, but not those that are only missing.

    Parameters
    ----------
    path : Path
    entry : str
    rows : range
        Which frames.
    bad_in : callable
        Returns the further bad pixels of one of the rows, bool (pixel,).

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    if not len(rows):
        return
    with finished_file(path, "a CXI file") as file:
        data, mask = (file[f"{entry}/{IN_ENTRY}/{d}"] for d in ("data", "mask"))
        masks = _Masks(mask, np.array(rows), CXI_BAD)
        for a in range(rows.start, rows.stop, BLOCK_FRAMES):
            part = range(a, min(a + BLOCK_FRAMES, rows.stop))
            yield SparseFrames.join([_sparse(data[i], bad_in(i) | masks.bad(i)) for i in part])


def _sparse(data: np.ndarray, bad: np.ndarray) -> SparseFrames:
    data, bad = data.reshape(-1), bad.reshape(-1)
    pixel = np.flatnonzero(bad | (data > 0))
    count = np.where(bad[pixel], 0, data[pixel]).astype(np.uint16)
    return SparseFrames(np.array([0, len(pixel)], np.int64), pixel.astype(np.uint32), count)
