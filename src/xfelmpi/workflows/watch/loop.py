"""Looks at runs again and again, submits what is complete, and follows the jobs to their end."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from time import sleep, time

from xfelmpi.core.errors import EXIT_COMPLETE, EXIT_PARTIAL
from xfelmpi.core.log import log
from xfelmpi.core.paths import WatchFiles
from xfelmpi.core.regular_file import open_to_append
from xfelmpi.io.output_file import cannot_write, make_folder
from xfelmpi.output.watch_state import (
    ACTIVE,
    DONE,
    SKIPPED,
    WAITING,
    WatchedRun,
    WatchState,
)
from xfelmpi.run.arrival import file_system_now
from xfelmpi.workflows.watch.changed import ChangedRuns
from xfelmpi.workflows.watch.jobs import Jobs
from xfelmpi.workflows.watch.ledger import Ledger
from xfelmpi.workflows.watch.looks import (
    CALLS_A_MINUTE,
    FILES_A_MINUTE,
    RARELY,
    Allowance,
    Look,
    LookOptions,
    Verdict,
    dark_group,
)
from xfelmpi.workflows.watch.queues import (
    LocalQueue,
    SlurmQueue,
)

_ASKED = "asked for"

_BUSY_PAUSE = 0.2
"""Seconds between two polls of who looks only once, and has jobs that run here."""

_CLOCK_ERROR = 60.0
"""Seconds by which clocks of machines that have watched may differ."""

_LISTING_RESERVE = 30
"""File system calls that must be left for runs to be listed: polls that follow each other quickly
leave calls for looks at the runs that are known."""


@dataclass
class Watcher:
    """What one process that watches knows.

    Parameters
    ----------
    options : LookOptions
    queue : SlurmQueue or LocalQueue
    files : WatchFiles
    tries : int
        Jobs that a run may have, if they are stopped or die.
    wanted : tuple of int or None
        The runs to look at; None: all.
    extra : callable
        Returns further options for ``sbatch``, told the bytes of the run.
    show : callable
        Called when the state has changed and is on disk.
    clock : callable
        Seconds since 1970.
    """

    options: LookOptions
    queue: SlurmQueue | LocalQueue
    files: WatchFiles
    tries: int = 3
    wanted: tuple[int, ...] | None = None
    extra: Callable[[int], list[str]] = lambda _n_bytes: []
    show: Callable[[WatchState], None] = lambda _state: None
    clock: Callable[[], float] = time

    def __post_init__(self):
        self._ledger = Ledger(self.files, self.clock, self.show)
        self._jobs = Jobs(self._ledger, self.queue, self.options, self.tries, self.extra)
        self._changed = ChangedRuns(self._ledger, self.options, self._file_now)
        self._allowance = Allowance(CALLS_A_MINUTE)
        self._files_allowance = Allowance(FILES_A_MINUTE)

    @property
    def state(self) -> WatchState:
        """All runs."""
        return self._ledger.state

    def run(self, *, once: bool = False) -> int:
        """Watch until the process is stopped; with `once` until all that is there was looked at.

        Returns
        -------
        int
            Exit status: 0, or with `once` 3 if a run has failed.
        """
        while True:
            self.poll()
            if once and not self._busy():
                return EXIT_PARTIAL if self._ledger.failures else EXIT_COMPLETE
            pause = self._next_look() if once else self.options.every
            sleep(min(max(pause, _BUSY_PAUSE if once else 0.02), self.options.every))

    def poll(self) -> None:
        """Look once at all that is due, and at the jobs."""
        for allowance in (self._allowance, self._files_allowance):
            allowance.refill(self.clock())
        self._forget_the_future()
        self._allowance.spend(self._jobs.follow())
        self._see_new_runs()
        forced = self._requests()
        due = sorted(
            (r for r in self.state.runs.values() if r.state == WAITING and self._is_due(r, forced)),
            key=lambda r: (r.run not in forced, r.next_look, -r.run),
        )
        for run in due:
            if min(self._allowance.left, self._files_allowance.left) <= 0 or self._jobs.full:
                break
            self._look_at(run, forced=run.run in forced)
        self._submit_darks()
        self._changed.look()
        self._ledger.save()

    def _forget_the_future(self) -> None:
        """Take times that are yet to come for now: the clock was set back.

        Runs would not be looked at, and lost jobs not be missed, until it is that late again.
        """
        now = self.clock()
        for run in list(self.state.runs.values()):
            names = ("since", "stamp_since", "raw_since")
            changed: dict = {n: now for n in names if getattr(run, n) > now + _CLOCK_ERROR}
            if run.next_look > now + RARELY + _CLOCK_ERROR:
                changed["next_look"] = now
            if run.job is not None and run.job.missing_since > now + _CLOCK_ERROR:
                changed["job"] = replace(run.job, missing_since=now)
            if changed:
                self.state.change(run.run, **changed)

    def _is_due(self, run: WatchedRun, forced: set[int]) -> bool:
        return run.run in forced or (run.next_look <= self.clock() and not run.dark_of)

    def _busy(self) -> bool:
        """Return whether something is left to do for who looks only once."""
        if self.state.active and isinstance(self.queue, LocalQueue):
            return True
        waiting = [r for r in self.state.runs.values() if r.state == WAITING and not r.dark_of]
        soon = self.clock() + self.options.settle
        return any(r.next_look == 0 or _rests(r, soon) for r in waiting)

    def _next_look(self) -> float:
        times = [r.next_look for r in self.state.runs.values() if r.state == WAITING]
        return max(min(times, default=0.0) - self.clock(), 0.05)

    def _see_new_runs(self) -> None:
        if self._allowance.left < _LISTING_RESERVE:
            return
        found: set[int] = set()
        for kind in ("raw", "proc"):
            with suppress(OSError):
                folder = self.options.prefix / kind
                found |= {_run_number(path.name) for path in folder.iterdir()}
            self._allowance.spend(5)
        new = sorted(found - {0} - set(self.state.runs))
        if self.wanted is not None:
            new = [run for run in new if run in self.wanted]
        if not new:
            return
        there: set[str] = set()
        with suppress(OSError):
            there |= {path.name for path in (self.options.output / "events").iterdir()}
        self._allowance.spend(5)
        for run in new:
            done = f"r{run:04d}_events.h5" in there
            about = "had been processed before" if done else ""
            self.state.change(run, state=DONE if done else WAITING, about=about, since=self.clock())

    def _requests(self) -> set[int]:
        """Return the runs that somebody asks for; they begin anew."""
        try:
            names = [path.name for path in self.files.requests.iterdir()]
        except OSError:
            return set()
        asked = {run for name in names if (run := _run_number(name))}
        for run in sorted(asked):
            known = self.state.runs.get(run) or WatchedRun(run)
            if known.state in ACTIVE or (known.state == WAITING and known.about == _ASKED):
                continue
            for number in known.dark_of or (run,):
                self.state.change(
                    number, state=WAITING, about=_ASKED, since=self.clock(), tries=0, darks=0,
                    next_look=0.0, done_kind="", dark_of=(),
                )  # fmt: skip
            log.info("run %d: %s", run, _ASKED)
        return asked

    def _look_at(self, run: WatchedRun, *, forced: bool) -> None:
        look = Look(self.options, self.state, run, self.clock(), self._file_now, forced=forced)
        try:
            verdict = look.take()
        except OSError as error:
            verdict = Verdict("wait", f"waiting for {error.filename}: {error.strerror}")
        self._allowance.spend(look.calls)
        self._files_allowance.spend(look.files)
        if verdict.what == "wait":
            if not run.done_kind:
                self._ledger.tell(run.run, verdict.about)
        elif verdict.what == "skip":
            self._ledger.tell(run.run, verdict.about, state=SKIPPED)
            self._forget_request(run.run)
        elif verdict.what == "dark":
            n = verdict.rule.darks
            self.state.change(run.run, dark_of=(run.run,), darks=n)
            self._ledger.tell(run.run, f"dark run: waiting for {n} in a row")
            self._forget_request(run.run)
        else:
            self._jobs.process(run.run, verdict)
            self._forget_request(run.run)

    def _file_now(self) -> float:
        """Return the time by the clock of the file system."""
        with suppress(OSError):
            return file_system_now(self.files.lock)
        return self.clock()

    def _submit_darks(self) -> None:
        """Submit the dark runs that belong together, when all of them are there."""
        for run in [r for r in self.state.runs.values() if r.darks and r.dark_of == (r.run,)]:
            group = dark_group(self.state, run.darks, run.run)
            if not group or self._jobs.full:
                continue
            last = group[-1]
            for number in group[:-1]:
                about = f"makes calibration constants with run {last}"
                self._ledger.tell(number, about, state=SKIPPED, dark_of=group)
            self.state.change(last, dark_of=group)
            self._jobs.process(last, Verdict("process", "", "raw"))
            self._forget_request(last)

    def _forget_request(self, run: int) -> None:
        with suppress(OSError):
            (self.files.requests / f"r{run:04d}").unlink()


def ask_again(files: WatchFiles, runs: list[int]) -> None:
    """Ask whoever watches to process runs again.

    Raises
    ------
    OutputError
        If that cannot be written down.
    """
    for run in runs:
        path = files.requests / f"r{run:04d}"
        try:
            make_folder(files.requests)
            os.close(open_to_append(path))
        except OSError as error:
            raise cannot_write(path, error) from None


def _run_number(name: str) -> int:
    """Return the run of a folder, 0 if it is none."""
    digits = name[1:]
    return int(digits) if name[:1] == "r" and 4 <= len(digits) <= 9 and digits.isdecimal() else 0


def _rests(run: WatchedRun, until: float) -> bool:
    """Return whether a run waits for its files to stop changing, which is known soon."""
    return run.about.endswith("to stop changing") and run.next_look <= until
