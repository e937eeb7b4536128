"""One parallel HDF5 file: created, written in slabs by all ranks, published when complete.

All methods are collective. A rank without rows writes with an empty selection: h5py's own slicing
skips the collective call then and the job hangs (h5py#965), hence the low-level writes here.
"""

import struct
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
from h5py import h5p, h5s

from xfelmpi.core.errors import OutputError, XfelmpiError
from xfelmpi.core.job import agree_on_process_id
from xfelmpi.io.chunk_index import UnknownLayoutError
from xfelmpi.io.output_file import cannot_write, reserve
from xfelmpi.io.partial_file import begin_partial, end_partial, open_own, write_new
from xfelmpi.mpi import MpiFile, allreduce_max, alone, name_for_mpi, run_on_root

ROUND_BYTES = 128 << 20
"""Bytes at most that a rank passes to one write."""

STRUCTURE_BYTES = 1 << 20
"""Room for all that a file has besides its data: attributes, groups, indices."""

LIBVER = ("earliest", "v110")
"""What keeps older readers working: their formats where there is a choice."""

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
END_IN_SUPERBLOCK = 40
"""Where superblock version 0 has the address of the file's end."""

SUPERBLOCK_BYTES = 48
"""Up to and with that address."""


def check_mpi_io(path: Path) -> None:
    """Check that MPI-IO can open a file in a folder, before much is done in vain; one rank.

    Raises
    ------
    OutputError
        If it cannot.
    """
    part = begin_partial(path)
    try:
        write_new(part, b"")
        MpiFile(alone(), str(part)).close()
        part.unlink()
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        end_partial(part)


