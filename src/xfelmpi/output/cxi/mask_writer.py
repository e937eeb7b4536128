"""Masks of many frames, of which every different one is stored once.

Most frames have the mask of their memory cell, and only those with pixels that are bad in this
frame alone have one of their own.
"""

from hashlib import blake2b

import numpy as np

from xfelmpi._kernels._deflate import Deflater
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.module_bits import modules_of
from xfelmpi.detectors.pixel_bits import unpack
from xfelmpi.io.chunk_writer import ChunkAppender
from xfelmpi.mpi import allgather_concat
from xfelmpi.output.cxi.mask_bits import CXI_BAD, CXI_MISSING

_LEVEL = 2
_DIGEST_BYTES = 16


class MaskDeduplicator:
    """Finds out which masks are new, and makes their chunks.

    Parameters
    ----------
    comm : Intracomm
    packed : ChunkAppender
        Where the chunks will be.
    masks : Masks
    modules_in_run : int
        Bit field of the modules that the run has; the pixels of others are missing.
    """

    def __init__(self, comm, packed: ChunkAppender, masks: Masks, modules_in_run: int):
        self._comm = comm
        self._packed = packed
        self._masks = masks
        absent = (~modules_of(modules_in_run, masks.n_modules)).astype(np.uint8)
        self._planes = np.zeros((4, masks.n_modules * masks.module_pixels), np.uint8)
        self._planes[1] = np.repeat(absent * (CXI_MISSING >> 8), masks.module_pixels)
        self._of_row: dict[int, bytes] = {}
        self._deflater = Deflater(_LEVEL)
        # number of the first frame with a mask, by the mask's digest
        self._first: dict[int, int] = {}

    def chunks(
        self, first: int, frames: SparseFrames, cell_id: np.ndarray
    ) -> tuple[list[int], list[bytes]]:
        """Return the masks that no frame had before; collective.

        Parameters
        ----------
        first : int
            Number of the first mask.
        frames : SparseFrames
            Of this rank, possibly none.
        cell_id : ndarray, int (frame,)

        Returns
        -------
        numbers : list of int
        chunks : list of bytes
            To be added to the packed frames.
        """
        rows = self._masks.row_of_cell[cell_id].tolist()
        bad = [
            frames.pixel[a:b][frames.count[a:b] == 0]
            for a, b in zip(frames.indptr[:-1], frames.indptr[1:], strict=True)
        ]
        keys = np.empty((len(rows), 3), np.uint64)
        for i, (row, pixels) in enumerate(zip(rows, bad, strict=True)):
            keys[i, :2] = np.frombuffer(self._digest(row, pixels), np.uint64)
            keys[i, 2] = first + i
        new = np.flatnonzero(self._are_new(keys)).tolist()
        return [first + i for i in new], [self._chunk(rows[i], bad[i]) for i in new]

    def _are_new(self, keys: np.ndarray) -> np.ndarray:
        """Return which masks no frame had before, bool (frame,); collective.

        Every rank keeps track of the masks of all, so that nobody has to wait for an answer.
        """
        is_new = {}
        for high, low, number in allgather_concat(self._comm, keys).tolist():
            source = self._first.setdefault(high << 64 | low, number)
            is_new[number] = source == number
            if source != number and self._comm.rank == 0:
                self._packed.share(number, source)
        return np.array([is_new[number] for number in keys[:, 2].tolist()], bool)

    def _good(self, row: int, bad: np.ndarray) -> np.ndarray:
        """Return the bits of a frame's good pixels, uint8 (module · byte,)."""
        good = self._masks.good[:, row].flatten()
        np.bitwise_and.at(good, bad >> 3, ~(1 << (bad & 7)).astype(np.uint8))
        return good

    def _digest(self, row: int, bad: np.ndarray) -> bytes:
        # by content: equal masks, of all frames or of several cells, are kept once
        if len(bad):
            return blake2b(self._good(row, bad), digest_size=_DIGEST_BYTES).digest()
        if row not in self._of_row:
            self._of_row[row] = blake2b(self._good(row, bad), digest_size=_DIGEST_BYTES).digest()
        return self._of_row[row]

    def _chunk(self, row: int, bad: np.ndarray) -> bytes:
        """Return a mask, shuffled and deflated as HDF5's filters do."""
        good = unpack(self._good(row, bad).reshape(self._masks.n_modules, -1))
        # the bytes of each bit field stand together, the lowest first
        np.multiply(1 - good, CXI_BAD, out=self._planes[0].reshape(good.shape))
        return self._deflater.compress(self._planes.reshape(-1))
