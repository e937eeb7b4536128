"""The overview of all runs: every job leaves a small file about its run, and makes the page anew.

Jobs of an array do so at the same time, without a lock, which file systems of clusters may not
have: whoever has replaced the page looks again whether it knew all files. The one who replaces it
last therefore knew all, and everybody who wrote a file replaces the page after that.
"""

import json
import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from xfelmpi.core.errors import (
    EXIT_COMPLETE,
    EXIT_PARTIAL,
    InputError,
    LostLockError,
    XfelmpiError,
)
from xfelmpi.core.log import counted
from xfelmpi.core.paths import Experiment, WatchFiles
from xfelmpi.core.regular_file import read_small
from xfelmpi.core.text import printable
from xfelmpi.io.replace_file import replace_text
from xfelmpi.output.watch_state import read_state
from xfelmpi.report.comments import Comment, comments_folder, read_comments
from xfelmpi.report.headline import Headline, clock, energy
from xfelmpi.report.shift import Watch, trend_section, watch_section
from xfelmpi.report.template import fill_page
from xfelmpi.report.trends import RunNumbers

FAILED = "failed"

FOLLOWED = "followed"
"""Status of a run that is processed while it is written."""

_COLUMNS = (
    ("run", ""),
    ("sample", "text"),
    ("processed", "text"),
    ("frames", ""),
    ("hits", ""),
    ("hit rate", ""),
    ("100 brightest", ""),
    ("median size", ""),
    ("pulse energy", ""),
    ("hit powder", "text image"),
    ("status", "text words"),
)
"""Name and style."""

_STATES = ("complete", "problems", "being written", "failed")
"""What the runs can be filtered by; `overview.js` has the same words."""

_LARGEST_STATUS = 16 << 20
"""Bytes of the file about a run, which has an image."""

_LARGEST = 1e100
"""Of any number about a run."""

_ATTEMPTS = 100
"""A page that is out of date after so many is left to the jobs that keep changing the files."""


@dataclass(frozen=True)
class RunStatus:
    """A run's line in the overview; the file about it holds these as JSON.

    Parameters
    ----------
    run : int
    status : str
        ``0``, ``3``, as the exit status of the job, ``failed``, or ``followed`` while the run is
        being written.
    time : str
        When the job ended, ISO 8601.
    message : str
        Why it failed, or what was excluded.
    sample : str
    frames, hits : int or None
    hit_rate : float or None
    pulse_energy : float or None
        Mean in J.
    thumbnail : str
        Address that holds the image, or empty.
    verdicts : dict or None
        State and reason by subject; see `report.verdicts.as_json`.
    photons_per_frame, brightest_100, median_size, background, sigma : float or None
        See `report.trends.RunNumbers`.
    """

    run: int
    status: str
    time: str
    message: str = ""
    sample: str = ""
    frames: int | None = None
    hits: int | None = None
    hit_rate: float | None = None
    pulse_energy: float | None = None
    thumbnail: str = ""
    verdicts: dict[str, dict[str, str]] | None = None
    photons_per_frame: float | None = None
    brightest_100: float | None = None
    median_size: float | None = None
    background: float | None = None
    sigma: float | None = None


def record_success(
    experiment: Experiment,
    head: Headline,
    thumbnail: str,
    verdicts: dict[str, dict[str, str]],
    numbers: RunNumbers | None = None,
) -> None:
    """Say that a run was processed, and make the overview anew.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    status = str(EXIT_PARTIAL if head.problems else EXIT_COMPLETE)
    message = head.excluded
    if head.so_far:
        status, message = FOLLOWED, ", ".join(filter(None, (head.so_far, head.excluded)))
    known = math.isfinite(head.pulse_energy)
    record(
        experiment,
        RunStatus(
            run=head.run,
            status=status,
            time=head.created,
            message=message,
            sample=head.sample,
            frames=head.frames,
            hits=head.hits,
            hit_rate=head.hit_rate,
            pulse_energy=head.pulse_energy if known else None,
            thumbnail=thumbnail,
            verdicts=verdicts,
            **asdict(numbers or RunNumbers()),
        ),
    )


def record_failure(experiment: Experiment, error: Exception) -> None:
    """Say that a job failed, as well as that can be said; never raises, never communicates."""
    if getattr(error, "told_elsewhere", False) or not experiment.prefix.is_dir():
        return
    if not any(experiment.run_folder(kind).exists() for kind in ("raw", "proc")):
        return  # a number that was mistyped is no run
    if isinstance(error, LostLockError):  # another job tells of this run now
        return
    known = isinstance(error, XfelmpiError)
    message = str(error) if known else f"{type(error).__name__}: {error} (a bug; see the log)"
    message = printable(message)
    try:
        record(experiment, RunStatus(experiment.run, FAILED, _now(), message))
    except Exception:
        # the error itself is what the user must see
        return


def record(experiment: Experiment, status: RunStatus) -> None:
    """Write the file about a run, and make the overview anew.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    replace_text(experiment.status, json.dumps(asdict(status), indent=1))
    rebuild(experiment.overview)


