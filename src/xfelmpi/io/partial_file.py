"""Files that are not finished: names of their own, opened new, swept when their job is dead.

An unfinished file is ``NAME.<process id>.part``. Nobody can foresee the id, so nobody can prepare
such a name; the file is made new, without following links, and must be the same file when it gets
its final name. A job that replaces the stale lock of another one removes the unfinished files of
that one first: should the other wake up again, it has nothing left to give a name to.
"""

import os
import re
import stat
from collections.abc import Callable, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from xfelmpi.core.errors import OutputError
from xfelmpi.core.job import job_is_running, process_id
from xfelmpi.core.shutdown import stop_plan

ENDING = ".part"

FORGOTTEN_AFTER = 3600.0
"""Seconds after which an unfinished file is removed if nobody can tell whether its job runs."""

_NAME = re.compile(
    r"(?P<final>.+?)(?P<old>\.old)?\.(?P<job>[0-9a-f]{12}-\d+-\d+-[0-9a-f]{8})\.part"
)


@dataclass
class _State:
    """Of this process: which files it made, and how it sees that they are still its own to make."""

    made: dict[Path, tuple[int, int]] = field(default_factory=dict)
    locks: list[Callable[[], None]] = field(default_factory=list)


_state = _State()


@contextmanager
def guarded_by(check: Callable[[], None]):
    """Have `check` called in a block before files get names, besides those of blocks around it.

    It raises if another job has the lock.
    """
    _state.locks.append(check)
    try:
        yield
    finally:
        _state.locks.remove(check)


def check_lock() -> None:
    """Raise if the outputs are not this job's to write any more.

    Raises
    ------
    LostLockError
        If another job has taken a lock of this one, or it is gone.
    """
    for check in _state.locks:
        check()


def part_name(path: Path) -> Path:
    """Return the name of a file of this job while it is being written."""
    return path.with_name(f"{path.name}.{process_id()}{ENDING}")


def begin_partial(path: Path) -> Path:
    """Return the name of a file while it is being written; removed if the job is stopped."""
    part = part_name(path)
    stop_plan.unfinished.add(part)
    return part


def final_name(part: Path) -> Path:
    """Return the name that an unfinished file will get; other names stay as they are."""
    found = _NAME.fullmatch(part.name)
    return part.with_name(found["final"]) if found else part


def create_new(path: Path) -> int:
    """Make a file, open for reading and writing, and return its descriptor.

    What stands under that name is removed, not followed and not written to.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o666)
    except FileExistsError:
        path.unlink()
        fd = os.open(path, flags, 0o666)
    about = os.fstat(fd)
    _state.made[path] = about.st_dev, about.st_ino
    return fd


def open_own(path: Path) -> int:
    """Open a file of this job again for reading and writing, and return its descriptor.

    Raises
    ------
    OSError
        If it cannot be opened.
    OutputError
        If it is another file than the one that was made.
    """
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _compare(path, os.fstat(fd))
    except OutputError:
        os.close(fd)
        raise
    return fd


def check_own(path: Path) -> None:
    """Check that a file, opened by name in a library, is the one that this job made.

    Raises
    ------
    OSError
        If it is not there.
    OutputError
        If it is another one.
    """
    _compare(path, path.lstat())


def _compare(path: Path, about: os.stat_result) -> None:
    made = _state.made.get(path, (about.st_dev, about.st_ino))
    if not stat.S_ISREG(about.st_mode) or made != (about.st_dev, about.st_ino):
        raise OutputError(f"{path}: found another file than the one that this job made there")


def write_new(path: Path, data: bytes) -> None:
    """Make a file with this content; see `create_new`."""
    with open(create_new(path), "wb") as file:
        file.write(data)


def end_partial(part: Path) -> None:
    """Take note that an unfinished file is finished, or removed."""
    stop_plan.unfinished.discard(part)
    _state.made.pop(part, None)


def remove_unfinished() -> None:
    """Remove what this job has not finished: it failed. The names are its own."""
    for part in list(stop_plan.unfinished):
        with suppress(OSError):
            part.unlink(missing_ok=True)
        end_partial(part)


def sweep(paths: Iterable[Path], *, held: bool = True) -> None:
    """Remove what other jobs have left unfinished of files; one rank.

    What cannot be removed is left: names are different for every job.

    Parameters
    ----------
    paths : iterable of Path
        Final names.
    held : bool
        Whether this job has the lock, so that no other one may be writing them; else only files of
        dead jobs are removed.
    """
    for folder, names in _by_folder(paths).items():
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(ENDING) and _is_left_over(entry, names, held=held):
                    with suppress(OSError):
                        Path(entry.path).unlink()


def _by_folder(paths: Iterable[Path]) -> dict[Path, set[str]]:
    folders: dict[Path, set[str]] = {}
    for path in paths:
        folders.setdefault(path.parent, set()).add(path.name)
    return folders


def _is_left_over(entry: os.DirEntry, names: set[str], *, held: bool) -> bool:
    found = _NAME.fullmatch(entry.name)
    if not found:
        # as version 0.1 named them
        return held and entry.name.removesuffix(ENDING) in names
    if found["final"] not in names or found["job"] == process_id():
        return False
    if held:
        return True
    runs = job_is_running(found["job"])
    return not runs if runs is not None else _age(entry) > FORGOTTEN_AFTER


def _age(entry: os.DirEntry) -> float:
    """Return how much older a file is than its folder's last change: by one clock, not by two."""
    last = Path(entry.path).parent.stat().st_mtime
    return last - entry.stat(follow_symlinks=False).st_mtime


def unfinished_files(paths: Iterable[Path]) -> list[Path]:
    """Return the unfinished files of any job, given the final names."""
    return [
        path
        for folder, names in _by_folder(paths).items()
        for path in sorted(folder.glob(f"*{ENDING}"))
        if path.name.removesuffix(ENDING) in names or final_name(path).name in names
    ]
