"""Which frames' own masks are compared, to tell pixels that are bad in all frames from others."""

from dataclasses import dataclass

import numpy as np

from xfelmpi.core.frame_table import FrameTable

LATER_PLACES = 2
"""How often, after its first trains, the run is looked at again: evenly, and once at its end."""

CHECKED_CELLS = 8
"""Cells that are looked at there."""


@dataclass(frozen=True)
class CellFrames:
    """A few frames of every module and cell.

    Parameters
    ----------
    file : ndarray, int32 (module, cell, n)
        Index of the file, -1 where there is no such frame.
    row : ndarray, int32 (module, cell, n)
        Row in that file's dataset.
    """

    file: np.ndarray
    row: np.ndarray

    def of_cells(self, cells) -> "CellFrames":
        """Return the frames of some of the cells, by index."""
        return CellFrames(self.file[:, cells], self.row[:, cells])


@dataclass(frozen=True)
class MaskSamples:
    """The frames whose masks say what is bad all the time, small enough to send to every rank.

    Parameters
    ----------
    first : CellFrames
        Of the first trains, all cells of the run.
    checked : ndarray, int64 (cell,)
        Some of these cells, by index.
    later : tuple of CellFrames
        Of later trains, those cells.
    """

    first: CellFrames
    checked: np.ndarray
    later: tuple[CellFrames, ...]


def sample_masks(frames: FrameTable, cells: np.ndarray, n: int) -> MaskSamples:
    """Choose the frames whose masks are compared.

    Parameters
    ----------
    frames : FrameTable
        Of the whole run.
    cells : ndarray, int (cell,)
        Cells of the run, ascending.
    n : int
        Trains. A module without some of a cell's first frames has its first ones later.
    """
    trains = np.unique(frames.train_id)
    checked = np.unique(np.linspace(0, len(cells) - 1, CHECKED_CELLS).round().astype(np.int64))
    starts = np.linspace(0, max(len(trains) - n, 0), LATER_PLACES + 1).round().astype(int)
    later = tuple(
        _first_frames(frames[np.searchsorted(frames.train_id, trains[start]) :], cells[checked], n)
        for start in sorted(set(starts.tolist()) - {0})
    )
    return MaskSamples(_first_frames(frames, cells, n), checked, later)


def _first_frames(frames: FrameTable, cells: np.ndarray, n: int) -> CellFrames:
    shape = (frames.n_modules, len(cells), n)
    found = CellFrames(*(np.full(shape, -1, np.int32) for _ in range(2)))
    # by cell, and in each by train
    order = np.argsort(frames.cell_id, kind="stable")
    order = order[np.isin(frames.cell_id[order], cells)]
    index = np.searchsorted(cells, frames.cell_id[order])
    for module in range(frames.n_modules):
        has = frames.file_of(order, module) >= 0
        cell = index[has]
        place = np.arange(len(cell)) - np.searchsorted(cell, np.arange(len(cells)))[cell]
        few = place < n
        at, (cell, place) = order[has][few], (cell[few], place[few])
        found.file[module, cell, place] = frames.file_of(at, module)
        found.row[module, cell, place] = frames.row[at, module]
    return found