def rebuild(overview: Path) -> None:
    """Make the overview from all files beside it; any number of processes may do so at once."""
    for _ in range(_ATTEMPTS):
        known = _stamps(overview.parent)
        replace_text(
            overview,
            overview_page(
                read_statuses(overview.parent), read_comments(overview.parent), _watch(overview)
            ),
        )
        if _stamps(overview.parent) == known:
            return


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("r[0-9][0-9][0-9][0-9]*.json"))


def _stamps(folder: Path) -> set[tuple]:
    """Return what tells that a file is another one; a replaced file is another inode."""
    found = set()
    with suppress(OSError):
        about = comments_folder(folder).stat()
        found.add(("comments", about.st_ino, about.st_mtime_ns))
    for path in (*_files(folder), WatchFiles(folder.parent).state):
        try:
            about = path.stat()
        except FileNotFoundError:
            continue
        found.add((path.name, about.st_ino, about.st_mtime_ns, about.st_size))
    return found


def read_statuses(folder: Path) -> list[RunStatus]:
    """Return what the files in a folder say, newest first; damaged ones are left out."""
    names = {f.name for f in fields(RunStatus)}
    found = []
    for path in _files(folder):
        try:
            values = json.loads(read_small(path, _LARGEST_STATUS))
            status = RunStatus(**{k: v for k, v in values.items() if k in names})
            _check(status)
            _row(status)
        except Exception:  # any file may have such a name; nothing in it may spoil the page
            continue
        found.append(status)
    return sorted(found, key=lambda s: (s.time, s.run), reverse=True)


def _check(status: RunStatus) -> None:
    """Check that values are of the types, and of the sizes, that the page can show.

    Raises
    ------
    ValueError
        If one is not.
    """
    for name, value in asdict(status).items():
        if name in ("status", "time", "message", "sample", "thumbnail"):
            fits = isinstance(value, str)
        elif name == "verdicts":
            fits = value is None or all(isinstance(verdict, dict) for verdict in value.values())
        elif name in ("run", "frames", "hits"):
            fits = type(value) is int and 0 <= value < 1 << 53
            fits |= value is None and name != "run"
        else:
            # NaN is a number that is not known
            fits = value is None or type(value) in (int, float)
            fits = fits and not abs(value or 0) > (1 << 53 if type(value) is int else _LARGEST)
        if not fits:
            raise ValueError(f"{name} {value}")


def _watch(overview: Path) -> Watch | None:
    """Return what is being done about runs, None if nobody watches or ever did."""
    files = WatchFiles(overview.parent.parent)
    try:
        state = read_state(files.state)
        return Watch(tuple(state.runs.values()), files.lock.exists()) if state.runs else None
    except (OSError, InputError):
        return None


