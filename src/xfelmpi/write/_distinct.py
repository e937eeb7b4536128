"""Masks of many frames in one HDF5 file, of which every different one is stored once.

Most frames have the mask of their memory cell, and only those with pixels that are bad in this
frame alone have one of their own. A mask is a chunk; where masks are equal, the entries of the
chunk index name the same bytes of the file. A reader just looks up where a chunk is, so that any
HDF5 reads it.

The ranks compress what is different into one file beside the output (parallel HDF5 1.10 would write
every chunk of a compressed dataset twice, first with fill values); rank 0 takes the chunks from
there when the parallel file is closed.
"""

import os
from collections.abc import Iterator
from hashlib import blake2b

import h5py
import numpy as np

from xfelmpi._deflate import Deflater
from xfelmpi.chunkindex import ChunkIndex, UnknownLayoutError
from xfelmpi.collective import SharedBytes, before_and_total, concat_all, from_root
from xfelmpi.detector import CXI_BAD, CXI_MISSING, FRAME_SHAPE, N_MODULES
from xfelmpi.errors import OutputError
from xfelmpi.masks import MODULE_BYTES, Masks, unpack
from xfelmpi.sparse import SparseFrames
from xfelmpi.write._h5 import LIBVER, compressed_layout, part_name

_LEVEL = 6
_DIGEST_BYTES = 16
_HEADER = np.dtype("<i8")
_DUMMY = b"\0"


