"""Runs that were processed, and whose files changed afterwards: whoever watches is told.

They are not processed again by themselves: the outputs may have been patched or re-thresholded
since. A run whose files stay the same is looked at more and more rarely, and the file system calls
that this takes have a limit for all runs together.
"""

from collections.abc import Callable
from random import random

from xfelmpi.core.paths import Experiment
from xfelmpi.output.watch_state import DONE, FAILED, WatchedRun
from xfelmpi.run.arrival import Stamp, list_folder, other_inputs, stamp_files
from xfelmpi.workflows.watch.ledger import Ledger
from xfelmpi.workflows.watch.looks import RARELY, LookOptions
from xfelmpi.workflows.watch.rules import Rule, last_value

CALLS_A_MINUTE = 200.0
"""File system calls that looks at these runs may take, on average."""

_CREDIT = 60.0
"""Seconds without a call of which the calls may be made at once."""


class ChangedRuns:
    """Looks at runs that were processed.

    Parameters
    ----------
    ledger : Ledger
    options : LookOptions
    file_now : callable
        Returns the time by the clock of the file system.
    """

    def __init__(self, ledger: Ledger, options: LookOptions, file_now: Callable[[], float]):
        self._ledger, self._options, self._file_now = ledger, options, file_now
        self._next: dict[int, float] = {}
        self._paid = 0.0

    def look(self) -> None:
        """Look at the runs that are due, as far as calls are left."""
        now = self._ledger.clock()
        # either may be wrong if the clock was set back
        self._paid = min(max(self._paid, now - _CREDIT), now + RARELY)
        known = [r for r in self._ledger.state.runs.values() if r.state in (DONE, FAILED)]
        due = [r for r in known if r.inputs and self._is_due(r, now)]
        # of runs that were never looked at, others come first each time the program is started
        for run in sorted(due, key=lambda r: (self._next.get(r.run, 0.0), random())):
            if self._paid > now:
                break
            self._paid += 60 * self._look_at(run, now) / CALLS_A_MINUTE

    def _is_due(self, run: WatchedRun, now: float) -> bool:
        return not now < self._next.get(run.run, 0.0) <= now + RARELY

    def _look_at(self, run: WatchedRun, now: float) -> int:
        """Look at one run; return the calls of the file system that it took."""
        options = self._options
        kind = run.job.kind if run.job else run.done_kind
        folder = Experiment(options.prefix, options.output, run.run).run_folder(kind)
        listing = list_folder(folder, kind, last_value(options.words(Rule()), "--detector"))
        stamp = stamp_files(listing)
        pause = max(options.every, (now - run.since) / 10)
        if other_inputs(stamp.inputs, run.inputs):
            pause = self._seconds_to_rest(run, stamp, now)
            if pause <= 0:
                about = f"{run.about}; its files have changed since then: "
                about += f"xfelmpi watch --again {run.run} processes it again"
                self._ledger.tell(run.run, about, inputs="")
        self._next[run.run] = now + min(pause, RARELY)
        return listing.calls + stamp.files

    def _seconds_to_rest(self, run: WatchedRun, stamp: Stamp, now: float) -> float:
        """Return how long until files are at rest if nothing changes any more."""
        seen = (float(stamp.files), float(stamp.size), stamp.latest)
        if seen != run.stamp:
            run = self._ledger.change(run.run, stamp=seen, stamp_since=now)
        # either clock may be wrong
        return self._options.settle - max(now - run.stamp_since, self._file_now() - stamp.latest)
