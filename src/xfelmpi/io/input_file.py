"""Opening files that may be damaged: errors that name the file.

HDF5 1.10 may crash on damaged metadata, or read for ever. That ends the job, after `CPU_SECONDS` at
the latest, with a traceback that names the file.
"""

import errno
import faulthandler
import fcntl
import os
import re
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType

import h5py
import numpy as np

from xfelmpi.core import hdf5_locks
from xfelmpi.core.errors import InputError
from xfelmpi.core.regular_file import open_regular
from xfelmpi.io.links import require_files, require_files_everywhere

CPU_SECONDS = 30.0
"""What reading one file's metadata may take of the processor; other waiting does not count."""


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
