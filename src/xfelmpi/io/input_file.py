"""Opening files that may be damaged: errors that name the file, and what HDF5 does not survive.

HDF5 1.10 reads for ever where the heap of a file's strings is damaged, and may crash on other
metadata. The heap is checked here, so that such a file is a problem like any other. Whatever else
there is ends the job, after `CPU_SECONDS` at the latest, with a traceback that names the file.
"""

import errno
import faulthandler
import fcntl
import math
import os
import re
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
from h5py import h5d, h5t

from xfelmpi.core import hdf5_locks
from xfelmpi.core.errors import InputError
from xfelmpi.core.regular_file import open_regular
from xfelmpi.io.links import require_files, require_files_everywhere
from xfelmpi.io.plain_values import plain_values

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
_TOLD = ("dataFormatVersion", "dataSources/dataSourceId")
_USUAL_FORMATS = ("1.0", "1.1", "1.2", "1.3")
"""Those that say their sources in the same place."""

_MOST_ENTRIES = 100_000
"""Trains or sources of a file at most."""

_LARGEST_HEAP = 64 << 20
_STRING = np.dtype([("length", "<u4"), ("heap", "<u8"), ("index", "<u4")])
_HEADER = 16

_DAMAGED = (KeyError, TypeError, ValueError, AttributeError, IndexError)
_DAMAGED += (OverflowError, RecursionError, MemoryError)
"""What reading a damaged output may raise besides what HDF5 does."""

_OF_RUN = re.compile(r"r(\d{4,9})_")
"""Name of an output; those of merged runs begin otherwise."""

_REFUSED = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE)


def end_with_traceback() -> None:
    """Have this process print where it is, files included, when HDF5 crashes or does not return."""
    # the MPI library's own handlers take memory, for which they wait for ever after a crash inside
    # malloc; this one has a stack of its own, and the system does the rest
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT):
        signal.signal(number, signal.SIG_DFL)
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


class ChangedFileError(OSError):
    """A file is not the one that it was."""


def check_input(path) -> None:
    """Check that a path is a regular file that nobody writes to through HDF5.

    Raises
    ------
    OSError
        If it is not.
    """
    descriptor = open_regular(path)
    try:
        if not hdf5_locks.locks_are_off():
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = "unable to lock it: it is open for writing elsewhere (is it complete?); "
        text += f"{hdf5_locks.VARIABLE}=FALSE reads it all the same"
        raise LockedFileError(text) from None
    except OSError:
        # the file system has no locks: HDF5 is told to do without, too
        pass
    finally:
        os.close(descriptor)


class LockedFileError(OSError):
    """Another program has a file open for writing."""


def open_hdf5(path) -> h5py.File:
    """Open an HDF5 file to read; every file of others is opened by this function.

    Raises
    ------
    OSError
        If it is not a regular file, open for writing elsewhere, not HDF5, or if ids and sources
        are behind links to something that is no file.
    """
    check_input(path)
    file = h5py.File(path, "r")
    try:
        require_files(file, "INDEX/*", "METADATA/*", "METADATA/dataSources/*")
    except Exception:
        file.close()
        raise
    return file


def file_stamp(status: os.stat_result) -> str:
    """Return what changes when a file is replaced or written to, the same on all nodes."""
    return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


class Origins:
    """The files that frames were read from, as they were when they were opened."""

    def __init__(self):
        self._stamps: dict[str, set[str]] = {}

    def add(self, path: str, descriptor: int | None) -> None:
        """Remember a file that is open."""
        status = Path(path).stat() if descriptor is None else os.fstat(descriptor)
        self._stamps.setdefault(path, set()).add(file_stamp(status))

    def check(self) -> None:
        """Check that all files still are what they were.

        Raises
        ------
        InputError
            If one was replaced or written to.
        """
        for path, stamps in self._stamps.items():
            try:
                now = file_stamp(Path(path).stat())
            except OSError as error:
                now = str(error)
            if stamps != {now}:
                raise InputError(
                    f"{path}: changed while it was read; the run is being corrected again or "
                    "still written: process it when that is done"
                )


class FinishedFiles:
    """The outputs of finished runs that a command reads more than once, as they were at first.

    Another job may process a run again meanwhile, and replace them.
    """

    def __init__(self):
        self._stamps: dict[str, str] | None = None

    @contextmanager
    def unchanged(self):
        """Have every finished file stay what it was when it was first opened in the block."""
        before, self._stamps = self._stamps, {}
        try:
            yield
        finally:
            self._stamps = before

    def share(self, comm) -> None:
        """Let all ranks expect what rank 0 has opened until now; collective."""
        self._stamps = comm.bcast(self._stamps)

    def check(self, path: Path, file: h5py.File) -> None:
        """Check that a file that was opened is the same as before.

        Raises
        ------
        InputError
            If it is another one.
        """
        if self._stamps is None:
            return
        now = file_stamp(os.fstat(file.id.get_vfd_handle()))
        if self._stamps.setdefault(str(path), now) != now:
            raise InputError(
                f"{path}: changed while it was read: another job has replaced it; start again"
            )


