"""Output files on a disk that may be full, who may read them, and reading them again.

HDF5 does not get over a write that fails: closing the file fails, too, the program crashes when it
ends, and in a parallel file the other ranks wait for ever. So space is reserved before a parallel
file is written to, and files of one rank go through `GuardedFile`, which HDF5 never sees fail.
"""

import errno
import io
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py

from xfelmpi.core.errors import OutputError
from xfelmpi.io.partial_file import create_new, final_name, open_own

_SMALL = 1 << 16
"""Bytes of a write that HDF5 may want to read again: its own structures, not data."""

_PAGE = 4096


def cannot_write(path: Path, error: OSError, needed: int = 0) -> OutputError:
    """Return the error of a file that cannot be written, e.g. because there is no room.

    Parameters
    ----------
    path : Path
        May be the temporary name.
    error : OSError
    needed : int
        Bytes of the whole file, as far as that is known.
    """
    text = f"{final_name(path)}: cannot be written ({error.strerror}{owned_by(path, error)})"
    if needed:
        text += f": it needs {needed:,} bytes"
    if needed and error.errno == errno.ENOSPC:
        with suppress(OSError):
            text += f", {free_bytes(path.parent):,} are free there"
    return OutputError(text)


def owned_by(path: Path, error: OSError) -> str:
    """Return whose file or folder was in the way, if permissions were; else nothing."""
    if error.errno not in (errno.EACCES, errno.EPERM):
        return ""
    for place in (path, *path.parents):
        with suppress(OSError):
            return f"; {place} belongs to {user_name(place.lstat().st_uid)}"
    return ""


def user_name(uid: int) -> str:
    """Return the name of a user, or the number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return f"user {uid}"


def free_bytes(folder: Path) -> int:
    """Return how much room the disk of a folder has for this user."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def check_room(folder: Path, needed: int) -> None:
    """Check, before the work, that the outputs have at least the room that they surely need.

    Raises
    ------
    OutputError
        If they have not.
    """
    free = free_bytes(folder)
    if free < needed:
        raise OutputError(
            f"{folder}: found {free:,} bytes free there, the outputs need at least {needed:,}"
        )


def reserve(path: Path, size: int, *, anew: bool = False) -> None:
    """Have the disk keep room for a file of `size` bytes, `anew` for one to be made; one rank.

    Raises
    ------
    OutputError
        If there is not so much. The file is removed then.
    """
    try:
        fd = create_new(path) if anew else open_own(path)
        try:
            there = os.fstat(fd).st_size
            if size > there:
                os.posix_fallocate(fd, there, size - there)
        finally:
            os.close(fd)
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise cannot_write(path, error, size) from None


class GuardedFile(io.RawIOBase):
    """A file for h5py that takes everything, and remembers the first write that failed.

    Parameters
    ----------
    path : Path
    mode : str
        ``w`` or ``r+``.

    Attributes
    ----------
    error : OSError or None
        The first failure.
    needed : int
        Bytes that the file would have.
    """

    def __init__(self, path: Path, mode: str):
        fd = create_new(path) if mode == "w" else open_own(path)
        self._file = open(fd, "r+b", buffering=0)  # noqa: SIM115
        self._at = 0
        self.error: OSError | None = None
        self.needed = self._file.seek(0, os.SEEK_END)
        # what was not written but may be read again, by number of the page
        self._pages: dict[int, bytearray] = {}

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go somewhere; where the end is counts what could not be written."""
        self._at = self.needed + offset if whence == os.SEEK_END else offset
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def readinto(self, buffer) -> int:
        """Read, with zeros behind the end."""
        view = memoryview(buffer).cast("B")
        data = os.pread(self._file.fileno(), len(view), self._at)
        view[: len(data)] = data
        view[len(data) :] = bytes(len(view) - len(data))
        for number, a, b in self._parts(len(view)) if self._pages else ():
            if number in self._pages:
                start = max(0, number * _PAGE - self._at)
                view[start : start + b - a] = self._pages[number][a:b]
        self._at += len(view)
        return len(view)

    def write(self, data) -> int:
        """Write, or keep in memory what may be wanted again."""
        view = memoryview(data).cast("B")
        try:
            done = 0
            while not self.error and done < len(view):
                done += os.pwrite(self._file.fileno(), view[done:], self._at + done)
        except OSError as error:
            self.error = error
        if self.error and len(view) <= _SMALL:
            for number, a, b in self._parts(len(view)):
                start = max(0, number * _PAGE - self._at)
                self._page(number)[a:b] = view[start : start + b - a]
        self._at += len(view)
        self.needed = max(self.needed, self._at)
        return len(view)

    def _parts(self, n: int) -> Iterator[tuple[int, int, int]]:
        """Yield (page, first byte, end) of the n bytes at the place."""
        for number in range(self._at // _PAGE, -(-(self._at + n) // _PAGE)):
            first = number * _PAGE
            yield number, max(self._at - first, 0), min(self._at + n - first, _PAGE)

    def _page(self, number: int) -> bytearray:
        if number not in self._pages:
            there = os.pread(self._file.fileno(), _PAGE, number * _PAGE)
            self._pages[number] = bytearray(there.ljust(_PAGE, b"\0"))
        return self._pages[number]

    def truncate(self, size: int) -> int:
        """Set the size."""
        self.needed = size
        if not self.error:
            try:
                self._file.truncate(size)
            except OSError as error:
                self.error = error
        return size

    def flush(self) -> None:
        """Do nothing: what is written is with the system already."""

    def close(self) -> None:
        """Close the file."""
        super().close()
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error


@contextmanager
def serial_file(path: Path, mode: str = "w", **options) -> Iterator[h5py.File]:
    """Open an HDF5 file for writing by this rank alone; `options` are those of `h5py.File`.

    Raises
    ------
    OutputError
        At the end, if something could not be written. The file is removed then.
    """
    try:
        guarded = GuardedFile(path, mode)
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        with h5py.File(guarded, mode, **options) as file:
            yield file
    finally:
        guarded.close()
        if guarded.error:
            with suppress(OSError):
                path.unlink()
            raise cannot_write(path, guarded.error, guarded.needed) from None


def make_readable(path: Path) -> None:
    """Let group and world read a file, or enter a folder, besides what the umask allows."""
    enter = 0o111 if path.is_dir() else 0
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(((0o666 | enter) & ~umask) | 0o044 | enter)


def make_folder(path: Path) -> None:
    """Make a folder, and the parents that it lacks, which group and world may read.

    Raises
    ------
    OSError
        If that cannot be.
    """
    if path.is_dir():
        return
    if path.is_symlink() and not path.exists():
        gone = f"{path} is a link to {path.readlink()}, which is not there"
        raise FileNotFoundError(errno.ENOENT, gone, str(path))
    if path.parent != path:
        make_folder(path.parent)
    try:
        path.mkdir()
    except FileExistsError:
        # another job was faster, or it is a file
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{path} is not a folder", str(path)) from None
        return
    with suppress(PermissionError):
        make_readable(path)
        _share_like_parent(path)


def _share_like_parent(path: Path) -> None:
    """Let the group write a new folder if its parent is one that a group shares (mode 2775)."""
    parent = stat.S_IMODE(path.parent.stat().st_mode)
    if parent & stat.S_ISGID and parent & stat.S_IWGRP:
        path.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_ISGID | stat.S_IWGRP)
