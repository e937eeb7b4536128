"""One job among others: the id of its process, and whether the process of another id still runs.

Process numbers mean nothing across hosts, reboots and containers. A process is therefore told by
the boot of its machine, its PID namespace, its number, and when it started.
"""

import os
import re
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path

UNKNOWN = "0" * 12
"""Machine of a process of which other processes cannot tell whether it runs."""

_ID = re.compile(r"(?P<machine>[0-9a-f]{12})-(?P<pid>\d{1,10})-(?P<birth>\d{1,20})-[0-9a-f]{8}")


@cache
def machine_id() -> str:
    """Return what processes share that see each other under the same numbers; 12 hex digits."""
    try:
        # in a container without a /proc of its own, the numbers there are those of others
        if str(Path("/proc/self").readlink()) != str(os.getpid()):
            return UNKNOWN
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        spaces = [str(Path(f"/proc/self/ns/{name}").readlink()) for name in ("pid", "time")]
    except OSError:
        return UNKNOWN
    return blake2b("|".join([boot, *spaces]).encode(), digest_size=6).hexdigest()


def birth_of(pid: int | str) -> int | None:
    """Return when a process started, in clock ticks; 0 if it has ended, None if that is hidden."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # the name before it, in brackets, may hold anything
    state, *values = stat.rpartition(")")[2].split()
    return 0 if state == "Z" else int(values[18])


def is_running(machine: str, pid: int, birth: int) -> bool | None:
    """Return whether a process runs; None if that is unknown here."""
    if machine == UNKNOWN or machine != machine_id():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        # of another user, perhaps
        pass
    now = birth_of(pid)
    return None if now is None else now == birth


@dataclass
class _Job:
    """The id of this process, on all ranks that of rank 0."""

    id: str = ""


_job = _Job()


def process_id() -> str:
    """Return the id of this process, which nobody can foresee; made at the first call.

    It is in the names of unfinished files. A process may do several jobs (``--follow``), which the
    attribute ``job_id`` of outputs tells apart.
    """
    if not _job.id:
        birth = birth_of("self") or 0
        _job.id = f"{machine_id()}-{os.getpid()}-{birth}-{os.urandom(4).hex()}"
    return _job.id


def agree_on_process_id(comm) -> None:
    """Let all ranks have the id of rank 0; collective."""
    _job.id = comm.bcast(process_id())


def job_is_running(job: str) -> bool | None:
    """Return whether the job of an id runs; None if that is unknown here."""
    found = _ID.fullmatch(job)
    if not found:
        return None
    return is_running(found["machine"], int(found["pid"]), int(found["birth"]))
