"""Where the bytes of a module's frames are, and how they are packed.

`ChunkIndex` finds the place of every chunk; the bytes are then read by `pread` and inflated by
libdeflate in the kernel, several times faster than through HDF5's own filters. Layouts that this
cannot read (other filters, other dtypes) go through h5py, slower but right. Neither reads what was
never written, and what HDF5 would only fill in: such frames are missing.
"""

import math
import os
from functools import cached_property

import h5py
import numpy as np

from xfelmpi._kernels._frames import DEFLATE, NEVER_WRITTEN, SHUFFLE, UNREADABLE
from xfelmpi.core.sparse_frames import MAX_COUNT
from xfelmpi.detectors.bad_pixels import ALL_MASK_BITS
from xfelmpi.io.chunk_index import ChunkIndex, UnknownLayoutError
from xfelmpi.io.dataset_storage import (
    has_offsets,
    home_descriptor,
    is_plain,
    require_readable,
    written_rows,
)
from xfelmpi.io.input_file import Origins, guarded_call
from xfelmpi.io.read_ahead import read_soon
from xfelmpi.run.frames.frame_bytes import FrameBytes, MissingFrameError, in_memory
from xfelmpi.run.frames.virtual_frames import VirtualFrames

_EXTERNAL = "the external file with its bytes is missing or too short"

_H5Z_DEFLATE, _H5Z_SHUFFLE = 1, 2
_LARGEST_CHUNK = 64 << 20


