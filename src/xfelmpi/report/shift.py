"""What a shift looks at besides the table: jobs, runs that wait, trends over the runs. Pure."""

from dataclasses import dataclass
from html import escape

import numpy as np

from xfelmpi.core.log import counted
from xfelmpi.output.watch_state import ACTIVE, WAITING, WatchedRun
from xfelmpi.report.axes import Axis, axis_around
from xfelmpi.report.trend_chart import trend_chart

_TRENDS = (
    ("hit_rate", "Hit rate", "%", 100.0),
    ("brightest_100", "100 brightest hits", "photons", 1.0),
    ("median_size", "Median size", "nm", 1e9),
    ("pulse_energy", "Pulse energy", "mJ", 1e3),
    ("background", "Background", "score", 1.0),
)
"""Name of the number, title, unit, factor."""

_MOST_WAITING = 20


@dataclass(frozen=True)
class Watch:
    """What ``xfelmpi watch`` knows: all runs, and whether it runs now."""

    runs: tuple[WatchedRun, ...]
    alive: bool


def watch_section(watch: Watch) -> str:
    """Return the jobs that run or wait, and the runs that are not complete, as HTML."""
    jobs = [run for run in watch.runs if run.state in ACTIVE]
    waiting = [run for run in watch.runs if run.state == WAITING]
    shown = sorted(jobs, key=lambda r: -r.run) + sorted(waiting, key=lambda r: -r.run)
    state = "watching" if watch.alive else "nobody watches"
    head = f"{state}; {counted(len(jobs), 'job')}, {counted(len(waiting), 'run')} waiting"
    lines = "".join(
        f"<li>run {run.run}: {escape(run.about)}</li>" for run in shown[: len(jobs) + _MOST_WAITING]
    )
    more = len(shown) - len(jobs) - _MOST_WAITING
    lines += f"<li>… and {more:,} more</li>" if more > 0 else ""
    return f'<section class="watch"><p>{escape(head)}</p><ul class="list">{lines}</ul></section>'


def trend_section(runs: list[dict]) -> str:
    """Return charts of numbers over the runs as HTML; those of which two runs are known."""
    charts = ""
    for name, title, unit, factor in _TRENDS:
        known = sorted(
            (run["run"], factor * run[name])
            for run in runs
            if isinstance(run[name], int | float) and np.isfinite(run[name])
        )
        if len(known) < 2:
            continue
        number, value = np.array(known, float).T
        x = Axis("run", number[0] - 0.5, number[-1] + 0.5, whole=True)
        y = axis_around(unit, value, zero=bool(value.min() >= 0))
        charts += trend_chart(title, x, y, number, value)
    return f'<section class="trends">{charts}</section>' if charts else ""
