"""What a person sees: messages, progress and the summary, all from rank 0."""

import logging
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from xfelmpi.core.event_table import Problem, foremost

log = logging.getLogger("xfelmpi")

STAGE_TITLES = {
    "index": "indexing the run",
    "photons": "reading frames",
    "decide": "deciding",
    "write": "writing",
}

PROBLEMS_SHOWN = 20
LINE_EVERY = 15.0
"""Seconds between two progress lines in a batch log."""


_BOLD, _RED, _YELLOW, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[0m"


def has_colours(stream) -> bool:
    """Return whether a stream is a terminal whose user has not asked for plain text.

    Open MPI gives every rank a terminal of its own for standard output, wherever mpirun's own goes,
    but a pipe for standard error: that tells.
    """
    return stream.isatty() and sys.stderr.isatty() and not os.environ.get("NO_COLOR")


class _Painter(logging.Formatter):
    """Paints what matters, on a terminal: a record's own colour, else that of its level."""

    def __init__(self, text: str, stream):
        super().__init__(text)
        self._colours = has_colours(stream)

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        level = {logging.WARNING: _YELLOW, logging.ERROR: _RED}.get(record.levelno, "")
        colour = getattr(record, "colour", level)
        text = super().format(record)
        return f"{colour}{text}{_PLAIN}" if colour and self._colours else text


def start_logging(rank: int) -> None:
    """Send the messages of rank 0 to standard output, and errors of all ranks to standard error."""
    log.handlers.clear()
    log.propagate = False
    log.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    out = logging.StreamHandler(sys.stdout)
    out.setFormatter(_Painter("%(message)s", sys.stdout))
    out.addFilter(lambda record: record.levelno < logging.WARNING)
    err = logging.StreamHandler(sys.stderr)
    err.setLevel(logging.WARNING)
    err.setFormatter(_Painter("%(levelname)s: %(message)s", sys.stderr))
    log.addHandler(out)
    log.addHandler(err)


@dataclass
class Stages:
    """Seconds of every stage, in the order they ran, and the one that runs now."""

    seconds: dict[str, float] = field(default_factory=dict)
    now: str = ""

    @contextmanager
    def timed(self, name: str):
        """Say that a stage begins, and time it."""
        log.info("%s …", STAGE_TITLES.get(name, name))
        start = monotonic()
        self.now = name
        yield
        self.now = ""
        self.seconds[name] = self.seconds.get(name, 0.0) + monotonic() - start


class Progress:
    """Shows how far a stage is: a bar on a terminal, a line now and then in a batch log.

    Parameters
    ----------
    total : int
        How much there is to do.
    stream : file, optional
        Default: standard error.
    stage, unit, found : str
        Name of the stage, of what is counted, and of the second number shown, if any.
    """

    def __init__(
        self, total: int, stream=None, stage="reading", unit="frames", found="hits so far"
    ):
        self._stage, self._unit, self._found = stage, unit, found
        self._stream = stream or sys.stderr
        self._bar = self._stream.isatty()
        self._total = total
        self._start = monotonic()
        self._last = self._start

    def show(self, values) -> None:
        """Show (done, found so far), or (done,), summed over the ranks."""
        now = monotonic()
        if not self._bar and now - self._last < LINE_EVERY:
            return
        self._last = now
        done = int(values[0])
        found = f"{int(values[1]):,} {self._found}, " if self._found else ""
        rate = done / max(now - self._start, 1e-9)
        left = (self._total - done) / rate if rate else float("nan")
        text = (
            f"{self._stage}: {done:,} of {self._total:,} {self._unit}, "
            f"{rate:,.0f} {self._unit}/s, {found}{_duration(left)} left"
        )
        if self._bar:
            width = 30
            full = width * done // max(self._total, 1)
            text = f"\r[{'#' * full}{'.' * (width - full)}] {text}\x1b[K"
        self._stream.write(text + ("" if self._bar else "\n"))
        self._stream.flush()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def plural(n: int, what: str) -> str:
    """Return the name of what was counted, in the singular if there is one."""
    return what if n == 1 else f"{what}s"


def size_text(n_bytes: float) -> str:
    """Return a number of bytes with a unit in which it is easily read."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes / 2**10:.1f} KiB"


def _duration(seconds: float) -> str:
    if seconds != seconds:
        return "unknown time"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


@dataclass(frozen=True)
class Summary:
    """The numbers of a finished job, on rank 0.

    Parameters
    ----------
    frames, complete, trains, hits, misses : int
    bytes_read : int
        Bytes of detector frames, as stored.
    peak_memory : int
        Bytes, of the rank with most.
    ranks : int
    seconds : dict of str to float
        Of every stage.
    problems : list of Problem
    files : list of str
        What was written.
    switched : (int, int), optional
        Of raw data: pixels in medium and in low gain, over all frames.
    done_before : int
        Frames that an earlier job has read.
    """

    frames: int
    complete: int
    trains: int
    hits: int
    misses: int
    bytes_read: int
    peak_memory: int
    ranks: int
    seconds: dict[str, float]
    problems: list[Problem]
    files: list[str]
    switched: tuple[int, int] | None = None
    done_before: int = 0

    def show(self) -> None:
        """Log the summary; on a terminal the hits stand out, and so does what was excluded."""
        for line in self.lines():
            colour = _BOLD if line.startswith("hits ") else ""
            if line.startswith("excluded ") and self.problems:
                colour = _RED
            log.info(line, extra={"colour": colour})

    def lines(self) -> list[str]:
        """Return the summary as lines of text."""
        rate = 100 * self.hits / self.complete if self.complete else 0.0
        total = sum(self.seconds.values())
        lines = [
            "",
            f"frames     {self.frames:12,}   in {self.trains:,} trains",
            f"complete   {self.complete:12,}   in every module of the run",
            f"hits       {self.hits:12,}   {rate:.2f} % of the complete frames",
            f"misses     {self.misses:12,}   drawn for comparison",
            *self._gain_lines(),
            f"read       {self.bytes_read / 1e9:12.3f}   GB {self._speed()}",
            f"memory     {self.peak_memory / 2**20:12,.0f}   MiB at most per rank ({self.ranks})",
            f"time       {total:12.2f}   s: "
            + ", ".join(f"{name} {s:.2f}" for name, s in self.seconds.items()),
        ]
        lines += problem_lines(self.problems, "all in the events file (problems)")
        return lines + ["files written:"] + [f"  {name}" for name in self.files]

    def _speed(self) -> str:
        if "photons" not in self.seconds:
            return "hits and misses only"
        seconds = max(self.seconds["photons"], 1e-9)
        read = self.frames - self.done_before
        speed = f"{self.bytes_read / 1e9 / seconds:.2f} GB/s, {read / seconds:,.0f} frames/s"
        if self.done_before:
            speed += f"; {self.done_before:,} frames were done before"
        return speed

    def _gain_lines(self) -> list[str]:
        if self.switched is None:
            return []
        return [
            f"{stage:10} {n:12,}   pixels in {stage} gain, {n / max(self.frames, 1):.2f} a frame"
            for stage, n in zip(("medium", "low"), self.switched, strict=True)
        ]


def problem_lines(problems: list[Problem], all_where: str) -> list[str]:
    """Return problems of every kind as lines of text; `all_where` tells where the others are."""
    if not problems:
        return ["excluded            none"]
    lines = [f"excluded   {len(problems):12,}   {plural(len(problems), 'problem')}, exit status 3:"]
    for p in foremost(problems, PROBLEMS_SHOWN):
        where = " ".join(
            part
            for part in (
                p.file,
                f"module {p.module}" if p.module >= 0 else "",
                f"train {p.train}" if p.train else "",
            )
            if part
        )
        lines.append(f"  {where}{': ' if where else ''}{p.what}; {p.action}")
    if len(problems) > PROBLEMS_SHOWN:
        lines.append(f"  … and {len(problems) - PROBLEMS_SHOWN:,} more, {all_where}")
    return lines