class FrameDataset:
    """A dataset with frames of a module: finds chunks on first use.

    Parameters
    ----------
    data : h5py.Dataset
    origins : Origins, optional
        Gets the files that hold the frames.
    above : frozenset, optional
        Virtual datasets that this one is a source of.
    frame_axes : int
        Axes that number the frames: 1, or 2 if there is one for trains. The row of a frame counts
        the frames of all trains, always as many of each.

    Raises
    ------
    InputError
        If the frames are packed with a filter that HDF5 does not have.
    """

    _direct_types: tuple[str, ...] = ("|u1", "<u2", "<f4")
    _fill_value_counts = False

    def __init__(
        self,
        data: h5py.Dataset,
        origins: Origins | None = None,
        above: frozenset = frozenset(),
        frame_axes: int = 1,
    ):
        self._data = data
        self._axes = frame_axes
        # HDF5 keeps the file open, which need not be the one that names the dataset
        self._home = data.file
        self._fd = home_descriptor(data)
        self._origins = Origins() if origins is None else origins
        self._origins.add(self._home.filename, self._fd)
        require_readable(data)
        self._dtype = data.dtype
        self._filters = _known_filters(self._data, frame_axes)
        self._chunks = self._data.chunks
        self._per_chunk = math.prod(self._chunks[:frame_axes]) if self._chunks else 1
        self._frame_bytes = math.prod(self.frame_shape) * self._data.dtype.itemsize
        self._direct = (
            self._filters is not None
            and (not self._filters or self._per_chunk * self._frame_bytes <= _LARGEST_CHUNK)
            and self._data.dtype.str in self._direct_types
            and is_plain(self._data)
            and has_offsets(self._data)
            and self._fd is not None
        )
        self._index = None
        if self._direct and self._chunks:
            try:
                self._index = ChunkIndex(self._fd, self._data, frame_axes)
            except UnknownLayoutError:
                self._direct = False
        self._virtual = None
        if self._data.is_virtual:
            kind = MaskDataset if isinstance(self, MaskDataset) else FrameDataset
            self._virtual = VirtualFrames(data, kind, self._origins, above, frame_axes)
        self._blank = self._never_written()

    def __len__(self) -> int:
        return math.prod(self._data.shape[: self._axes])

    def convert(self, dtype: np.dtype) -> None:
        """Have HDF5 convert the values, as it does for a virtual dataset of another type."""
        self._dtype, self._direct = dtype, False
        if self._virtual is not None:
            self._virtual.dtype = dtype

    def close(self) -> None:
        """Close what this has opened: the files of sources."""
        if self._virtual is not None:
            self._virtual.close()

    def _never_written(self) -> bool:
        if self._data.is_virtual or self._data.external is not None:
            return False
        if self._index is not None:
            # HDF5 would walk through all chunks to sum their sizes
            return self._index.empty
        return self._data.id.get_storage_size() == 0

    @cached_property
    def _there(self) -> np.ndarray | None:
        """Which frames HDF5 does not make up, bool (frame,); None: all."""
        if self._virtual is not None or (self._fill_value_counts and self._data.external is None):
            return None
        return written_rows(self._data, self._axes)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Values of a frame, (ss, fs), or (planes, ss, fs) of raw ones."""
        return self._data.shape[self._axes :]

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
        if not self._direct or self._blank:
            return self._indirect(rows)
        per_chunk = self._per_chunk
        chunk, index = self._places(rows)
        if self._chunks is None:
            place = self._data.id.get_offset() + rows.astype(np.int64) * self._frame_bytes
            size, filters = np.full_like(place, self._frame_bytes), np.zeros_like(place)
        else:
            place, size, filters = self._chunk_table(chunk)
        read_soon(self._fd, place, size)
        if not self._filters and (size[place >= 0] == per_chunk * self._frame_bytes).all():
            # nothing is packed: every frame can be read by itself, straight into place
            place = np.where(place >= 0, place + index * self._frame_bytes, place)
            size, index, per_chunk = np.full_like(place, self._frame_bytes), 0 * index, 1
        return FrameBytes(
            fd=self._fd,
            memory=np.empty(0, np.uint8),
            offset=place,
            size=size,
            filters=filters.astype(np.uint8),
            index_in_chunk=index.astype(np.int32),
            chunk_frames=per_chunk,
            dtype=self._data.dtype,
            from_integers=self._data.dtype.kind != "f",
        )

    def chunk_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of the chunk that each frame is in, int (frame,)."""
        return self._places(rows)[0]

    def _places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of the chunk that each frame is in, and its place there."""
        if self._axes == 1 or self._chunks is None:
            return np.divmod(rows, self._per_chunk)
        n, (high, wide) = self._data.shape[1], self._chunks[:2]
        (along, above), (across, beside) = (
            np.divmod(part, step)
            for part, step in zip(np.divmod(rows, n), (high, wide), strict=True)
        )
        return along * -(-n // wide) + across, above * wide + beside

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
        if self._virtual is not None and self._virtual.mapped:
            source, row = self._virtual.source_of(row)
            source.read_raw_pixels(row, first, out)
            return
        end = first + out.shape[1]
        in_place = self._direct and not self._filters and not self._blank
        source = self.frames(np.array([row])) if in_place else None
        if source is None or source.chunk_frames > 1:
            out[:] = self._read(row).reshape(2, -1)[:, first:end]
            return
        for plane in range(2):
            start = int(source.offset[0]) + plane * self._frame_bytes // 2 + 2 * first
            got = os.preadv(self._fd, [out[plane]], start) if source.offset[0] >= 0 else 0
            if got != out[plane].nbytes:
                raise OSError(f"{got} of {out[plane].nbytes} bytes found at {start}")

    def _chunk_table(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (offset, size, filters) of chunks, each int64 (chunk,)."""
        offset, size, skipped = self._index.find(numbers)
        bits = self._filter_bits
        return offset, size, bits[skipped & (len(bits) - 1)]

    @cached_property
    def _filter_bits(self) -> np.ndarray:
        """The kernel's bits of filters by a chunk's own mask, where a set bit leaves one out."""
        return np.array(
            [
                sum(bit for i, bit in enumerate(self._filters) if not mask >> i & 1)
                for mask in range(1 << len(self._filters))
            ]
        )

    def _indirect(self, rows: np.ndarray) -> FrameBytes:
        """Read frames without the help of offsets, int (frame,)."""
        if self._blank:
            return self._nothing(len(rows))
        if self._virtual is not None and self._virtual.mapped:
            return self._virtual.frames(rows)
        return self._through_h5py(rows)

    def _nothing(self, n: int) -> FrameBytes:
        """Return frames of a dataset that was never written."""
        offset = np.full(n, NEVER_WRITTEN, np.int64)
        return in_memory(
            np.empty(0, self._converted_type), offset, 0, from_integers=self._dtype.kind != "f"
        )

    def _through_h5py(self, rows: np.ndarray) -> FrameBytes:
        values = np.empty((len(rows), *self.frame_shape), self._converted_type)
        frame_bytes = math.prod(values.shape[1:]) * values.dtype.itemsize
        offset = np.arange(len(rows), dtype=np.int64) * frame_bytes
        lacking = ""
        for i, row in enumerate(rows):
            try:
                values[i] = self._converted(self._read(int(row)))
            except OSError as error:
                offset[i], lacking = UNREADABLE, getattr(error, "lacking", lacking)
        return in_memory(
            values, offset, frame_bytes, lacking, from_integers=self._dtype.kind != "f"
        )

    def dense(self, rows: np.ndarray) -> FrameBytes:
        """Read frames by their rows into memory, int (frame,), with the type that they have there.

        Of a virtual dataset it is that of its sources.
        """
        if self._blank or self._virtual is not None:
            return self._indirect(rows)
        return self._through_h5py(rows)

    def values(self, row: int) -> np.ndarray:
        """Return one frame as HDF5 reads it, with the type that it has in the file.

        Raises
        ------
        OSError
            If it cannot be read, or HDF5 would make it up.
        """
        if self._blank:
            raise MissingFrameError("")
        return self._read(row)

    def _read(self, row: int) -> np.ndarray:
        """Return a frame as HDF5 reads it.

        Raises
        ------
        OSError
            If it cannot be read, or HDF5 would make it up.
        """
        if self._there is not None and not self._there[row]:
            raise MissingFrameError("" if self._data.external is None else _EXTERNAL)
        if self._virtual is not None and (lacking := self._virtual.lacking):
            raise MissingFrameError(lacking)
        values = self._data if self._dtype == self._data.dtype else self._data.astype(self._dtype)
        at = np.unravel_index(row, self._data.shape[: self._axes])
        return guarded_call(self._home.filename, values.__getitem__, tuple(map(int, at)))

    @property
    def _converted_type(self) -> str:
        # raw frames have two planes of u2, whatever the filters; the index has checked that
        return "u2" if len(self.frame_shape) == 3 else "f4"

    def _converted(self, frame: np.ndarray) -> np.ndarray:
        return frame if len(self.frame_shape) == 3 else _as_float32(frame)


