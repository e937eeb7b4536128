"""Which frames are hits and misses by an events file, found by train and cell, not by position."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xfelmpi import mpi
from xfelmpi.io.input_file import finished_file


@dataclass(frozen=True)
class HitLabels:
    """The frames of an events file, in ascending order of train and cell.

    Parameters
    ----------
    train_id : ndarray, uint64 (frame,)
    cell_id : ndarray, uint16 (frame,)
    is_hit, is_miss : ndarray, bool (frame,)
    """

    train_id: np.ndarray
    cell_id: np.ndarray
    is_hit: np.ndarray
    is_miss: np.ndarray

    def find(self, train_id: np.ndarray, cell_id: np.ndarray) -> np.ndarray:
        """Return the row of every frame asked for, int64 (frame,); -1: it is not there."""
        trains = np.unique(self.train_id)
        if not len(trains):
            return np.full(len(train_id), -1)

        def keys(train, cell):
            # 16 bits for the cell; the train by its number, because IDs may be 64 bits long
            number = np.minimum(np.searchsorted(trains, train), len(trains) - 1)
            key = number * 65536 + cell
            return np.where(trains[number] == train, key, -1)

        known, asked = keys(self.train_id, self.cell_id), keys(train_id, cell_id)
        row = np.minimum(np.searchsorted(known, asked), len(known) - 1)
        return np.where(known[row] == asked, row, -1)


_COLUMNS = {"trainId": np.uint64, "cellId": np.uint16, "is_hit": bool, "is_miss": bool}


def share_hit_labels(comm, path: Path) -> HitLabels | None:
    """Read an events file on rank 0 and give every node a copy; None if there is no file.

    Raises
    ------
    InputError
        On all ranks, if the file cannot be read.
    """
    columns = mpi.run_on_root(comm, lambda: _read(path) if path.exists() else None)
    n = comm.bcast(len(columns[0]) if columns else -1)
    if n < 0:
        return None
    return HitLabels(
        *(
            mpi.share_from_root(comm, columns[i] if columns else None, (n,), dtype)
            for i, dtype in enumerate(_COLUMNS.values())
        )
    )


def _read(path: Path) -> list[np.ndarray]:
    with finished_file(path, "an events file") as file:
        columns = [file[name][:].astype(dtype) for name, dtype in _COLUMNS.items()]
    order = np.lexsort(columns[1::-1])
    return [column[order] for column in columns]
