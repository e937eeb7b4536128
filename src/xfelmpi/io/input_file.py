"""Opening files that may be damaged: errors that name the file, and what HDF5 does not survive.

HDF5 1.10 reads for ever where the heap of a file's strings is damaged, and may crash on other
metadata. The heap is checked here, so that such a file is a problem like any other. Whatever else
there is ends the job, after `CPU_SECONDS` at the latest, with a traceback that names the file.
"""

import errno
import faulthandler
import os
import signal
import struct
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType

import h5py
import numpy as np

from xfelmpi.core.errors import InputError

CPU_SECONDS = 30.0
"""What reading one file's metadata may take of the processor; other waiting does not count."""

_STRINGS = (
    "dataFormatVersion",
    *(f"dataSources/{n}" for n in ("dataSourceId", "deviceId", "root")),
)
"""What EXtra-data reads of ``METADATA`` when it opens a file."""

_READ_WHOLE = (
    *("INDEX/trainId", "INDEX/flag", "METADATA/dataFormatVersion"),
    *("METADATA/dataSourceId", "METADATA/dataSources/dataSourceId"),
)
_MOST_ENTRIES = 100_000
"""Trains or sources of a file at most."""

_LARGEST_HEAP = 64 << 20
_STRING = np.dtype([("length", "<u4"), ("heap", "<u8"), ("index", "<u4")])
_HEADER = 16

_DAMAGED = (KeyError, TypeError, ValueError, AttributeError, IndexError)
_DAMAGED += (OverflowError, RecursionError, MemoryError)
"""What reading a damaged output may raise besides what HDF5 does."""

_REFUSED = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE)


def end_with_traceback() -> None:
    """Have this process print where it is, files included, when HDF5 crashes or does not return."""
    faulthandler.enable()
    faulthandler.register(signal.SIGVTALRM, all_threads=False, chain=True)


def guarded_call(path, read, *arguments):
    """Return ``read(*arguments)``; a traceback from within names the file.

    Tracebacks of crashes have the names of functions and of their source files only: this one's
    source is said to be the file.
    """
    code = _call.__code__.replace(co_filename=str(path), co_name="HDF5_fails_on_this_file")
    before = signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)[0]
    try:
        return FunctionType(code, globals())(read, arguments)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, before)


def _call(read, arguments):
    try:
        return read(*arguments)
    except Exception as error:
        # closes what was opened on the way, which is a chance to crash, too
        traceback.clear_frames(error.__traceback__)
        raise


@contextmanager
def input_file(path: Path, expected: str) -> Iterator[h5py.File]:
    """Open an HDF5 file to read; whatever HDF5 cannot read during the block is an `InputError`.

    Whether the file has what the block looks for is the block's own affair.

    Parameters
    ----------
    path : Path
    expected : str
        What it should be, for the message, e.g. ``a mask file``.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        # that the system refuses it says nothing of the file's content
        refused = getattr(error, "errno", None) in _REFUSED
        raise InputError(f"{path}: {error}{'' if refused else f'; expected {expected}'}") from None


@contextmanager
def finished_file(path: Path, expected: str) -> Iterator[h5py.File]:
    """Open an output of a finished run as `input_file` does; so is what it lacks an `InputError`.

    Parameters
    ----------
    path : Path
    expected : str
        What it should be, for the message, e.g. ``an events file``.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; process the run first")
    expected = f"{expected} of this version; process the run again"
    try:
        with input_file(path, expected) as file:
            yield file
    except _DAMAGED as error:
        raise InputError(f"{path}: {error}; expected {expected}") from None


def open_access(path):
    """Open a file by EXtra-data, which knows every version of the format.

    Raises
    ------
    Exception
        Whatever EXtra-data and HDF5 raise, and `ValueError` for damaged strings.
    """
    return guarded_call(path, _open_access, path)


def read_access(path, read, *arguments):
    """Return ``read(access, *arguments)`` of a file opened by EXtra-data, and closed again.

    Raises
    ------
    Exception
        As for `open_access`, or what `read` raises.
    """
    return guarded_call(path, _read_access, path, read, arguments)


def _read_access(path, read, arguments):
    access = _open_access(path)
    try:
        return read(access, *arguments)
    finally:
        access.close()


def _open_access(path):
    # extra_data takes a second to import: only the rank that indexes pays for it
    from extra_data.file_access import FileAccess

    with h5py.File(path, "r") as file, warnings.catch_warnings():
        _check_sizes(file)
        _check_strings(file)
        warnings.simplefilter("ignore")
        return FileAccess(str(path))


def _check_sizes(file: h5py.File) -> None:
    """Check that what EXtra-data reads whole when it opens a file is no more than a file has."""
    for name in _READ_WHOLE:
        data = file.get(name)
        if isinstance(data, h5py.Dataset) and (data.size is None or data.size > _MOST_ENTRIES):
            raise ValueError(f"{name} has {data.size} values, expected at most {_MOST_ENTRIES}")


def _check_strings(file: h5py.File) -> None:
    """Check the heaps of the strings that tell format and sources."""
    fd = file.id.get_vfd_handle()
    heaps = set()
    for name in _STRINGS:
        data = file.get(f"METADATA/{name}")
        if not isinstance(data, h5py.Dataset) or h5py.check_string_dtype(data.dtype) is None:
            continue
        if h5py.check_string_dtype(data.dtype).length is None and data.chunks is None:
            place, n_bytes = data.id.get_offset(), min(data.size, 1 << 16) * _STRING.itemsize
            stored = os.pread(fd, n_bytes, place) if place is not None else b""
            whole = len(stored) // _STRING.itemsize
            heaps.update(np.frombuffer(stored, _STRING, whole)["heap"].tolist())
    for address in sorted(heaps - {0}):
        _check_heap(fd, address)


def _check_heap(fd: int, address: int) -> None:
    """Check that the objects of a global heap collection end where it ends (HDF5: III.E)."""
    try:
        signature, size = struct.unpack("<8sQ", os.pread(fd, _HEADER, address))
        if signature != b"GCOL\1\0\0\0" or not _HEADER <= size <= _LARGEST_HEAP:
            raise ValueError(f"{signature} of {size} bytes")
        heap = os.pread(fd, size, address)
        if len(heap) < size:
            raise ValueError(f"{len(heap)} of {size} bytes")
        at = _HEADER
        while at + _HEADER <= size:
            index, length = struct.unpack_from("<H6xQ", heap, at)
            # number 0 is the free space, with its header
            need = _HEADER + (length + 7) // 8 * 8 if index else length
            if need < _HEADER or at + need > size:
                raise ValueError(f"object {index} of {length} bytes at {at} of {size}")
            at += need
    except (ValueError, struct.error, OverflowError, OSError) as error:
        raise ValueError(f"heap of strings at {address} is damaged: {error}") from None