class MaskDataset(FrameDataset):
    """The masks of a module's frames, u4, one bit for every reason why a pixel is bad.

    What was never written is the fill value, as for every HDF5 reader: nothing else need be stored
    of frames without bad pixels.

    Raises
    ------
    ValueError
        If they are no integers or have another shape than the frames of the module.
    """

    _direct_types = ("<u4",)
    _converted_type = "u4"
    _fill_value_counts = True

    def __init__(
        self,
        data: h5py.Dataset,
        origins: Origins | None = None,
        above: frozenset = frozenset(),
        frame_axes: int = 1,
        row_shape: tuple[int, ...] | None = None,
    ):
        dtype, shape = getattr(data, "dtype", None), getattr(data, "shape", None)
        # of sources of a virtual dataset, whoever opens them compares the shape
        wanted = row_shape or (shape or ())[1:]
        if not shape or not shape[0] or shape[1:] != wanted or dtype.kind not in "ui":
            expected = ", ".join(map(str, wanted))
            raise ValueError(f"masks are {dtype} {shape}, expected integers (N, {expected})")
        super().__init__(data, origins, above, frame_axes)

    @property
    def fill_value(self) -> int:
        """The value of chunks that were never written."""
        return int(self._data.fillvalue) & ALL_MASK_BITS

    def _nothing(self, n: int) -> FrameBytes:
        frame = np.full(self.module_shape, self._data.fillvalue, self._data.dtype).astype("u4")
        return in_memory(frame, np.zeros(n, np.int64), frame.nbytes, from_integers=True)

    def _converted(self, frame: np.ndarray) -> np.ndarray:
        return frame.astype("u4")


def _as_float32(frame: np.ndarray) -> np.ndarray:
    """Return values of any dtype as float32; what is out of range becomes a bad pixel."""
    if frame.dtype.kind in "iu":
        frame = np.where(frame > MAX_COUNT, np.float32("nan"), np.maximum(frame, 0))
    with np.errstate(over="ignore"):
        return frame.astype(np.float32)


def _known_filters(data: h5py.Dataset, frame_axes: int) -> list[int] | None:
    """Return the kernel's bits of the dataset's filter pipeline, None if it has an unknown one."""
    plist = data.id.get_create_plist()
    codes = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    # shuffling single bytes changes nothing
    shuffle = SHUFFLE if data.dtype.itemsize > 1 else 0
    bits = {_H5Z_DEFLATE: DEFLATE, _H5Z_SHUFFLE: shuffle}
    in_order = tuple(codes) in ((), (_H5Z_DEFLATE,), (_H5Z_SHUFFLE,), (_H5Z_SHUFFLE, _H5Z_DEFLATE))
    in_parts = data.chunks is not None and data.chunks[frame_axes:] != data.shape[frame_axes:]
    if not in_order or in_parts:
        return None
    return [bits[code] for code in codes]
