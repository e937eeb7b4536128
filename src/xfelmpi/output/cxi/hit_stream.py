"""The frames of CXI files as sparse frames, block by block, for commands that write them again."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.io.input_file import finished_file
from xfelmpi.output.cxi.mask_bits import CXI_BAD
from xfelmpi.output.cxi.reader import DETECTOR
from xfelmpi.output.hit_columns import DETECTOR as IN_ENTRY

BLOCK_FRAMES = 8
"""Frames of a block, read dense: 1 or 2 MiB each."""


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
            data, mask = file[f"{DETECTOR}/data"], file[f"{DETECTOR}/mask"]
            for a in range(0, len(rows), BLOCK_FRAMES):
                part = rows[a : a + BLOCK_FRAMES]
                yield SparseFrames.join([_sparse(data[i], mask[i] != 0) for i in part])


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
        for a in range(rows.start, rows.stop, BLOCK_FRAMES):
            part = range(a, min(a + BLOCK_FRAMES, rows.stop))
            own = (mask[i].reshape(-1) & np.uint32(CXI_BAD) != 0 for i in part)
            yield SparseFrames.join(
                [_sparse(data[i], bad_in(i) | its) for i, its in zip(part, own, strict=True)]
            )


def _sparse(data: np.ndarray, bad: np.ndarray) -> SparseFrames:
    data, bad = data.reshape(-1), bad.reshape(-1)
    pixel = np.flatnonzero(bad | (data > 0))
    count = np.where(bad[pixel], 0, data[pixel]).astype(np.uint16)
    return SparseFrames(np.array([0, len(pixel)], np.int64), pixel.astype(np.uint32), count)