def overview_page(
    runs: list[RunStatus],
    comments: dict[int, list[Comment]] | None = None,
    watch: Watch | None = None,
) -> str:
    """Return the overview as HTML."""
    heads = ""
    for name, kind in _COLUMNS:
        sort = ' aria-sort="descending"' if name == "processed" else ""
        heads += f'<th class="{kind}"{sort}><button type="button">{name}</button></th>'
    rows = "".join(_row(run, (comments or {}).get(run.run, [])) for run in runs)
    known = {run.run for run in runs}
    alone = [
        Comment(f"run {n}: {c.text}", c.user, c.time)
        for n, said in sorted((comments or {}).items())
        if n not in known
        for c in said
    ]
    n_failed = sum(run.status == FAILED for run in runs)
    failed = f', <span class="alarm">{n_failed} failed</span>' if n_failed else ""
    refresh = ' data-refresh="30"' if watch and watch.alive else ""
    body = (
        f'<header><h1>All runs</h1><p class="soft">{counted(len(runs), "run")}{failed}; '
        f"{escape(clock(_now()))}</p></header>"
        f"{watch_section(watch) if watch else ''}{_comments(alone)}"
        f"{trend_section([asdict(run) for run in runs])}{_filters(runs)}"
        f'<div class="wide"><table class="runs"{refresh}><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
    return fill_page("All runs", body, "overview.js")


def _filters(runs: list[RunStatus]) -> str:
    """Return what the table is filtered with, by the script."""
    samples = sorted({run.sample for run in runs if run.sample})
    chosen = "".join(f"<option>{escape(sample)}</option>" for sample in samples)
    states = "".join(f"<option>{name}</option>" for name in _STATES)
    return (
        '<p class="filters"><label>sample <select name="sample"><option value="">all</option>'
        f'{chosen}</select></label> <label>status <select name="state"><option value="">all'
        f'</option>{states}</select></label> <a href="#wall">wall screen</a></p>'
    )


def _comments(said: list[Comment]) -> str:
    lines = ""
    for c in said:
        about = escape(f"{c.user}, {clock(c.time)}")
        lines += f'<li>{escape(c.text)} <span class="soft">{about}</span></li>'
    return f'<ul class="comments">{lines}</ul>' if said else ""


def _label(run: RunStatus) -> tuple[str, str, str]:
    """Return the style of the state, its words, and what is said besides."""
    if run.status == str(EXIT_COMPLETE):
        return "", "complete", run.message
    if run.status == str(EXIT_PARTIAL):
        return "look", ", ".join(filter(None, ("complete", run.message))), ""
    if run.status == FOLLOWED:
        return "look", ", ".join(filter(None, ("being written", run.message))), ""
    return "bad", "failed" if run.status == FAILED else f"status {run.status}", run.message


def _row(run: RunStatus, comments: Iterable[Comment] = ()) -> str:
    name = f"r{run.run:04d}"
    image = f'<img src="{escape(run.thumbnail)}" alt="hit powder">' if run.thumbnail else ""
    style, label, message = _label(run)
    message = f'<div class="soft">{escape(message)}</div>' if message else ""
    rate = "" if run.hit_rate is None else f"{100 * run.hit_rate:.2f} %"
    pulse = "" if run.pulse_energy is None else energy(run.pulse_energy)
    bright = f"{run.brightest_100:,.0f}" if _is_known(run.brightest_100) else ""
    size = f"{run.median_size * 1e9:.1f} nm" if _is_known(run.median_size) else ""
    # a run that failed the first time has no page
    link = f'<a href="{name}.html">{run.run}</a>' if run.frames is not None else str(run.run)
    badge = (
        f'<span class="badge {style}">{escape(label)}</span>{message}{_comments(list(comments))}'
    )
    cells = (
        (run.run, link),
        (run.sample, escape(run.sample)),
        (run.time, escape(clock(run.time))),
        (run.frames, _count(run.frames)),
        (run.hits, _count(run.hits)),
        (run.hit_rate, rate),
        (run.brightest_100 if bright else None, bright),
        (run.median_size if size else None, size),
        (run.pulse_energy, pulse),
        (run.hits, image),
        (run.status, badge),
    )
    row = ""
    for (name, kind), (value, shown) in zip(_COLUMNS, cells, strict=True):
        key = "" if value is None else escape(str(value))
        row += f'<td class="{kind}" data-name="{name}" data-value="{key}">{shown}</td>'
    return f"<tr>{row}</tr>"


def _is_known(value) -> bool:
    return value is not None and math.isfinite(value)


def _count(n: int | None) -> str:
    return "" if n is None else f"{n:,}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