class DistinctMasks:
    """Mask datasets of a file that is still written by others.

    Parameters
    ----------
    comm : Intracomm
    path : Path
        Final name of the HDF5 file.
    masks : Masks
    modules_in_run : int
        Bit field of the modules that the run has; the pixels of others are missing.
    """

    def __init__(self, comm, path, masks: Masks, modules_in_run: int):
        self._comm = comm
        self._path = path
        self._masks = masks
        self._absent = (~modules_in_run >> np.arange(N_MODULES) & 1).astype(bool)
        self._datasets: list[tuple[str, int, dict]] = []
        self._beside_path = part_name(path.with_name(path.name + ".masks"))
        self._beside = SharedBytes(comm, str(self._beside_path))
        self._end = 0
        self._of_row: dict[int, bytes] = {}
        self._deflater = Deflater(_LEVEL)
        # rank 0 only: the first frame with a mask, by the mask's digest and by frame
        self._first: dict[int, int] = {}
        self._source = np.empty(0, np.int64)

    def dataset(self, name: str, n_frames: int, **attributes) -> int:
        """Announce a dataset with attributes; return the number of its first frame."""
        first = len(self._source)
        self._datasets.append((name, n_frames, attributes))
        self._source = np.append(self._source, np.full(n_frames, -1))
        return first

    def add(self, first: int, frames: SparseFrames, cell_id: np.ndarray) -> None:
        """Add the masks of this rank's frames, possibly none, from number `first` on; collective.

        Parameters
        ----------
        first : int
        frames : SparseFrames
        cell_id : ndarray, int (frame,)
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
        records = b"".join(
            self._record(first + i, rows[i], bad[i]) for i in np.flatnonzero(self._are_new(keys))
        )
        before, total = before_and_total(self._comm, len(records))
        if total:
            self._beside.write_at(self._end + before, np.frombuffer(records, np.uint8))
            self._end += total

    def _are_new(self, keys: np.ndarray) -> np.ndarray:
        """Return which masks no frame had before, bool (frame,); collective."""
        before, _ = before_and_total(self._comm, len(keys))
        joined = concat_all(self._comm, keys)
        new = from_root(self._comm, lambda: self._assign(joined))
        return new[before : before + len(keys)]

    def _assign(self, keys: np.ndarray) -> np.ndarray:
        new = np.empty(len(keys), bool)
        for i, (high, low, number) in enumerate(keys.tolist()):
            self._source[number] = self._first.setdefault(high << 64 | low, number)
            new[i] = self._source[number] == number
        return new

    def _good(self, row: int, bad: np.ndarray) -> np.ndarray:
        """Return the bits of a frame's good pixels, uint8 (16 · 8192,)."""
        good = self._masks.good[:, row].flatten()
        np.bitwise_and.at(good, bad >> 3, ~(1 << (bad & 7)).astype(np.uint8))
        return good

    def _digest(self, row: int, bad: np.ndarray) -> bytes:
        # by content: pixels that are bad in every frame, or cells with the same mask, make one mask
        if len(bad):
            return blake2b(self._good(row, bad), digest_size=_DIGEST_BYTES).digest()
        if row not in self._of_row:
            self._of_row[row] = blake2b(self._good(row, bad), digest_size=_DIGEST_BYTES).digest()
        return self._of_row[row]

    def _record(self, number: int, row: int, bad: np.ndarray) -> bytes:
        """Return number, size and chunk of a mask: shuffled and deflated as HDF5's filters do."""
        good = unpack(self._good(row, bad).reshape(N_MODULES, MODULE_BYTES))
        mask = np.where(good, np.uint32(0), np.uint32(CXI_BAD))
        mask[self._absent] |= np.uint32(CXI_MISSING)
        shuffled = np.ascontiguousarray(mask.view(np.uint8).reshape(-1, mask.itemsize).T)
        chunk = self._deflater.compress(shuffled.reshape(-1))
        return np.array([number, len(chunk)], _HEADER).tobytes() + chunk

    def close(self) -> None:
        """Finish adding; collective."""
        self._beside.close()

    def write(self) -> None:
        """Write the datasets into the file, which must be closed; rank 0 only.

        Raises
        ------
        OutputError
            If the file cannot be written, or its chunk index is of another kind.
        """
        part = part_name(self._path)
        try:
            with h5py.File(part, "r+", libver=LIBVER) as file:
                self._write_chunks([self._create(file, *about) for about in self._datasets])
            self._share_chunks(part)
            self._beside_path.unlink()
        except (OSError, RuntimeError, UnknownLayoutError) as error:
            raise OutputError(f"{part}: masks cannot be written ({error})") from None

    def _create(self, file: h5py.File, name: str, n_frames: int, attributes: dict) -> h5py.Dataset:
        shape = (n_frames, *FRAME_SHAPE)
        layout = compressed_layout(shape, np.uint32, 1)
        dataset = file.create_dataset(name, shape, np.uint32, fill_time="never", **layout)
        dataset.attrs.update(attributes)
        # in this order the index becomes half as large as in any other
        for row in range(n_frames):
            _write_chunk(dataset, row, _DUMMY)
        return dataset

    def _write_chunks(self, datasets: list[h5py.Dataset]) -> None:
        starts = np.cumsum([0, *(n for _, n, _ in self._datasets)])
        for number, chunk in self._records():
            which = int(np.searchsorted(starts, number, side="right")) - 1
            _write_chunk(datasets[which], number - int(starts[which]), chunk)

    def _records(self) -> Iterator[tuple[int, bytes]]:
        with open(self._beside_path, "rb") as file:
            while header := file.read(2 * _HEADER.itemsize):
                number, size = np.frombuffer(header, _HEADER).tolist()
                chunk = file.read(size)
                if len(chunk) < size:
                    raise OSError(f"{self._beside_path} is cut off")
                yield number, chunk

    def _share_chunks(self, part) -> None:
        fd = os.open(part, os.O_RDWR)
        try:
            with h5py.File(part) as file:
                indices = [ChunkIndex(fd, file[name]) for name, _, _ in self._datasets]
            places = [
                index.find(np.arange(n))
                for index, (_, n, _) in zip(indices, self._datasets, strict=True)
            ]
            offset, size, skipped = map(np.concatenate, zip(*places, strict=True))
            start = 0
            for index, (_, n, _) in zip(indices, self._datasets, strict=True):
                source = self._source[start : start + n]
                index.redirect(offset[source], size[source], skipped[source])
                start += n
        finally:
            os.close(fd)


def _write_chunk(dataset: h5py.Dataset, row: int, chunk: bytes) -> None:
    dataset.id.write_direct_chunk((row,) + (0,) * (dataset.ndim - 1), chunk)