class ParallelFile:
    """An HDF5 file that all ranks write together, unfinished until it is published.

    Use `close` then `publish`. There is no ``with``: leaving the block on an exception of one rank
    would close collectively and hang; an error inside an open parallel file ends the job instead.
    That the disk is full is found out before: see `xfelmpi.io.output_file`.

    Parameters
    ----------
    comm : Intracomm
        All ranks.
    path : Path
        Final name.
    attributes : dict
        Attributes of the root group: what every file carries.

    Raises
    ------
    OutputError
        On all ranks, if there is no room for the file.
    """

    def __init__(self, comm, path: Path, attributes: dict):
        self.comm = comm
        self.path = path
        agree_on_process_id(comm)
        self.part = begin_partial(path)
        texts = [value for value in attributes.values() if isinstance(value, str)]
        self._size = STRUCTURE_BYTES + 4 * sum(map(len, texts))
        # once without HDF5, which would have to be closed in a file without room
        run_on_root(comm, lambda: reserve(self.part, self._size, anew=True))
        # one rank needs no HDF5 that is built for MPI
        together = {"driver": "mpio", "comm": comm} if comm.size > 1 else {}
        how = "MPI-IO" if together else "HDF5"
        try:
            with name_for_mpi(self.part) as name:
                self._file = h5py.File(name, "w", libver=LIBVER, **together)
        except OSError as error:
            raise OutputError(f"{path}: cannot be opened by {how} ({error})") from None
        self._reserve(0)
        for name, value in attributes.items():
            self._file.attrs[name] = value

    def _reserve(self, n_bytes: int) -> None:
        """Have room for so many bytes more; collective. Closes the file if there is none.

        The file was opened by name: that it is the one made before is checked, too.
        """
        self._size += n_bytes
        try:
            run_on_root(self.comm, lambda: reserve(self.part, self._size))
        except XfelmpiError:
            # on all ranks, of which one has the error itself
            self._file.close()
            raise

    def group(self, name: str, **attributes) -> h5py.Group:
        """Create a group, and its parents, with attributes."""
        group = self._file.require_group(name)
        group.attrs.update(attributes)
        return group

    def link(self, name: str, target: str) -> None:
        """Make a soft link."""
        self._file[name] = h5py.SoftLink(target)

    def create(self, name: str, shape: tuple[int, ...], dtype, **attributes) -> h5py.Dataset:
        """Create a dataset, of which every element will be written.

        Parameters
        ----------
        name : str
            Path in the file; groups above it are made.
        shape, dtype
            Of the dataset, which is contiguous and plain.
        **attributes
            Attributes of the dataset.
        """
        self._reserve(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        return self._create(name, shape, dtype, attributes)

    def _create(self, name: str, shape: tuple[int, ...], dtype, attributes: dict) -> h5py.Dataset:
        # every element is written: filling first would double the traffic
        dataset = self._file.create_dataset(name, shape, dtype, fill_time="never")
        dataset.attrs.update(attributes)
        return dataset

    def columns(self, start: int, n_rows: int, columns: list[tuple[str, np.ndarray, dict]]) -> None:
        """Create and write datasets with one row per frame; the ranks agree once for all of them.

        Parameters
        ----------
        start, n_rows : int
            First row of this rank, and rows of all ranks together.
        columns : list of (str, ndarray, dict)
            Path in the file, this rank's rows, and attributes.
        """
        self._reserve(n_rows * sum(_row_bytes(rows) for _, rows, _ in columns))
        most = allreduce_max(self.comm, max((len(rows) for _, rows, _ in columns), default=0))
        for name, rows, attributes in columns:
            dataset = self._create(name, (n_rows, *rows.shape[1:]), rows.dtype, attributes)
            self._write_rounds(dataset, start, np.ascontiguousarray(rows), most)

    def write(self, dataset: h5py.Dataset, start: int, rows: np.ndarray | None) -> None:
        """Write this rank's rows from row `start` on; None or no rows joins with nothing.

        The rows must have the dataset's dtype: a conversion would break up the collective write.
        """
        if rows is None:
            rows = np.empty((0, *dataset.shape[1:]), dataset.dtype)
        rows = np.ascontiguousarray(rows)
        if rows.dtype != dataset.dtype:
            raise TypeError(f"{dataset.name}: {rows.dtype} rows for a {dataset.dtype} dataset")
        self._write_rounds(dataset, start, rows, allreduce_max(self.comm, len(rows)))

    def _write_rounds(self, dataset: h5py.Dataset, start: int, rows: np.ndarray, most: int) -> None:
        # as often as the rank with most rows, of which there are `most`
        per_round = max(1, ROUND_BYTES // max(1, _row_bytes(rows)))
        for first in range(0, most, per_round):
            self._write_slab(dataset, start + first, rows[first : first + per_round])

    def _write_slab(self, dataset: h5py.Dataset, start: int, rows: np.ndarray) -> None:
        in_file = dataset.id.get_space()
        if len(rows):
            in_memory = h5s.create_simple(rows.shape)
            in_file.select_hyperslab((start,) + (0,) * (rows.ndim - 1), rows.shape)
        else:
            # a selection of nothing still needs a buffer that is not NULL
            rows = np.empty((1,) * rows.ndim, rows.dtype)
            in_memory = h5s.create_simple(rows.shape)
            in_memory.select_none()
            in_file.select_none()
        self._write_together(dataset, in_memory, in_file, rows)

    def store(self, name: str, value, **attributes) -> None:
        """Write a whole small array, string or number that rank 0 has; every rank calls it."""
        array = fixed_length(value)
        shape, dtype = self.comm.bcast((array.shape, array.dtype))
        self._reserve(int(np.prod(shape)) * dtype.itemsize)
        dataset = self._file.create_dataset(name, shape, dtype, fill_time="never")
        dataset.attrs.update(attributes)
        if 0 in shape:
            return
        in_file = dataset.id.get_space()
        in_memory = h5s.create_simple(shape) if shape else h5s.create(h5s.SCALAR)
        if self.comm.rank:
            array = np.empty(shape, dtype)
            in_file.select_none()
            in_memory.select_none()
        self._write_together(dataset, in_memory, in_file, array)

    def _write_together(self, dataset, in_memory, in_file, array: np.ndarray) -> None:
        transfer = h5p.create(h5p.DATASET_XFER)
        if self.comm.size > 1:
            transfer.set_dxpl_mpio(h5py.h5fd.MPIO_COLLECTIVE)
        dataset.id.write(in_memory, in_file, np.ascontiguousarray(array), dxpl=transfer)

    def close(self) -> None:
        """Close the file, complete but still under its temporary name."""
        self._file.close()
        if self.comm.size == 1:
            # of the room that was kept for it HDF5 gives back the rest only through MPI-IO; a file
            # whose end is not known is whole all the same
            with open(open_own(self.part), "r+b") as file, suppress(UnknownLayoutError):
                file.truncate(end_in_superblock(file.read(SUPERBLOCK_BYTES)))


def end_in_superblock(head: bytes) -> int:
    """Return where a file of `LIBVER` ends, from its first `SUPERBLOCK_BYTES`.

    Superblock version 0, with addresses and lengths of 8 bytes (HDF5 File Format, II.A).

    Raises
    ------
    UnknownLayoutError
        If it has another version.
    """
    if head[:9] != _SIGNATURE + b"\0" or head[13:15] != b"\x08\x08":
        raise UnknownLayoutError("superblock of another version")
    return struct.unpack_from("<Q", head, END_IN_SUPERBLOCK)[0]


def compressed_layout(shape: tuple[int, ...], dtype, chunk_rows: int) -> dict:
    """Return the arguments of ``create_dataset`` for shuffle + gzip 1 with chunks of some rows."""
    return {
        "chunks": (max(1, min(chunk_rows, shape[0])), *shape[1:]),
        "maxshape": (None, *shape[1:]),
        "compression": "gzip",
        "compression_opts": 1,
        "shuffle": np.dtype(dtype).itemsize > 1,
    }


def _row_bytes(rows: np.ndarray) -> int:
    return int(np.prod(rows.shape[1:])) * rows.dtype.itemsize


def fixed_length(value) -> np.ndarray:
    """Return a value as an array; text as UTF-8 of fixed length, as parallel files need it."""
    array = np.asarray(value)
    return np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
