"""Where the bytes of a module's frames are, and how they are packed.

HDF5 is asked once for the place of every chunk; the bytes are then read by `pread` and inflated by
libdeflate in the kernel, several times faster than through HDF5's own filters. Layouts that this
cannot read (other filters, other dtypes) go through h5py, slower but right.
"""

import math
import os
from dataclasses import dataclass

import h5py
import numpy as np

from xfelmpi._kernels._frames import (
    DEFLATE,
    IMPOSSIBLE_SIZE,
    INFLATE_FAILED,
    NO_CHUNK,
    READ_FAILED,
    SHUFFLE,
    UNREADABLE,
    ChunkSource,
    DecodeBuffers,
    Inflater,
)
from xfelmpi.core.sparse_frames import MAX_COUNT
from xfelmpi.detectors.bad_pixels import ALL_MASK_BITS
from xfelmpi.io.chunk_index import ChunkIndex, UnknownLayoutError

FRAME_STATUS = {
    READ_FAILED: "bytes cannot be read (file too short?)",
    INFLATE_FAILED: "chunk does not inflate to a frame",
    NO_CHUNK: "chunk was never written or cannot be read",
    IMPOSSIBLE_SIZE: "chunk has an impossible size",
}
"""What a kernel says of a frame that is not `OK`."""

_H5Z_DEFLATE, _H5Z_SHUFFLE = 1, 2
_LARGEST_CHUNK = 64 << 20


@dataclass(frozen=True)
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


