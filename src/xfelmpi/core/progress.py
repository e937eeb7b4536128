"""Progress of a stage in the terminal and in the log."""

import sys
from time import monotonic

from xfelmpi.core.log import duration
from xfelmpi.core.streams import BestEffort, launchers_terminal

LINE_EVERY = 15.0
"""Seconds between two progress lines in a batch log."""


class Progress:
    """Shows how far a stage is: a bar on a terminal, a line now and then in a batch log.

    Parameters
    ----------
    total : int
        How much there is to do.
    stream : file, optional
        Default: standard error, or under mpirun the terminal that mpirun itself writes to.
    stage, unit, found : str
        Name of the stage, of what is counted, and of the second number shown, if any.
    """

    def __init__(
        self, total: int, stream=None, stage="reading", unit="frames", found="hits so far"
    ):
        self._stage, self._unit, self._found = stage, unit, found
        self._stream = stream or sys.stderr
        if stream is None and not sys.stderr.isatty() and (terminal := launchers_terminal()):
            self._stream = BestEffort(terminal)
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
            f"{rate:,.0f} {self._unit}/s, {found}{duration(left)} left"
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
