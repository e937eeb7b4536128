"""The corrected data's own masks, ``image/mask``, read frame by frame.

A corrected file holds 32 bits per pixel and frame. Almost all of what they say is the same in every
train, by memory cell; the rest comes and goes from frame to frame. `run.mask_samples` chooses the
frames by which the two are told apart.
"""

import math

import numpy as np

from xfelmpi._kernels import _masks
from xfelmpi._kernels._frames import OK, UNREADABLE, ChunkSource, Inflater
from xfelmpi.run.frames.file_pool import FilePool
from xfelmpi.run.frames.frame_bytes import make_buffers, packed_room

_KNOWN_BYTES = 32 << 20
"""Memory for masks that may come again: 5 kB each with 1 % bad pixels, 5,632 in a usual run."""

_KNOWN_PLACES = 1 << 15

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
        self._inflater = Inflater()
        self._known = None
        self._buffers, self._chunk_bytes = None, 0
        self._bad = np.empty(0, np.uint8)
        self._packed_before = np.empty(0, np.uint8)
        self.bytes_read = 0
        self.lacking = ""

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
            Bits of the bad pixels; they are there until the next call.
        status : ndarray, uint8 (frame,)
            `OK`, or a key of `FRAME_STATUS`: nothing is known of this frame, its bits are anything.

        Raises
        ------
        OSError, KeyError, ValueError, RuntimeError
            If the file has no usable masks.
        """
        source, fill = self._locate(number, rows)
        if self._known is None:
            # its pages take memory when masks are written to them
            self._known = _masks.KnownMasks(
                arena=np.empty(_KNOWN_BYTES // 8, np.uint64),
                place=np.zeros(_KNOWN_PLACES, np.uint32),
            )
        shape = len(rows), source.n_pixels // 8
        # new memory for every call would cost more than folding masks that are known
        if self._bad.size < math.prod(shape):
            self._bad = np.empty(math.prod(shape), np.uint8)
        bad = self._bad[: math.prod(shape)].reshape(shape)
        status = np.full(len(rows), OK, np.uint8)
        _masks.fold_masks(source, self._buffers, self._known, fill, bits, bad, status)
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
        if len(np.unique(masks.chunk_of(rows))) < len(rows):
            # a chunk of several frames is read once
            order = np.argsort(rows, kind="stable")
        # what HDF5 itself has to read is held dense
        at_once = max(1, len(rows)) if masks.direct else _DENSE_AT_ONCE
        status = np.zeros(len(rows), np.uint8)
        for a in range(0, len(rows), at_once):
            these = order[a : a + at_once]
            source, fill = self._locate(number, rows[these])
            if len(self._packed_before) < packed_room(self._chunk_bytes):
                self._packed_before = np.empty(packed_room(self._chunk_bytes), np.uint8)
            part = np.zeros(len(these), np.uint8)
            _masks.join_masks(
                source, self._buffers, self._packed_before, fill, slot[these], held, part
            )
            status[these] = part
        return status

    def _locate(self, number: int, rows: np.ndarray) -> tuple[ChunkSource, int]:
        """Locate masks, with buffers for them; return them, and what was never written is."""
        masks = self._files.get(number).masks
        source = masks.frames(np.minimum(rows, len(masks) - 1))
        source.offset[rows >= len(masks)] = UNREADABLE
        self.lacking = source.lacking
        n_pixels = math.prod(masks.module_shape)
        need = source.chunk_frames * n_pixels * source.dtype.itemsize
        if self._chunk_bytes < need:
            self._buffers = make_buffers(need, n_pixels, self._inflater)
            self._chunk_bytes = need
        _, chunks = np.unique(source.offset, return_index=True)
        self.bytes_read += int(source.size[chunks][source.offset[chunks] >= 0].sum())
        return source.for_kernel(n_pixels), masks.fill_value
