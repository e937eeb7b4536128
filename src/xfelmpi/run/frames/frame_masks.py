"""The corrected data's own masks, ``image/mask``: which frames' are looked at, and reading them.

A corrected file holds 32 bits per pixel and frame. Almost all of what they say is the same in every
train, by memory cell; the rest comes and goes from frame to frame.
"""

import math

import numpy as np

from xfelmpi._kernels import _masks
from xfelmpi.run.frames.file_pool import FilePool
from xfelmpi.run.frames.frame_dataset import UNREADABLE, packed_room

_DENSE_AT_ONCE = 32
"""Masks of 256 KiB that are in memory together, where HDF5 has to read them."""


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
        bad : ndarray, uint8 (frame, byte)
            Bits of the bad pixels.
        status : ndarray, uint8 (frame,)
            0, or a key of `read.FRAME_STATUS`: nothing is known of this frame.

        Raises
        ------
        OSError, KeyError, ValueError, RuntimeError
            If the file has no usable masks.
        """
        inputs = self._inputs(number, rows)
        n_pixels = math.prod(self._files.get(number).module_shape)
        bad = np.zeros((len(rows), n_pixels // 8), np.uint8)
        status = np.zeros(len(rows), np.uint8)
        _masks.fold_masks(*inputs, bits, bad, status)
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
        held : ndarray, uint32 (slot, pixel)

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
        need = source.chunk_frames * math.prod(masks.module_shape) * 4
        if len(self._dense) < need:
            self._dense, self._spare = np.empty((2, need), np.uint8)
            self._packed = np.empty(packed_room(need), np.uint8)
        _, chunks = np.unique(source.offset, return_index=True)
        self.bytes_read += int(source.size[chunks][source.offset[chunks] >= 0].sum())
        bytes_in = (source.fd, source.memory, source.offset, source.size, source.filters)
        bytes_in += (source.within, source.chunk_frames, masks.fill_value)
        return (*bytes_in, self._packed, self._dense)
