"""One job at a time writes the outputs of a run: a lock file that says who, and is kept fresh.

It works where file systems of clusters have no other locks: names are made with ``link`` and
``rename``, which are atomic on NFS and GPFS, too. A lock whose owner is dead, or has not touched it
for minutes, is stale and may be removed. Every lock has a token; who wants to replace the one with
token T must first make the name ``LOCK.T``, which only one can, and then see that the lock still
has this token.

Whether the owner is dead is told by its process only where processes are the same: on the same boot
of a machine and in the same PID namespace. Anywhere else only the age of the lock counts, by the
clock of the file system. A job may be suspended for so long that it loses its lock; it looks at
the token again before it gives files their names, and ends.
"""

import errno
import getpass
import json
import os
import re
import stat
import threading
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from functools import partial
from pathlib import Path
from time import monotonic, sleep, time

from xfelmpi.core.errors import BusyError, LostLockError, OutputError
from xfelmpi.core.job import UNKNOWN, birth_of, is_running, machine_id
from xfelmpi.core.log import date_text, log
from xfelmpi.core.shutdown import stop_plan
from xfelmpi.core.text import printable
from xfelmpi.io.output_file import make_folder, make_readable, owned_by
from xfelmpi.io.partial_file import (
    begin_partial,
    end_partial,
    guarded_by,
    remove_unfinished,
    sweep,
    write_new,
)
from xfelmpi.mpi import bcast_from_root

TOUCH_EVERY = 20.0
"""Seconds between signs of life."""

STALE_AFTER = 180.0
"""Seconds without one after which a lock is stale."""

