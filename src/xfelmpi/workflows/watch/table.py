"""The table of ``xfelmpi watch --status``, from the state file alone."""

from datetime import datetime

from xfelmpi.core.log import date_text
from xfelmpi.core.paths import WatchFiles
from xfelmpi.output.watch_state import STATES, WatchedRun, read_state


def status_table(files: WatchFiles, wanted: tuple[int, ...] | None = None) -> list[str]:
    """Return the lines of the table: a line for each run, and how many there are of each state.

    Raises
    ------
    InputError
        If the state file is damaged.
    """
    state = read_state(files.state)
    runs = [state.runs[n] for n in sorted(state.runs) if wanted is None or n in wanted]
    lines = [f"{'run':>5}  {'state':<10} {'since':<12} {'job':<10} about"]
    lines += [_line(run) for run in runs]
    counts = [(sum(run.state == name for run in runs), name) for name in STATES]
    total = ", ".join(f"{n} {name}" for n, name in counts if n) or "no run was seen yet"
    watched = "is being watched" if files.lock.exists() else "nobody watches"
    return [*lines, f"{total}; {files.output}: {watched}"]


def _line(run: WatchedRun) -> str:
    job = run.job.slurm if run.job and run.job.slurm else ""
    return f"{run.run:>5}  {run.state:<10} {_clock(run.since):<12} {job:<10} {run.about}"


def _clock(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds).astimezone():%d %b %H:%M}" if seconds else ""
    except (OverflowError, ValueError, OSError):
        return date_text(seconds)
