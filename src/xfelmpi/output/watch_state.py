"""What ``xfelmpi watch`` has done, does and waits for: one file, replaced whole at every change.

A job is in it before it is submitted, so that whoever is killed in between finds it again: by its
name, which Slurm keeps as the job's comment, and by the result file, which the job itself writes.
"""

import json
import os
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from xfelmpi.core.errors import InputError
from xfelmpi.core.regular_file import open_regular
from xfelmpi.io.replace_file import replace_file

SCHEMA = 1
_LARGEST = 1 << 28

WAITING, SUBMITTED, RUNNING = "waiting", "submitted", "running"
DONE, FAILED, SKIPPED = "done", "failed", "skipped"
ACTIVE = (SUBMITTED, RUNNING)
STATES = (WAITING, SUBMITTED, RUNNING, DONE, FAILED, SKIPPED)


@dataclass(frozen=True)
class WatchedJob:
    """A job that was submitted, or is about to be.

    Parameters
    ----------
    name : str
        Of its result file, e.g. ``r0052-1``: run, and how many jobs it has had.
    arguments : tuple of str
        What follows the run number.
    since : float
        When it was submitted, seconds since 1970.
    slurm : str
        Its number, with the cluster if it is another one; empty if it runs here, or is not known.
    kind : str
        ``proc`` or ``raw``: the data that it reads.
    missing_since : float
        When nothing was known of it for the first time, 0 if something is.
    """

    name: str
    arguments: tuple[str, ...] = ()
    since: float = 0.0
    slurm: str = ""
    kind: str = ""
    missing_since: float = 0.0


@dataclass(frozen=True)
class WatchedRun:
    """A run, and how far it is.

    Parameters
    ----------
    run : int
    state : str
        One of `STATES`.
    about : str
        What it waits for, or how it ended.
    since : float
        When that began, seconds since 1970.
    job : WatchedJob or None
        The latest one.
    jobs, tries : int
        Jobs it has had, and those of them since it was last asked for.
    status : int or None
        Exit status of the latest job that ended.
    done_kind : str
        Of the data that were processed: ``proc`` or ``raw``, or empty.
    stamp : tuple of float
        Number, size and latest change of the files when it was last looked at.
    stamp_since : float
        Since when that is so.
    raw_since : float
        Since when the raw run is complete, 0 if it is not.
    dark_of : tuple of int
        The dark runs that are processed together with this one, itself included.
    darks : int
        How many of them there must be; 0: it is no dark run.
    next_look : float
        When it is looked at again.
    inputs : str
        What tells whether the files that were processed have changed since (`Stamp.inputs`); empty
        if that is not known, or was told.
    """

    run: int
    state: str = WAITING
    about: str = ""
    since: float = 0.0
    job: WatchedJob | None = None
    jobs: int = 0
    tries: int = 0
    status: int | None = None
    done_kind: str = ""
    stamp: tuple[float, ...] = ()
    stamp_since: float = 0.0
    raw_since: float = 0.0
    dark_of: tuple[int, ...] = ()
    darks: int = 0
    next_look: float = 0.0
    inputs: str = ""


@dataclass
class WatchState:
    """All runs that were seen, by number.

    Parameters
    ----------
    runs : dict of int to WatchedRun
    redu : bool
        Whether a run of the proposal had a file of the facility's data reduction.
    """

    runs: dict[int, WatchedRun] = field(default_factory=dict)
    redu: bool = False

    def change(self, run: int, **values) -> WatchedRun:
        """Change what is known of a run, and return it."""
        self.runs[run] = replace(self.runs.get(run) or WatchedRun(run), **values)
        return self.runs[run]

    @property
    def active(self) -> list[WatchedRun]:
        """The runs whose job is submitted or runs."""
        return [run for run in self.runs.values() if run.state in ACTIVE]


def read_state(path: Path) -> WatchState:
    """Return what a state file says; without one, that nothing was seen yet.

    Raises
    ------
    InputError
        If it is damaged, or of another version.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            values = json.loads(file.read(_LARGEST))
        if values["schema"] != SCHEMA:
            raise ValueError(f"found schema {values['schema']}, expected {SCHEMA}")
        runs = [_run(about) for about in values["runs"]]
        return WatchState({run.run: run for run in runs}, bool(values["redu"]))
    except FileNotFoundError:
        return WatchState()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: found no state of a watch ({type(error).__name__}: {str(error)[:200]}); "
            "remove it to start again: runs that have outputs are not processed again"
        ) from None


def _run(values: dict) -> WatchedRun:
    job = values.get("job")
    known = {f.name: values[f.name] for f in fields(WatchedRun) if f.name in values}
    if job is not None:
        job = WatchedJob(**{**job, "arguments": tuple(map(str, job["arguments"]))})
        _check_types(job, WatchedJob(""))
    known |= {"job": job, "stamp": tuple(known["stamp"]), "dark_of": tuple(known["dark_of"])}
    run = WatchedRun(**known)
    _check_types(run, WatchedRun(0))
    if run.state not in STATES or (run.state in ACTIVE and job is None):
        raise ValueError(f"run {run.run}: found state {run.state!r}")
    return run


def _check_types(found, example) -> None:
    for f in fields(example):
        value, like = getattr(found, f.name), getattr(example, f.name)
        if f.name in ("job", "status"):
            continue
        allowed = (int, float) if isinstance(like, float) else type(like)
        if not isinstance(value, allowed):
            raise TypeError(f"{f.name}: found {value!r}")
    status = getattr(found, "status", None)
    if status is not None and type(status) is not int:
        raise TypeError(f"status: found {status!r}")


def write_state(path: Path, state: WatchState) -> None:
    """Replace a state file; it is safely on disk when this returns.

    Raises
    ------
    OutputError
        If it cannot be written.
    LostLockError
        If another process watches.
    """
    about = {
        "schema": SCHEMA,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "redu": state.redu,
        "runs": [asdict(state.runs[run]) for run in sorted(state.runs)],
    }
    replace_file(path, json.dumps(about, indent=0).encode(), locked=True)
