"""Giving complete files their final names: all of them, or none."""

import ctypes
import os
import stat
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import h5py

from xfelmpi.core.errors import LostLockError, OutputError
from xfelmpi.core.shutdown import publishing
from xfelmpi.io.output_file import make_folder, make_readable, owned_by, serial_file, user_name
from xfelmpi.io.partial_file import (
    begin_partial,
    check_lock,
    check_own,
    create_new,
    end_partial,
    final_name,
    part_name,
    sweep,
)

_SYNC_FILE_RANGE_WRITE = 2
"""Of Linux: begin to write, without waiting."""


def check_writable(path: Path, *, held: bool = True) -> None:
    """Make the folder of a file and check that it can be written; one rank.

    What other jobs have left unfinished of this file is removed.

    Parameters
    ----------
    path : Path
    held : bool
        Whether this job has the lock of the file; else another one may be writing it. See `sweep`.

    Raises
    ------
    OutputError
        If it cannot.
    """
    part = begin_partial(path)
    try:
        make_folder(path.parent)
        os.close(create_new(part))
        part.unlink()
    except OSError as error:
        raise OutputError(
            f"{path.parent}: cannot be written ({error.strerror}{owned_by(path.parent, error)})"
        ) from None
    finally:
        end_partial(part)
    sweep([path], held=held)
    check_name(path)


def check_name(path: Path) -> None:
    """Check that a file can get its final name, as far as that can be seen before.

    Raises
    ------
    OutputError
        If something that is no file has that name, or somebody else's file in a sticky folder.
    """
    try:
        there = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(there.st_mode):
        raise OutputError(f"{path}: found a folder of that name, expected a file, or nothing")
    if not _may_be_replaced(path, there):
        raise OutputError(f"{path}: found something that is no file, expected a file, or nothing")
    folder = path.parent.stat()
    if folder.st_mode & stat.S_ISVTX and os.geteuid() not in (0, folder.st_uid, there.st_uid):
        raise OutputError(
            f"{path}: cannot be replaced: it belongs to {user_name(there.st_uid)}, and "
            f"{path.parent} is a folder in which only owners may replace files (sticky)"
        )


def _may_be_replaced(path: Path, there: os.stat_result) -> bool:
    """Return whether what has that name is a file, or a link that leads to none of the system's.

    Root could replace a device such as /dev/null, which all programs of a machine need.
    """
    if stat.S_ISLNK(there.st_mode):
        try:
            there = path.stat()
        except OSError:
            return True
        return stat.S_ISREG(there.st_mode) or stat.S_ISDIR(there.st_mode)
    return stat.S_ISREG(there.st_mode)


def publish(*paths: Path, obsolete: Iterable[Path] = ()) -> None:
    """Give complete files their final names and let group and world read them; one rank.

    HDF5 files get the time as ``end_time``, all the same one. No file gets its name before
    all are safely on disk.
    If one cannot get it, those that have theirs are replaced by what was there before.

    Parameters
    ----------
    *paths : Path
        Final names.
    obsolete : iterable of Path
        Files that are removed in the same step, if they are there.

    Raises
    ------
    OutputError
        If that cannot be.
    LostLockError
        If another job holds the lock now.
    """
    path, now = None, datetime.now(UTC).isoformat(timespec="seconds")
    try:
        check_lock()
        for path in paths:
            part = begin_partial(path)
            check_own(part)
            _stamp_end(part, now)
            make_readable(part)
        _side_by_side(_sync, paths)
        for path in (*paths, *obsolete):
            check_name(path)
        give_names(paths, obsolete)
    except OSError as error:
        name = path if error.filename is None else error.filename
        why = f"{error.strerror}{owned_by(Path(name), error)}"
        raise OutputError(f"{name}: cannot be written ({why})") from None


def give_names(paths: Iterable[Path], obsolete: Iterable[Path] = ()) -> None:
    """Rename complete files, and remove obsolete ones: all, or none if one cannot be; one rank.

    Raises
    ------
    OSError
        If that cannot be.
    LostLockError
        If another job holds the lock now.
    """
    with publishing():
        _Renaming().run(list(paths), list(obsolete))


class _Renaming:
    """Renames files, and remembers what was there before to be able to take it back."""

    def __init__(self):
        self._done: list[tuple[Path, Path | None]] = []

    def run(self, paths: Iterable[Path], obsolete: Iterable[Path]) -> None:
        """Rename all, or none."""
        try:
            for path in paths:
                check_lock()
                self._keep_old(path)
                begin_partial(path).replace(path)
            for path in obsolete:
                check_lock()
                self._keep_old(path)
                path.unlink(missing_ok=True)
        except LostLockError:
            # what is there now is another job's
            self._drop_old()
            raise
        except OSError:
            self._take_back()
            raise
        for path in paths:
            end_partial(begin_partial(path))
        self._drop_old()

    def _keep_old(self, path: Path) -> None:
        """Give what is there a second name."""
        old = begin_partial(path.with_name(f"{path.name}.old"))
        try:
            os.link(path, old, follow_symlinks=False)
        except FileNotFoundError:
            end_partial(old)
            old = None
        except OSError:
            # no links here, or not to files of others
            path.rename(old)
        self._done.append((path, old))

    def _take_back(self) -> None:
        try:
            check_lock()
        except LostLockError:
            self._drop_old()
            raise
        for path, old in reversed(self._done):
            with suppress(OSError):
                if old is None:
                    path.unlink(missing_ok=True)
                else:
                    old.replace(path)
        self._drop_old()

    def _drop_old(self) -> None:
        old = [name for _, name in self._done if name is not None]
        _side_by_side(_remove, old)
        for name in old:
            end_partial(name)


def _remove(path: Path) -> None:
    with suppress(OSError):
        # renaming a name to another one of the same file does nothing
        path.unlink(missing_ok=True)


def _side_by_side(work: Callable[[Path], None], paths: Sequence[Path]) -> None:
    """Do something for every path in a thread of its own: what waits for the disk."""
    # needed at the end of a job
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max(1, len(paths))) as pool:
        list(pool.map(work, paths))


def begin_sync(paths: Iterable[Path]) -> None:
    """Have the system begin to write complete files to disk, in a thread; `publish` waits for it.

    Parameters
    ----------
    paths : iterable of Path
        Final names.
    """
    parts = [part_name(path) for path in paths]
    # no thread to be had: `publish` waits longer
    with suppress(RuntimeError):
        # a daemon: a disk that does not answer must not keep the job from ending
        threading.Thread(target=_begin_sync, args=(parts,), daemon=True).start()


def _begin_sync(parts: list[Path]) -> None:
    for part in parts:
        # what is wrong with a file, `publish` says: fsync would take its error away
        with suppress(OSError, AttributeError):
            fd = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                whole = ctypes.c_int64(0), ctypes.c_int64(0)
                ctypes.CDLL(None).sync_file_range(fd, *whole, _SYNC_FILE_RANGE_WRITE)
            finally:
                os.close(fd)


def _sync(path: Path) -> None:
    """Wait until a complete file is safely on disk."""
    try:
        with open(begin_partial(path), "rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path)
        raise


def _stamp_end(part: Path, now: str) -> None:
    if not h5py.is_hdf5(part):
        return
    try:
        with serial_file(part, "r+") as file:
            file.attrs["end_time"] = now
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{final_name(part)}: cannot be written ({error})") from None
