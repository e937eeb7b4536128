"""The corrected data's own masks, ``image/mask``: which frames' are looked at, and reading them.

A corrected file holds 32 bits per pixel and frame. Almost all of what they say is the same in every
train, by memory cell; the rest comes and goes from frame to frame.
"""

from dataclasses import dataclass

import numpy as np

from xfelmpi._kernels import _masks
from xfelmpi.core.frame_table import FrameTable
from xfelmpi.detectors.agipd import MODULE_BYTES, MODULE_PIXELS, N_MODULES
from xfelmpi.run.frames.file_pool import FilePool
from xfelmpi.run.frames.frame_dataset import UNREADABLE, packed_room

LATER_PLACES = 2
"""How often, after its first trains, the run is looked at again: evenly, and once at its end."""

CHECKED_CELLS = 8
"""Cells that are looked at there."""

_DENSE_AT_ONCE = 32
"""Masks of 256 KiB that are in memory together, where HDF5 has to read them."""


@dataclass(frozen=True)
class CellFrames:
    """A few frames of every module and cell.

    Parameters
    ----------
    file : ndarray, int32 (16, cell, n)
        Index of the file, -1 where there is no such frame.
    row : ndarray, int32 (16, cell, n)
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
        Trains. A module that lacks some of a cell's first frames has its first ones later.
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
    found = CellFrames(*(np.full((N_MODULES, len(cells), n), -1, np.int32) for _ in range(2)))
    # by cell, and in each by train
    order = np.argsort(frames.cell_id, kind="stable")
    order = order[np.isin(frames.cell_id[order], cells)]
    index = np.searchsorted(cells, frames.cell_id[order])
    for module in range(N_MODULES):
        has = frames.file[order, module] >= 0
        cell = index[has]
        place = np.arange(len(cell)) - np.searchsorted(cell, np.arange(len(cells)))[cell]
        few = place < n
        at, (cell, place) = order[has][few], (cell[few], place[few])
        found.file[module, cell, place] = frames.file[at, module]
        found.row[module, cell, place] = frames.row[at, module]
    return found


class MaskReader:
    """Reads masks of frames, with one set of buffers.

    Parameters
    ----------
    files : FilePool
    """

    def __init__(self, files: FilePool):
        self._files = files
        self._packed = self._packed_before = self._spare = self._dense = np.empty(1, np.uint8)
        self.bytes_read = 0

    def bad_pixels(self, number: int, rows: np.ndarray, bits: int):
        """Read masks of one file and return the pixels of which any of the bits is set.

        Parameters
        ----------
        number : int
            The file.
        rows : ndarray, int (frame,)
        bits : int

        Returns
        -------
        bad : ndarray, uint8 (frame, 8192)
            Bits of the bad pixels.
        status : ndarray, uint8 (frame,)
            0, or a key of `read.FRAME_STATUS`: nothing is known of this frame.

        Raises
        ------
        OSError, KeyError, ValueError, RuntimeError
            If the file has no usable masks.
        """
        bad = np.zeros((len(rows), MODULE_BYTES), np.uint8)
        status = np.zeros(len(rows), np.uint8)
        _masks.fold_masks(*self._inputs(number, rows), bits, bad, status)
        return bad, status

    def join(self, number: int, rows: np.ndarray, slot: np.ndarray, held: np.ndarray) -> np.ndarray:
        """Keep only the bits that are set in these frames too; returns their status as above.

        Parameters
        ----------
        number : int
            The file.
        rows : ndarray, int (frame,)
            Best so that masks that are likely the same follow each other.
        slot : ndarray, int32 (frame,)
            Row of `held` that each belongs to.
        held : ndarray, uint32 (slot, 65536)

        Raises
        ------
        OSError, KeyError, ValueError, RuntimeError
            If the file has no usable masks.
        """
        masks = self._files.get(number).masks
        order = np.arange(len(rows))
        if len(np.unique(rows // masks.frames_per_chunk)) < len(rows):
            # a chunk of several frames is read once
            order = np.argsort(rows, kind="stable")
        # what HDF5 itself has to read is held dense
        at_once = max(1, len(rows)) if masks.direct else _DENSE_AT_ONCE
        status = np.zeros(len(rows), np.uint8)
        for a in range(0, len(rows), at_once):
            these = order[a : a + at_once]
            inputs = self._inputs(number, rows[these])
            if len(self._packed_before) < len(self._packed):
                self._packed_before = np.empty_like(self._packed)
            part = np.zeros(len(these), np.uint8)
            _masks.join_masks(*inputs, self._packed_before, self._spare, slot[these], held, part)
            status[these] = part
        return status

    def _inputs(self, number: int, rows: np.ndarray) -> tuple:
        """Locate the masks and return what both kernels take, in their order."""
        masks = self._files.get(number).masks
        source = masks.frames(np.minimum(rows, len(masks) - 1))
        source.offset[rows >= len(masks)] = UNREADABLE
        need = source.chunk_frames * MODULE_PIXELS * 4
        if len(self._dense) < need:
            self._dense, self._spare = np.empty((2, need), np.uint8)
            self._packed = np.empty(packed_room(need), np.uint8)
        _, chunks = np.unique(source.offset, return_index=True)
        self.bytes_read += int(source.size[chunks][source.offset[chunks] >= 0].sum())
        bytes_in = (source.fd, source.memory, source.offset, source.size, source.filters)
        bytes_in += (source.within, source.chunk_frames, masks.fill_value)
        return (*bytes_in, self._packed, self._dense)