_WITHOUT_LINKS = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems that have no links answer."""

_ATTEMPTS = 50
_LARGEST = 1 << 14
"""Bytes of a lock file."""

_TOKEN = re.compile(r"[0-9a-f]{1,64}")


@dataclass(frozen=True)
class Owner:
    """Who holds a lock; the lock file has these as JSON.

    Parameters
    ----------
    user, host : str
    machine : str
        See `machine_id`.
    pid : int
    birth : int
        When the process started, in the system's clock ticks: tells that its number is used again.
    job, restart : str
        Of Slurm, or empty.
    since : float
        Seconds since 1970.
    token : str
        Random.
    """

    user: str = "somebody"
    host: str = "an unknown host"
    machine: str = UNKNOWN
    pid: int = 0
    birth: int = 0
    job: str = ""
    restart: str = ""
    since: float = 0.0
    token: str = "unknown"

    def __str__(self):
        job = f"job {self.job}" if self.job else f"process {self.pid}"
        try:
            since = f"{datetime.fromtimestamp(self.since).astimezone():%Y-%m-%d %H:%M}"
        except (OverflowError, ValueError, OSError):
            since = date_text(self.since)
        return printable(f"{self.user} on {self.host} ({job}) since {since}")


@contextmanager
def held(comm, path: Path, what: str):
    """Hold a lock during a block; collective.

    Parameters
    ----------
    comm : Intracomm
    path : Path
        Of the lock file.
    what : str
        What must be done by one job only, e.g. ``run 50 is being processed``.

    Raises
    ------
    BusyError
        On all ranks, if another job holds it.
    OutputError
        On all ranks, if it cannot be made.
    """
    token = bcast_from_root(comm, lambda: acquire(path, what))
    with _kept(path, token, keeps=comm.rank == 0):
        try:
            yield
        except BaseException:
            # whoever fails first ends the job, and may be the last one who can do this
            remove_unfinished()
            release(path, token)
            raise
        if comm.rank == 0:
            release(path, token)


@contextmanager
def held_by_one(path: Path, what: str, wait: float = 0.0):
    """Hold a lock during a block, as `held` does, in one process alone.

    Parameters
    ----------
    path : Path
        Of the lock file.
    what : str
        As in `held`.
    wait : float
        Seconds to wait for another process that holds it.

    Raises
    ------
    BusyError
        If another process holds it.
    OutputError
        If it cannot be made.
    """
    end = monotonic() + wait
    while True:
        try:
            token = acquire(path, what)
            break
        except BusyError:
            if monotonic() >= end:
                raise
            sleep(0.5)
    with _kept(path, token):
        try:
            yield
        finally:
            release(path, token)


@contextmanager
def _kept(path: Path, token: str, *, keeps: bool = True):
    """Check in a block that a lock is still the own one, and keep it fresh if this rank `keeps` it.

    Blocks may be nested, as in a command that changes the outputs of several runs.
    """
    stop, let_go = threading.Event(), partial(release, path, token)
    with guarded_by(lambda: check_held(path, token)):
        if keeps:
            stop_plan.releases.append(let_go)
            threading.Thread(target=_keep_fresh, args=(path, token, stop), daemon=True).start()
        try:
            yield
        finally:
            stop.set()
            if keeps:
                stop_plan.releases.remove(let_go)


def check_held(path: Path, token: str) -> None:
    """Check that a lock is still the own one; any rank.

    Raises
    ------
    LostLockError
        If it is not.
    """
    try:
        owner = _read(path)
    except FileNotFoundError:
        found = "is gone"
    else:
        if owner.token == token:
            return
        found = f"is held by {owner}"
    raise LostLockError(
        f"{path} {found}: this job lost it, perhaps because it was suspended for more than "
        f"{STALE_AFTER / 60:.0f} min. It ends here and leaves all outputs as they are"
    )


def held_if_there(comm, folder: Path, path: Path, what: str):
    """Return what holds a lock as `held` does, or nothing if a folder is not there; collective.

    Without the experiment folder a job only says so, and must not make the folders of its lock.
    """
    return held(comm, path, what) if bcast_from_root(comm, folder.is_dir) else nullcontext()


def acquire(path: Path, what: str) -> str:
    """Make a lock file, or replace one that is stale, and return its token; one rank.

    Raises
    ------
    BusyError
        If another job holds it.
    OutputError
        If it cannot be made.
    """
    own = _myself()
    mine = begin_partial(path)
    gone: OSError | None = None
    try:
        for _ in range(_ATTEMPTS):
            make_folder(path.parent)
            try:
                write_new(mine, json.dumps(asdict(own)).encode())
                make_readable(mine)
                sweep([path], held=False)
                if _link(mine, path) or _take_over(path, mine, what):
                    return own.token
                gone = None
            except FileNotFoundError as error:  # the folder: another job has just ended
                gone = error
            sleep(0.1)
        if gone:  # every time, as in /proc
            raise gone
    except OSError as error:
        text = f"{path}: cannot be written ({error.strerror}{owned_by(path, error)})"
        raise OutputError(text) from None
    finally:
        with suppress(OSError):
            mine.unlink()
        end_partial(mine)
    raise BusyError(f"{path}: other jobs take this lock all the time")


def release(path: Path, token: str) -> None:
    """Remove a lock file, if it is still the own one; may be called again."""
    with suppress(OSError):
        if _read(path).token == token:
            path.unlink()
            path.parent.rmdir()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _myself() -> Owner:
    return Owner(
        user=_user(),
        host=os.uname().nodename,
        machine=machine_id(),
        pid=os.getpid(),
        birth=birth_of("self") or 0,
        job=os.environ.get("SLURM_JOB_ID", ""),
        restart=os.environ.get("SLURM_RESTART_COUNT", ""),
        since=time(),
        token=os.urandom(8).hex(),
    )


def _link(mine: Path, name: Path) -> bool:
    """Give the own file one more name, or copy it, if nothing has that name yet."""
    try:
        try:
            os.link(mine, name, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _WITHOUT_LINKS:
                raise
            # "x" follows no link and makes a new file
            with open(name, "x", encoding="utf-8") as file:
                file.write(mine.read_text(encoding="utf-8"))
    except FileExistsError:
        return False
    return True


def _read(path: Path) -> Owner:
    """Return who holds a lock.

    Raises
    ------
    FileNotFoundError
        If nobody does.
    OSError
        If there is something else than a file.
    """
    try:
        values = json.loads(_text(path))
        known = {f.name: f.type(values[f.name]) for f in fields(Owner) if f.name in values}
        owner = Owner(**known)
        str(owner)
        if not _TOKEN.fullmatch(owner.token):  # it becomes a part of a file's name
            raise ValueError(owner.token)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, PermissionError):
        return Owner(since=path.lstat().st_mtime)
    return owner


def _text(path: Path) -> str:
    # a link is no lock, and a pipe must not keep this job waiting
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("not a file")
        return file.read(_LARGEST).decode()


def _take_over(path: Path, mine: Path, what: str) -> bool:
    """Make the lock file the own one if it is stale; whether that went well.

    Raises
    ------
    BusyError
        If its owner is alive.
    """
    owner = _read(path)
    # both times are those of the file system, whatever the clock here says
    age = mine.stat().st_mtime - path.lstat().st_mtime
    why = _why_stale(owner, age)
    if not why and age < -STALE_AFTER:
        why = _without_sign_of_life(path)
    if not why:
        raise BusyError(
            f"{what} by {owner}, last sign of life {max(age, 0):.0f} s ago; wait, or remove {path} "
            "if that job is dead"
        )
    marker = path.with_name(f"{path.name}.{owner.token}")
    if not _link(mine, marker):
        if abs(mine.stat().st_mtime - marker.lstat().st_mtime) > STALE_AFTER:
            marker.unlink()
        return False
    try:
        if _read(path).token != owner.token:
            return False
        mine.replace(path)
    finally:
        marker.unlink()
    log.warning(f"stale lock removed: {owner} {why}")
    return True


def _why_stale(owner: Owner, age: float) -> str:
    """Return why nobody waits for an owner; empty if he is alive, as far as one knows."""
    if is_running(owner.machine, owner.pid, owner.birth) is False:
        return "is not running any more"
    job, restart = (os.environ.get(f"SLURM_{name}", "") for name in ("JOB_ID", "RESTART_COUNT"))
    if owner.job and owner.job == job and owner.restart != restart:
        return "was requeued"
    return f"gave no sign of life for {age / 60:.0f} min" if age > STALE_AFTER else ""


def _without_sign_of_life(path: Path) -> str:
    """Return why nobody waits for the owner of a lock from the future, as after a wrong clock.

    One that lives touches it soon, and then it has the time of now.
    """
    wait = 1.5 * TOUCH_EVERY
    log.info(f"{path} is dated into the future: waiting {wait:.0f} s for a sign of life")
    before = path.lstat().st_mtime_ns
    sleep(wait)
    same = path.lstat().st_mtime_ns == before
    return f"gave no sign of life for {wait:.0f} s (dated into the future)" if same else ""


def _keep_fresh(path: Path, token: str, stop: threading.Event) -> None:
    while not stop.wait(TOUCH_EVERY):
        with suppress(OSError):
            if _read(path).token == token:
                os.utime(path, follow_symlinks=False)
