"""Frames of one module in one file, or in memory, as the kernels take them."""

from dataclasses import dataclass

import numpy as np

from xfelmpi._kernels._frames import (
    IMPOSSIBLE_SIZE,
    INFLATE_FAILED,
    NO_CHUNK,
    READ_FAILED,
    ChunkSource,
    DecodeBuffers,
    Inflater,
)

FRAME_STATUS = {
    READ_FAILED: "bytes cannot be read (file too short?)",
    INFLATE_FAILED: "chunk does not inflate to a frame",
    NO_CHUNK: "chunk was never written or cannot be read",
    IMPOSSIBLE_SIZE: "chunk has an impossible size",
}
"""What a kernel says of a frame that is not `OK`."""

READ_ERRORS = (OSError, KeyError, ValueError, RuntimeError)
"""What reading frames or masks of a damaged file may raise."""


@dataclass(frozen=True, kw_only=True)
class FrameBytes:
    """Frames of one module in one file, ready for the kernel.

    Parameters
    ----------
    fd : int
        Open file, or -1 if the bytes are in `memory`.
    memory : ndarray, uint8 (byte,)
        Bytes already read, or empty.
    offset, size : ndarray, int64 (frame,)
        Place of the frame's chunk in the file or in `memory`; below 0: `NEVER_WRITTEN`
        or `UNREADABLE`.
    filters : ndarray, uint8 (frame,)
        How the chunk is packed: bits `DEFLATE`, `SHUFFLE`.
    index_in_chunk : ndarray, int32 (frame,)
        Position of the frame in its chunk.
    chunk_frames : int
        Frames in a chunk as the kernel reads it; 1 where frames can be read one by one.
    dtype : numpy.dtype
        u1, u2 or f4; raw frames are u2, analogue and digital values one after the other; masks
        are u4.
    from_integers : bool
        The values are photons as they stand, even if `dtype` is f4.
    lacking : str
        Why frames are `UNREADABLE`, if more is known than that.
    """

    fd: int
    memory: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    filters: np.ndarray
    index_in_chunk: np.ndarray
    chunk_frames: int
    dtype: np.dtype
    from_integers: bool
    lacking: str = ""

    def for_kernel(self, n_pixels: int, planes: int = 1) -> ChunkSource:
        """Return a view for a kernel of frames with so many pixels and values of each pixel."""
        return ChunkSource(
            fd=self.fd,
            memory=self.memory,
            offset=self.offset,
            size=self.size,
            filters=self.filters,
            index_in_chunk=self.index_in_chunk,
            chunk_frames=self.chunk_frames,
            n_pixels=n_pixels,
            itemsize=self.dtype.itemsize,
            planes=planes,
            is_float=self.dtype.kind == "f",
        )


class MissingFrameError(OSError):
    """A frame has no bytes; `lacking` says why, if that is known."""

    def __init__(self, lacking: str):
        super().__init__(lacking or "never written")
        self.lacking = lacking


def in_memory(
    values: np.ndarray,
    offset: np.ndarray,
    frame_bytes: int,
    lacking: str = "",
    *,
    from_integers: bool,
) -> FrameBytes:
    """Return frames of which each lies at its offset in an array in memory."""
    n = len(offset)
    return FrameBytes(
        fd=-1,
        memory=values.reshape(-1).view(np.uint8),
        offset=offset,
        size=np.full(n, frame_bytes, np.int64),
        filters=np.zeros(n, np.uint8),
        index_in_chunk=np.zeros(n, np.int32),
        chunk_frames=1,
        dtype=values.dtype,
        from_integers=from_integers,
        lacking=lacking,
    )


def make_buffers(chunk_bytes: int, n_pixels: int, inflater: Inflater) -> DecodeBuffers:
    """Return what a kernel needs to read chunks of at most so many bytes, once unpacked."""
    return DecodeBuffers(
        inflater=inflater,
        packed=np.empty(packed_room(chunk_bytes), np.uint8),
        spare=np.empty(chunk_bytes, np.uint8),
        dense=np.empty(chunk_bytes, np.uint8),
        found=np.empty(n_pixels, np.int32),
    )


def packed_room(n_bytes: int) -> int:
    """Return the size of a buffer for packed chunks that hold so many bytes.

    Deflate adds 5 bytes to 64 KiB that it cannot pack, other encoders a little more.
    """
    return n_bytes + n_bytes // 64 + 1024
