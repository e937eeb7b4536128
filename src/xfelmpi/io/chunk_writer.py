"""Frames in a HDF5 file as compressed chunks, which the ranks make and append by themselves.

Parallel HDF5 1.10 compresses a chunk twice (when it is created it holds fill values), with zlib,
and only in collective calls. Here the ranks compress with libdeflate and write behind the end of
the file, like the pieces of any other binary file. When all is written, rank 0 tells HDF5 of it:
the file's end in the superblock, and for every frame an entry of the chunk index (a version 1
B-tree) with place and size. The result is as if HDF5 had written it, and every reader reads it.

Frames whose chunks have the same bytes may share one: a reader just looks up where a chunk is.
"""

import os
import struct
from collections.abc import Callable

import h5py
import numpy as np

from xfelmpi.core.errors import OutputError
from xfelmpi.io.chunk_index import ChunkIndex, UnknownLayoutError
from xfelmpi.io.output_file import serial_file
from xfelmpi.io.parallel_hdf5 import (
    END_IN_SUPERBLOCK,
    LIBVER,
    SUPERBLOCK_BYTES,
    compressed_layout,
    end_in_superblock,
)
from xfelmpi.io.partial_file import begin_partial, final_name, open_own
from xfelmpi.mpi import MpiFile, allgather_concat, bcast_from_root, exscan_and_total, run_on_root

_DUMMY = b"\0"


class ChunkAppender:
    """The datasets of frames of one file; all methods are collective.

    Parameters
    ----------
    comm : Intracomm
    path : Path
        Final name of the HDF5 file, which is closed, under its temporary name.
    frame_shape : tuple of int
    """

    def __init__(self, comm, path, frame_shape: tuple[int, ...]):
        self._comm = comm
        self._frame_shape = frame_shape
        self._part = begin_partial(path)
        # the others may still be closing it
        comm.Barrier()
        self._end = bcast_from_root(comm, lambda: self._part.stat().st_size)
        self._bytes = MpiFile(comm, str(self._part))
        self._datasets: list[tuple[str, tuple[int, ...], np.dtype, dict]] = []
        self._n_frames = 0
        # number, offset and size of every chunk that this rank has written
        self._places: list[tuple[int, int, int]] = []
        self._shared: dict[int, int] = {}

    def dataset(self, name: str, n_frames: int, dtype, **attributes) -> int:
        """Announce a dataset with attributes; return the number of its first frame."""
        first = self._n_frames
        shape = (n_frames, *self._frame_shape)
        self._datasets.append((name, shape, np.dtype(dtype), attributes))
        self._n_frames += n_frames
        return first

    def add(self, numbers: list[int], chunks: list[bytes]) -> None:
        """Append chunks of this rank, possibly none, given the numbers of their frames.

        A chunk is a frame, shuffled if its items have several bytes, as a zlib stream.
        """
        sizes = [len(chunk) for chunk in chunks]
        before, total = exscan_and_total(self._comm, sum(sizes))
        if not total:
            return
        offsets = self._end + before + np.cumsum([0, *sizes])[:-1]
        self._bytes.write_at(self._end + before, np.frombuffer(b"".join(chunks), np.uint8))
        self._places += zip(numbers, offsets.tolist(), sizes, strict=True)
        self._end += total

    def share(self, number: int, source: int) -> None:
        """Have a frame's chunk be that of another frame; rank 0 only, by itself."""
        self._shared[number] = source

    def close(self, fill: Callable[[h5py.File], None]) -> None:
        """Finish the file; `fill` writes on rank 0 what else belongs into it.

        Raises
        ------
        OutputError
            On all ranks, if the file cannot be written, or is of another kind than expected.
        """
        self._bytes.close()
        own = np.array(self._places, np.int64).reshape(-1, 3)
        places = allgather_concat(self._comm, own)
        run_on_root(self._comm, lambda: self._finish(places, fill))

    def _finish(self, places: np.ndarray, fill: Callable[[h5py.File], None]) -> None:
        offset = np.full(self._n_frames, -1, np.int64)
        size = np.zeros(self._n_frames, np.int64)
        offset[places[:, 0]], size[places[:, 0]] = places[:, 1], places[:, 2]
        shared = np.array(list(self._shared.items()), np.int64).reshape(-1, 2)
        for table in (offset, size):
            table[shared[:, 0]] = table[shared[:, 1]]
        try:
            self._set_end()
            with serial_file(self._part, "r+", libver=LIBVER) as file:
                fill(file)
                for about in self._datasets:
                    _create(file, *about)
            self._fill_index(offset, size)
        except (OSError, RuntimeError, UnknownLayoutError) as error:
            raise OutputError(
                f"{final_name(self._part)}: frames cannot be written ({error})"
            ) from None

    def _set_end(self) -> None:
        """Tell the file that what was appended belongs to it."""
        with open(open_own(self._part), "r+b") as file:
            end_in_superblock(file.read(SUPERBLOCK_BYTES))
            file.seek(END_IN_SUPERBLOCK)
            file.write(struct.pack("<Q", self._end))

    def _fill_index(self, offset: np.ndarray, size: np.ndarray) -> None:
        fd = open_own(self._part)
        try:
            with h5py.File(self._part) as file:
                indices = [ChunkIndex(fd, file[name]) for name, *_ in self._datasets]
            start = 0
            for index, (_, (n, *_), *_) in zip(indices, self._datasets, strict=True):
                rows = slice(start, start + n)
                index.redirect(offset[rows], size[rows], np.zeros(n, np.int64))
                start += n
        finally:
            os.close(fd)


def _create(file: h5py.File, name: str, shape: tuple, dtype: np.dtype, attributes: dict) -> None:
    layout = compressed_layout(shape, dtype, 1)
    dataset = file.create_dataset(name, shape, dtype, fill_time="never", **layout)
    dataset.attrs.update(attributes)
    # an entry of the index for every frame; in this order it becomes half as large as in any other
    behind = (0,) * (len(shape) - 1)
    for row in range(shape[0]):
        write_dummy(dataset, (row, *behind))


def write_dummy(dataset: h5py.Dataset, first: tuple[int, ...]) -> None:
    """Write one byte as the chunk of a frame, given the place of its first pixel."""
    dataset.id.write_direct_chunk(first, _DUMMY)
