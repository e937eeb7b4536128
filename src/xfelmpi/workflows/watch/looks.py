"""One look at a run: whether it is there as a whole, what it is, and what is to be done with it.

A look costs two listings of folders; only when these have all names, one call for each file; only
when these are at rest, the last file of every module is opened. How many calls looks may take in a
minute has a limit for all runs together, another one that of the calls for the files of complete
runs. A run of which nothing changes is looked at more and more rarely.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from xfelmpi.core.paths import Experiment
from xfelmpi.output.watch_state import WAITING, WatchedRun, WatchState
from xfelmpi.run.arrival import (
    SETTLED_AFTER,
    Listing,
    Stamp,
    list_folder,
    missing_files,
    run_labels,
    stamp_files,
    unequal_ends,
)
from xfelmpi.workflows.watch.rules import Rule, Rules, last_value

CALLS_A_MINUTE = 300.0
"""File system calls that listings may take, on average."""

FILES_A_MINUTE = 600.0
"""Files of which sizes and times may be asked for, on average: a call each."""

_CALLS_TO_OPEN = 4
"""File system calls of opening a file."""

_FEW_MODULES = 10
"""Times longer a run must be at rest that has fewer modules than the detector: more may come."""

_MOST_OWED = 5.0
"""Seconds after which looks go on, however many calls were made before."""

RARELY = 3600.0
"""Seconds between looks at a run that has not changed for ten times as long."""


@dataclass
class Allowance:
    """So many calls of the file system in a minute; a look that has begun may take more.

    Parameters
    ----------
    per_minute : float
    """

    per_minute: float
    last: float = 0.0

    def __post_init__(self):
        self.left = self.per_minute

    def refill(self, now: float) -> None:
        """Take note that time has passed."""
        gained = max(now - self.last, 0.0) / 60 * self.per_minute
        self.left, self.last = min(self.left + gained, self.per_minute), now

    def spend(self, calls: int) -> None:
        """Take note of calls; what is owed is never more than what a few seconds give."""
        self.left = max(self.left - calls, -self.per_minute * _MOST_OWED / 60)


@dataclass(frozen=True)
class LookOptions:
    """What decides whether a run is complete.

    Parameters
    ----------
    prefix, output : Path
    rules : Rules
    options : tuple of str
        Words of the command line of every job; they win over those of a rule, and these over those
        of all rules.
    settle : float
        Seconds without a change after which files are at rest.
    patience : float
        Seconds without a change after which a run is processed as it is.
    raw_after : float or None
        Seconds after which a complete raw run is processed if it is not corrected by then.
    redu : bool or None
        Whether there must be ``REDU`` files; None: if a run of the proposal has one.
    every : float
        Seconds between looks.
    """

    prefix: Path
    output: Path
    rules: Rules = field(default_factory=Rules)
    options: tuple[str, ...] = ()
    settle: float = SETTLED_AFTER
    patience: float = 1800.0
    raw_after: float | None = None
    redu: bool | None = None
    every: float = 20.0

    def words(self, rule: Rule) -> tuple[str, ...]:
        """Return the options of a job; of those that are there twice, the last one counts."""
        return (*self.rules.options, *rule.options, *self.options)


@dataclass(frozen=True)
class Verdict:
    """What a look has found.

    Parameters
    ----------
    what : str
        ``wait``, ``process``, ``skip`` or ``dark``.
    about : str
        What it waits for, or why it is skipped.
    kind : str
        ``proc`` or ``raw``: what is to be processed.
    rule : Rule
    n_bytes : int
        Of the files to be processed.
    as_it_is : str
        What is still missing if the run is processed all the same.
    inputs : str
        Of the files to be processed, see `Stamp.inputs`.
    """

    what: str
    about: str = ""
    kind: str = ""
    rule: Rule = field(default_factory=Rule)
    n_bytes: int = 0
    as_it_is: str = ""
    inputs: str = ""


class Look:
    """A look at one run; `take` returns the verdict, and puts what it has seen into the state.

    Parameters
    ----------
    options : LookOptions
    state : WatchState
    run : WatchedRun
    now : float
        Seconds since 1970, of this machine.
    file_now : callable
        Returns the time by the clock of the file system.
    forced : bool
        Whether the run is to be processed as it is.
    """

    def __init__(
        self,
        options: LookOptions,
        state: WatchState,
        run: WatchedRun,
        now: float,
        file_now: Callable[[], float],
        *,
        forced: bool = False,
    ):
        self._options, self._state, self._run = options, state, run
        self._now, self._file_now, self._forced = now, file_now, forced
        experiment = Experiment(options.prefix, options.output, run.run)
        self._folders = {kind: experiment.run_folder(kind) for kind in ("raw", "proc")}
        self.calls = self.files = 0
        self._stamps: dict[Path, Stamp] = {}

    def take(self) -> Verdict:
        """Look, and return what is to be done."""
        # rules are by what is in the files
        detector = last_value(self._options.words(Rule()), "--detector")
        raw, proc = (list_folder(self._folders[kind], kind, detector) for kind in ("raw", "proc"))
        self.calls += raw.calls + proc.calls
        self._state.redu |= proc.redu
        verdict = self._look(raw, proc)
        self._plan_next_look()
        return verdict

    def _look(self, raw: Listing, proc: Listing) -> Verdict:
        if not raw.sequences and not proc.sequences:
            self._see(Stamp(len(raw.names) + len(proc.names)))
            return Verdict("wait", "waiting for its detector files")
        as_it_is = ""
        # a corrected run with all files of the raw run tells all that there is to know of it
        corrected = proc.sequences and not missing_files(proc, raw)
        if raw.sequences and not (corrected or self._run.raw_since or self._forced):
            reason = self._unfinished(raw, None)
            if reason and not self._gave_up():
                return Verdict("wait", f"raw run: waiting for {reason}")
            as_it_is = reason
            self._change(raw_since=self._now)
        rule = self._rule(proc if proc.sequences else raw)
        if rule.skip:
            return Verdict("skip", "skipped by watch.toml", rule=rule)
        if rule.darks:
            return Verdict("dark", f"one of {rule.darks} dark runs", "raw", rule)
        wanted = chosen_data(self._options.words(rule))
        if wanted == "raw":
            return self._process("", raw, rule, as_it_is)
        return self._look_at_corrected(raw, proc, rule, as_it_is)

    def _look_at_corrected(self, raw: Listing, proc: Listing, rule: Rule, as_it_is: str) -> Verdict:
        origin = raw if raw.sequences else None
        reason, waits = "", "waiting for correction"
        if proc.sequences:
            reason = self._unfinished(proc, origin)
            if not reason:
                return self._process("", proc, rule, as_it_is)
            waits = f"waiting for {reason}"
        ends = proc.sequences and not (origin and missing_files(proc, origin))
        if self._forced or (ends and self._gave_up()):
            chosen = proc if proc.sequences else raw
            return self._process("", chosen, rule, reason or as_it_is)
        wait, since = self._options.raw_after, self._run.raw_since
        if wait is not None and since and not self._run.done_kind and self._now - since >= wait:
            return self._process(waits, raw, rule, as_it_is)
        return Verdict("wait", waits, rule=rule)

    def _unfinished(self, have: Listing, raw: Listing | None) -> str:
        """Return what a listing lacks, or that it is not at rest, or where it ends too early."""
        redu = bool(raw) and self._redu_wanted()
        if reason := missing_files(have, raw, redu=redu):
            self._see(Stamp(len(have.names)))
            return reason
        stamp = stamp_files(have)
        self.files += stamp.files
        self._stamps[have.folder] = stamp
        self._see(replace(stamp, files=stamp.files + (len(raw.names) if raw else 0)))
        rest = self._now - self._run.stamp_since
        age = self._file_now() - stamp.latest
        # either clock may be wrong: what was seen not to change is at rest, whatever its time says
        settle = self._options.settle
        expected = raw or have
        if len(expected.sequences) < expected.n_modules:
            settle = min(_FEW_MODULES * settle, self._options.patience)
        if max(rest, age) < settle:
            seconds = settle - max(rest, age, 0.0)
            self._change(next_look=self._now + max(seconds, 0.05))
            return "its files to stop changing"
        opened = len(have.last_files) + (len(raw.last_files) if raw else 0)
        self.files += _CALLS_TO_OPEN * opened
        return unequal_ends(have, raw, self._run.run)

    def _redu_wanted(self) -> bool:
        return self._state.redu if self._options.redu is None else self._options.redu

    def _rule(self, listing: Listing) -> Rule:
        rules = self._options.rules
        if not rules.rules:
            return Rule()
        self.calls += 5
        return rules.rule_for(self._run.run, *run_labels(listing))

    def _process(self, about: str, listing: Listing, rule: Rule, as_it_is: str) -> Verdict:
        kind = "raw" if listing.folder == self._folders["raw"] else "proc"
        if listing.folder not in self._stamps:
            self._stamps[listing.folder] = stamp_files(listing)
            self.files += self._stamps[listing.folder].files
        stamp = self._stamps[listing.folder]
        return Verdict("process", about, kind, rule, stamp.size, as_it_is, stamp.inputs)

    def _gave_up(self) -> bool:
        """Return whether nothing has changed for so long that nothing will."""
        return self._now - self._run.stamp_since >= self._options.patience

    def _see(self, stamp: Stamp) -> None:
        """Take note of what tells that files have changed."""
        seen = (float(stamp.files), float(stamp.size), stamp.latest)
        if seen != self._run.stamp:
            self._change(stamp=seen, stamp_since=self._now)

    def _change(self, **values) -> None:
        self._run = self._state.change(self._run.run, **values)

    def _plan_next_look(self) -> None:
        """Look again soon at what changes, and rarely at what has not changed for long."""
        if self._run.next_look > self._now:
            return
        pause = (self._now - self._run.stamp_since) / 10
        pause = min(max(self._options.every, pause), max(RARELY, self._options.every))
        later = self._now + pause
        wait = self._options.raw_after
        if wait is not None and self._run.raw_since and not self._run.done_kind:
            due = self._run.raw_since + wait
            later = min(later, due) if due > self._now else later
        self._change(next_look=later)


def chosen_data(words: Sequence[str]) -> str:
    """Return the data that options ask for, empty if they leave it open."""
    chosen = last_value(words, "--data")
    return "" if chosen == "auto" else chosen


def describe(verdict: Verdict) -> str:
    """Return what is processed, for the log."""
    about = f"{verdict.kind} data"
    if verdict.as_it_is:
        about += f", as they are: still missing {verdict.as_it_is}"
    return about


def dark_group(state: WatchState, n: int, run: int) -> tuple[int, ...]:
    """Return `n` dark runs that wait and follow each other, with `run` among them; or none.

    They begin after a run that is known not to be another dark one: of six dark runs the first
    three belong together, whichever of them is complete first.
    """
    for first in range(run - n + 1, run + 1):
        before = state.runs.get(first - 1)
        waits = before is not None and before.state == WAITING
        if waits and (not before.raw_since or before.dark_of == (before.run,)):
            continue
        group = tuple(range(first, first + n))
        there = [state.runs.get(number) for number in group]
        if all(r is not None and r.state == WAITING and r.dark_of == (r.run,) for r in there):
            return group
    return ()