class FrameDataset:
    """A dataset with frames of a module: finds chunks on first use.

    Parameters
    ----------
    data : h5py.Dataset
    fd : int
        Its file, open for reading.
    """

    _direct_types: tuple[str, ...] = ("|u1", "<u2", "<f4")

    def __init__(self, data: h5py.Dataset, fd: int):
        self._data = data
        self._fd = fd
        self._filters = _known_filters(self._data)
        self._per_chunk = self._data.chunks[0] if self._data.chunks else 1
        self._frame_bytes = math.prod(self._data.shape[1:]) * self._data.dtype.itemsize
        self._direct = (
            self._filters is not None
            and (not self._filters or self._per_chunk * self._frame_bytes <= _LARGEST_CHUNK)
            and self._data.dtype.str in self._direct_types
            and not self._data.is_virtual
            and self._data.external is None
            # HDF5 versions differ in whether a chunk's address counts from the user block
            and self._data.file.userblock_size == 0
        )
        self._index = None
        if self._direct and self._data.chunks:
            try:
                self._index = ChunkIndex(self._fd, self._data)
            except UnknownLayoutError:
                self._direct = False
        self._blank = self._never_written()

    def _never_written(self) -> bool:
        if self._data.is_virtual or self._data.external is not None:
            return False
        if self._index is not None:
            # HDF5 would walk through all chunks to sum their sizes
            return self._index.empty
        return self._data.id.get_storage_size() == 0

    @property
    def module_shape(self) -> tuple[int, int]:
        """Pixels of a frame, (ss, fs)."""
        return self._data.shape[-2:]

    @property
    def direct(self) -> bool:
        """Whether the frames' bytes are read as they are, without a dense copy in memory."""
        return self._direct or self._blank

    def frames(self, rows: np.ndarray) -> FrameBytes:
        """Locate frames by their rows in the dataset, int (frame,)."""
        if self._blank:
            return self._all_fill_value(len(rows))
        if not self._direct:
            return self._through_h5py(rows)
        per_chunk, index = self._per_chunk, rows % self._per_chunk
        if self._data.chunks is None:
            place = self._data.id.get_offset() + rows.astype(np.int64) * self._frame_bytes
            size, filters = np.full_like(place, self._frame_bytes), np.zeros_like(place)
        else:
            place, size, filters = self._chunk_table(rows // per_chunk)
        if not self._filters and (size[place >= 0] == per_chunk * self._frame_bytes).all():
            # nothing is packed: every frame can be read by itself, straight into place
            place = np.where(place >= 0, place + index * self._frame_bytes, place)
            size, index, per_chunk = np.full_like(place, self._frame_bytes), 0 * index, 1
        return FrameBytes(
            self._fd,
            np.empty(0, np.uint8),
            place,
            size,
            filters.astype(np.uint8),
            index.astype(np.int32),
            per_chunk,
            self._data.dtype,
            self._data.dtype.kind != "f",
        )

    def read_raw_pixels(self, row: int, first: int, out: np.ndarray) -> None:
        """Read some pixels of one raw frame, from pixel `first` on.

        Parameters
        ----------
        row : int
            Row in the dataset.
        first : int
        out : ndarray, uint16 (2, pixel)
            Gets the analogue and the digital values; each plane contiguous.

        Raises
        ------
        OSError
            If they cannot be read.
        """
        end = first + out.shape[1]
        in_place = self._direct and not self._filters and not self._blank
        source = self.frames(np.array([row])) if in_place else None
        if source is None or source.chunk_frames > 1:
            out[:] = self._data[row].reshape(2, -1)[:, first:end]
            return
        for plane in range(2):
            start = int(source.offset[0]) + plane * self._frame_bytes // 2 + 2 * first
            got = os.preadv(self._fd, [out[plane]], start) if source.offset[0] >= 0 else 0
            if got != out[plane].nbytes:
                raise OSError(f"{got} of {out[plane].nbytes} bytes found at {start}")

    def _chunk_table(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (offset, size, filters) of chunks, each int64 (chunk,)."""
        offset, size, skipped = self._index.find(numbers)
        # a set bit in the chunk's own mask says that this filter was left out
        bits = np.array(
            [
                sum(bit for i, bit in enumerate(self._filters) if not mask >> i & 1)
                for mask in range(1 << len(self._filters))
            ]
        )
        return offset, size, bits[skipped & (len(bits) - 1)]

    def _all_fill_value(self, n: int) -> FrameBytes:
        """Return a dataset that was never written as every HDF5 reader does: its fill value."""
        frame = np.full(self._data.shape[1:], self._data.fillvalue, self._data.dtype)
        if self._data.dtype.str not in self._direct_types:
            frame = self._converted(frame)
        return _in_memory(frame, np.zeros(n, np.int64), frame.nbytes, self._data.dtype.kind != "f")

    def _through_h5py(self, rows: np.ndarray) -> FrameBytes:
        values = np.empty((len(rows), *self._data.shape[1:]), self._converted_type)
        frame_bytes = math.prod(values.shape[1:]) * values.dtype.itemsize
        offset = np.arange(len(rows), dtype=np.int64) * frame_bytes
        for i, row in enumerate(rows):
            try:
                frame = self._data[int(row)]
            except OSError:
                offset[i] = UNREADABLE
                continue
            values[i] = self._converted(frame)
        return _in_memory(values, offset, frame_bytes, self._data.dtype.kind != "f")

    @property
    def _converted_type(self) -> str:
        # raw frames have two planes of u2, whatever the filters; the index has checked that
        return "u2" if self._data.ndim == 4 else "f4"

    def _converted(self, frame: np.ndarray) -> np.ndarray:
        return frame if self._data.ndim == 4 else _as_float32(frame)


class MaskDataset(FrameDataset):
    """The masks of a module's frames, u4, one bit for every reason why a pixel is bad.

    Raises
    ------
    ValueError
        If they are no integers or have another shape than the frames of the module.
    """

    _direct_types = ("<u4",)
    _converted_type = "u4"

    def __init__(self, data: h5py.Dataset, fd: int, module_shape: tuple[int, int]):
        dtype, shape = getattr(data, "dtype", None), getattr(data, "shape", None)
        if not shape or not shape[0] or shape[1:] != module_shape or dtype.kind not in "ui":
            expected = ", ".join(map(str, module_shape))
            raise ValueError(f"masks are {dtype} {shape}, expected integers (N, {expected})")
        super().__init__(data, fd)

    def __len__(self) -> int:
        return len(self._data)

    @property
    def frames_per_chunk(self) -> int:
        """How many frames are packed together."""
        return self._per_chunk

    @property
    def fill_value(self) -> int:
        """What stands in chunks that were never written."""
        return int(self._data.fillvalue) & ALL_MASK_BITS

    def _converted(self, frame: np.ndarray) -> np.ndarray:
        return frame.astype("u4")


def _as_float32(frame: np.ndarray) -> np.ndarray:
    """Return values of any dtype as float32; what is out of range becomes a bad pixel."""
    if frame.dtype.kind in "iu":
        frame = np.where(frame > MAX_COUNT, np.float32("nan"), np.maximum(frame, 0))
    with np.errstate(over="ignore"):
        return frame.astype(np.float32)


def _in_memory(
    values: np.ndarray, offset: np.ndarray, frame_bytes: int, from_integers: bool
) -> FrameBytes:
    n = len(offset)
    return FrameBytes(
        -1,
        values.reshape(-1).view(np.uint8),
        offset,
        np.full(n, frame_bytes, np.int64),
        np.zeros(n, np.uint8),
        np.zeros(n, np.int32),
        1,
        values.dtype,
        from_integers,
    )


def _known_filters(data: h5py.Dataset) -> list[int] | None:
    """Return the kernel's bits of the dataset's filter pipeline, None if it has an unknown one."""
    plist = data.id.get_create_plist()
    codes = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    # shuffling single bytes changes nothing
    shuffle = SHUFFLE if data.dtype.itemsize > 1 else 0
    bits = {_H5Z_DEFLATE: DEFLATE, _H5Z_SHUFFLE: shuffle}
    in_order = tuple(codes) in ((), (_H5Z_DEFLATE,), (_H5Z_SHUFFLE,), (_H5Z_SHUFFLE, _H5Z_DEFLATE))
    if not in_order or (data.chunks is not None and data.chunks[1:] != data.shape[1:]):
        return None
    return [bits[code] for code in codes]


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