finished_files = FinishedFiles()
"""Of this process."""


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
        with open_hdf5(path) as file:
            require_files_everywhere(file)
            yield file
    except (OSError, RuntimeError) as error:
        text = error.strerror if getattr(error, "filename", None) else str(error)
        text = hdf5_locks.advice(text)
        # that the system refuses it says nothing of the file's content
        refused = "unable to lock" in text
        if not refused and (number := getattr(error, "errno", None)) in _REFUSED:
            refused, text = True, os.strerror(number)
        raise InputError(f"{path}: {text}{'' if refused else f'; expected {expected}'}") from None


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
            finished_files.check(path, file)
            _check_run(path, file)
            yield file
    except _DAMAGED as error:
        raise InputError(f"{path}: {error}; expected {expected}") from None


def _check_run(path: Path, file: h5py.File) -> None:
    """Check that an output is of the run that its name says, if both say one."""
    named, run = _OF_RUN.match(path.name), file.attrs.get("run")
    if named and isinstance(run, np.integer) and int(run) != int(named[1]):
        raise ValueError(f"is of run {run}")


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

    with open_hdf5(path) as file, warnings.catch_warnings():
        _check_sizes(file)
        _check_sources(file)
        _check_strings(file)
        warnings.simplefilter("ignore")
        return FileAccess(str(path))


def plain_sources(
    file: h5py.File, *, all_strings: bool = False
) -> tuple[str, frozenset[str], frozenset[str]]:
    """Return format, instrument and control sources of a file stored as the facility does.

    As EXtra-data reads them (``FileAccess._read_data_sources``), of the formats since 1.0.

    Parameters
    ----------
    file : h5py.File
    all_strings : bool
        Check the heaps of all strings, not only of those that are read here.

    Raises
    ------
    ValueError
        If there is anything unusual: EXtra-data reads it, or says what is wrong.
    """
    _check_strings(file, _STRINGS if all_strings else _TOLD)
    version, names = (plain_values(file, f"METADATA/{n}", "OS", _MOST_ENTRIES) for n in _TOLD)
    if version is None or names is None or version.ndim != 1 or names.ndim != 1:
        raise ValueError("format or sources are missing, or not stored as usual")
    if (number := version[0].decode("ascii")) not in _USUAL_FORMATS:
        raise ValueError(f"format {number}")
    sources, control = set(), set()
    for name in filter(None, names.tolist()):
        category, _, source = name.decode().partition("/")
        if category not in ("INSTRUMENT", "CONTROL"):
            raise ValueError(f"source {name}")
        if category == "INSTRUMENT":
            device, _, channel = source.partition(":")
            sources.add(f"{device}:{channel.partition('/')[0]}")
        else:
            control.add(source)
    return number, frozenset(sources), frozenset(control)


def _check_sizes(file: h5py.File) -> None:
    """Check that what EXtra-data reads whole when it opens a file is no more than a file has."""
    for name in _READ_WHOLE:
        data = file.get(name)
        if isinstance(data, h5py.Dataset) and (data.size is None or data.size > _MOST_ENTRIES):
            raise ValueError(f"{name} has {data.size} values, expected at most {_MOST_ENTRIES}")


def _check_sources(file: h5py.File) -> None:
    """Check that what says which trains and sources there are is not made up by HDF5.

    It gives zeros for sources of virtual data that are missing, and does not return from data that
    are their own source: what it takes if a source is gone and the file has the same name.
    """
    from xfelmpi.io.dataset_storage import require_readable
    from xfelmpi.io.virtual_sources import lacking

    for group in ("INDEX", "METADATA", "METADATA/dataSources"):
        found = file.get(group)
        for name in found if isinstance(found, h5py.Group) else ():
            data = found.get(name)
            if not isinstance(data, h5py.Dataset) or data.shape is None:
                continue
            require_readable(data)
            if (data.is_virtual or data.external) and (reason := lacking(data)):
                raise ValueError(f"{group}/{name}: {reason}")


def _check_strings(file: h5py.File, names: tuple[str, ...] = _STRINGS) -> None:
    """Check the heaps of the strings that tell format and sources."""
    plist = file.id.get_create_plist()
    if file.driver != "sec2" or file.userblock_size or tuple(plist.get_sizes()) != (8, 8):
        # addresses of another width, or counted from another place: not those of the DAQ's files
        return
    fd = file.id.get_vfd_handle()
    heaps = set()
    for name in names:
        try:
            data = h5d.open(file.id, f"METADATA/{name}".encode())
        except KeyError:
            continue
        kind = data.get_type()
        if not isinstance(kind, h5t.TypeStringID) or not kind.is_variable_str():
            continue
        if data.get_create_plist().get_layout() in (h5d.COMPACT, h5d.CONTIGUOUS):
            place, n_values = data.get_offset(), math.prod(data.shape)
            n_bytes = min(n_values, 1 << 16) * _STRING.itemsize
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
