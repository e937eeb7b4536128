"""Checkpoints of a run that is still being written: which of them hold when it has more frames.

What the pass makes of a frame depends on the frame, where it is read, and which of its pixels
count. A checkpoint of such a run says all of this of its own frames, so that frames that come later
do not make it useless.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.frame_table import FrameTable, ModuleFile


def digest_frames(frames: FrameTable, files: tuple[ModuleFile, ...]) -> str:
    """Return a digest of frames and of the files that they are read from.

    It does not depend on which other files the run has, or in which folder they are.

    Parameters
    ----------
    frames : FrameTable
    files : tuple of ModuleFile
        Of the run; the files of `frames` are numbers of these.
    """
    file = frames.file
    used = np.unique(file[file >= 0]).tolist()
    used.sort(key=lambda n: (files[n].module, Path(files[n].path).name))
    about = [
        [Path(f.path).name, f.module, f.dataset, f.stamp] for f in map(files.__getitem__, used)
    ]
    digest = hashlib.blake2b(json.dumps(about).encode(), digest_size=16)
    number = np.full(len(files) + 1, -1, np.int32)
    number[used] = np.arange(len(used))
    row = np.where(file < 0, 0, frames.row)
    for array in (frames.train_id, frames.cell_id, frames.pulse_id, number[file], row):
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def digest_masks(masks: Masks, cells: Iterable[int]) -> dict[str, str]:
    """Return a digest of the good pixels of every memory cell, by its number.

    Parameters
    ----------
    masks : Masks
    cells : iterable of int
        Cells of the run.
    """
    of_row: dict[int, str] = {}
    found = {}
    for cell in cells:
        row = int(masks.row_of_cell[cell])
        if row not in of_row:
            digest = hashlib.blake2b(str(masks.frame_bits).encode(), digest_size=8)
            digest.update(np.ascontiguousarray(masks.good[:, row]))
            digest.update(np.ascontiguousarray(masks.region))
            of_row[row] = digest.hexdigest()
        found[str(int(cell))] = of_row[row]
    return found


def ranges_of_trains(trains: np.ndarray, train_id: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Return the rows of trains in a table as ranges (first, end), ascending; none if one lacks.

    Parameters
    ----------
    trains : ndarray, uint64 (train,)
        Ascending.
    train_id : ndarray, uint64 (frame,)
        Of the table, ascending.
    """
    first = np.searchsorted(train_id, trains, "left")
    end = np.searchsorted(train_id, trains, "right")
    if not len(trains) or (first == end).any():
        return ()
    breaks = np.flatnonzero(first[1:] != end[:-1]) + 1
    starts, ends = first[np.r_[0, breaks]], end[np.r_[breaks - 1, len(end) - 1]]
    return tuple(zip(starts.tolist(), ends.tolist(), strict=True))
