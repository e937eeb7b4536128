"""Looks at runs again and again, submits what is complete, and follows the jobs to their end.

Everything is in the state file before it is done: whoever takes up after a kill knows which job may
have been submitted, asks Slurm and the result file of that job for it, and submits it again, under
the same name, only if nobody has heard of it.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep, time

from xfelmpi.core.errors import EXIT_COMPLETE, EXIT_PARTIAL, EXIT_SIGNAL, OutputError
from xfelmpi.core.log import log, size_text
from xfelmpi.core.paths import Experiment, WatchFiles
from xfelmpi.io.output_file import cannot_write, make_folder
from xfelmpi.output.watch_state import (
    ACTIVE,
    DONE,
    FAILED,
    RUNNING,
    SKIPPED,
    SUBMITTED,
    WAITING,
    WatchedJob,
    WatchedRun,
    WatchState,
    read_state,
    write_state,
)
from xfelmpi.run.arrival import file_system_now
from xfelmpi.workflows.watch.looks import (
    CALLS_A_MINUTE,
    FILES_A_MINUTE,
    Allowance,
    Look,
    LookOptions,
    Verdict,
    dark_group,
    describe,
)
from xfelmpi.workflows.watch.queues import (
    PENDING,
    LocalQueue,
    Result,
    SlurmQueue,
    read_result,
)

LOST_AFTER = 20.0
"""Seconds for which nobody must have heard of a job before it is taken for lost."""

_STOPPED = range(EXIT_SIGNAL + 1, EXIT_SIGNAL + 65)
"""Exit statuses of jobs that a signal has ended."""

_ASKED = "asked for"

_PAUSE_AFTER_REFUSAL = 60.0
"""Seconds until a job is submitted again that Slurm did not take."""

_BUSY_PAUSE = 0.2
"""Seconds between two polls of who looks only once, and has jobs that run here."""

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
        self.state = read_state(self.files.state)
        self._allowance = Allowance(CALLS_A_MINUTE)
        self._files_allowance = Allowance(FILES_A_MINUTE)
        self._saved = repr(self.state)
        self._quiet = False
        self._failures: set[int] = set()

    def run(self, once: bool = False) -> int:
        """Watch until the process is stopped; with `once` until all that is there was looked at.

        Returns
        -------
        int
            Exit status: 0, or with `once` 3 if a run has failed.
        """
        while True:
            self.poll()
            if once and not self._busy():
                return EXIT_PARTIAL if self._failures else EXIT_COMPLETE
            pause = self._next_look() if once else self.options.every
            sleep(min(max(pause, _BUSY_PAUSE if once else 0.02), self.options.every))

    def poll(self) -> None:
        """Look once at all that is due, and at the jobs."""
        for allowance in (self._allowance, self._files_allowance):
            allowance.refill(self.clock())
        self._follow_jobs()
        self._see_new_runs()
        forced = self._requests()
        due = sorted(
            (r for r in self.state.runs.values() if r.state == WAITING and self._is_due(r, forced)),
            key=lambda r: (r.run not in forced, r.next_look, -r.run),
        )
        for run in due:
            if (
                min(self._allowance.left, self._files_allowance.left) <= 0
                or len(self.state.active) >= self.queue.most
            ):
                break
            self._look_at(run, run.run in forced)
        self._submit_darks()
        self.save()

    def save(self) -> None:
        """Write the state, if it is another one than before, and show it."""
        now = repr(self.state)
        if now != self._saved:
            write_state(self.files.state, self.state)
            self._saved = now
            self.show(self.state)

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

    def _look_at(self, run: WatchedRun, forced: bool) -> None:
        files = self.files.lock

        def file_now() -> float:
            with suppress(OSError):
                return file_system_now(files)
            return self.clock()

        look = Look(self.options, self.state, run, self.clock(), file_now, forced)
        try:
            verdict = look.take()
        except OSError as error:
            verdict = Verdict("wait", f"waiting for {error.filename}: {error.strerror}")
        self._allowance.spend(look.calls)
        self._files_allowance.spend(look.files)
        if verdict.what == "wait":
            if not run.done_kind:
                self._tell(run.run, verdict.about)
        elif verdict.what == "skip":
            self._tell(run.run, verdict.about, state=SKIPPED)
            self._forget_request(run.run)
        elif verdict.what == "dark":
            n = verdict.rule.darks
            self.state.change(run.run, dark_of=(run.run,), darks=n)
            self._tell(run.run, f"dark run: waiting for {n} in a row")
            self._forget_request(run.run)
        else:
            self._process(run.run, verdict)

    def _tell(self, run: int, about: str, **values) -> None:
        """Take note of something about a run, and say it if it is new."""
        before = self.state.runs[run]
        if values.get("state") == FAILED:
            self._failures.add(run)
        if about != before.about or values:
            log.info("run %d: %s", run, about)
            values = {"since": self.clock(), **values}
        self.state.change(run, about=about, **values)

    def _submit_darks(self) -> None:
        """Submit the dark runs that belong together, when all of them are there."""
        for run in [r for r in self.state.runs.values() if r.darks and r.dark_of == (r.run,)]:
            group = dark_group(self.state, run.darks, run.run)
            if not group or len(self.state.active) >= self.queue.most:
                continue
            last = group[-1]
            for number in group[:-1]:
                about = f"makes calibration constants with run {last}"
                self._tell(number, about, state=SKIPPED, dark_of=group)
            self.state.change(last, dark_of=group)
            self._process(last, Verdict("process", "", "raw"))

    def _process(self, run: int, verdict: Verdict) -> None:
        known = self.state.runs[run]
        words = [*verdict.rule.options, *self.options.options]
        if verdict.kind == "raw" and not known.dark_of and "raw" not in words:
            words += ["--data", "raw"]
        if known.job is not None and self._unfinished_before(known):
            words.append("--resume")
        job = WatchedJob(self._next_name(known), tuple(words), self.clock(), "", verdict.kind)
        about = f"submitting: {describe(verdict)}, {size_text(verdict.n_bytes)}"
        # a job that may be there must be known before it is
        self._tell(
            run, about, state=SUBMITTED, job=job, jobs=known.jobs + 1, tries=known.tries + 1,
            status=None,
        )  # fmt: skip
        self.save()
        self._submit(run, verdict.n_bytes)
        self._forget_request(run)

    def _unfinished_before(self, run: WatchedRun) -> bool:
        """Return whether the job before was stopped, so that it may have left a checkpoint."""
        return run.status is None or run.status in _STOPPED

    def _next_name(self, run: WatchedRun) -> str:
        """Return a name that no job has had, also before the state file was removed."""
        number = run.jobs + 1
        while self.files.result(f"r{run.run:04d}-{number}").exists():
            number += 1
        return f"r{run.run:04d}-{number}"

    def _submit(self, run: int, n_bytes: int) -> None:
        known = self.state.runs[run]
        job = known.job
        assert job is not None
        where = ["--prefix", str(self.options.prefix.absolute())]
        if known.dark_of:
            out = Experiment(self.options.prefix, self.options.output, run).constants.absolute()
            words = ["darks", *map(str, known.dark_of), *where, "--out", str(out)]
        else:
            output = str(self.options.output.absolute())
            words = [str(run), *where, "--output", output, *job.arguments]
        try:
            number = self.queue.submit(job.name, words, self.extra(n_bytes))
        except OutputError as error:
            self._tell(run, f"{error}; tried again", next_look=self.clock() + _PAUSE_AFTER_REFUSAL)
            return
        at = f"job {number}" if number else f"log {self.files.log(job.name)}"
        about = f"submitted to {self.queue.where}: {at}"
        job = WatchedJob(job.name, job.arguments, job.since, number, job.kind)
        self._tell(run, about, job=job, next_look=0.0)
        self.save()

    def _follow_jobs(self) -> None:
        active = self.state.active
        if not active:
            return
        alive = self.queue.alive([run.job for run in active if run.job])
        if alive is None:
            if not self._quiet:
                log.warning("squeue does not answer; the jobs are looked for again")
            self._quiet = True
            return
        self._quiet = False
        for run in active:
            job = run.job
            assert job is not None
            if job.name in alive:
                state, number = alive[job.name]
                self._is_alive(run, state, number)
                continue
            result = read_result(self.files.result(job.name))
            self._allowance.spend(3)
            if result.status is not None:
                self._ended(run, result.status)
            else:
                self._is_missing(run, result)

    def _is_alive(self, run: WatchedRun, state: str, number: str) -> None:
        job = run.job
        assert job is not None
        if job.missing_since or (number and number != job.slurm):
            job = WatchedJob(job.name, job.arguments, job.since, number or job.slurm, job.kind)
        if state == PENDING and run.state == RUNNING:
            self._tell(run.run, "back in the queue of Slurm", state=SUBMITTED, job=job)
        elif state != PENDING and run.state == SUBMITTED:
            at = f" (job {job.slurm})" if job.slurm else ""
            self._tell(run.run, f"running{at}", state=RUNNING, job=job)
        else:
            self.state.change(run.run, job=job)

    def _is_missing(self, run: WatchedRun, result: Result) -> None:
        """Nobody knows of a job: it may not have been submitted, or has died with its node."""
        job, now = run.job, self.clock()
        assert job is not None
        if not job.missing_since:
            self.state.change(run.run, job=WatchedJob(*_fields(job), missing_since=now))
            return
        if now - job.missing_since < self._lost_after(job, result):
            return
        if not result.owner and not job.slurm:
            if now < run.next_look:
                return
            log.info("run %d: its job was not submitted; submitting it", run.run)
            self.state.change(run.run, job=WatchedJob(*_fields(job)))
            self.save()
            self._submit(run.run, 0)
            return
        self._again(run, "its job died, perhaps with its node", None)

    def _lost_after(self, job: WatchedJob, result: Result) -> float:
        # one whose submission was not confirmed may be on its way to Slurm
        return min(LOST_AFTER, 2 * self.options.every) if job.slurm or result.owner else LOST_AFTER

    def _ended(self, run: WatchedRun, status: int) -> None:
        job = run.job
        assert job is not None
        if status in _STOPPED:
            self._again(run, f"its job was stopped (status {status})", status)
            return
        self.state.change(run.run, tries=0)
        said = {EXIT_COMPLETE: "complete", EXIT_PARTIAL: "complete, with problems (status 3)"}
        good = status in said
        about = said.get(status, f"failed, status {status}; see {self._log_of(run, job)}")
        kind = job.kind if good else run.done_kind
        if job.kind == "raw" and self.options.raw_after is not None and not run.dark_of:
            about = f"raw data {about}; waiting for correction"
            self._tell(
                run.run, about, state=WAITING, status=status, done_kind=kind or "raw", next_look=0.0
            )
            return
        self._tell(run.run, about, state=DONE if good else FAILED, status=status, done_kind=kind)

    def _again(self, run: WatchedRun, why: str, status: int | None) -> None:
        if run.tries >= self.tries:
            about = f"{why}, after {run.tries} tries; xfelmpi watch --again {run.run} tries again"
            self._tell(run.run, about, state=FAILED, status=status)
            return
        again = f"{why}; try {run.tries + 1} of {self.tries}"
        log.info("run %d: %s", run.run, again)
        job = run.job
        assert job is not None
        words = tuple(word for word in job.arguments if word != "--resume")
        if not run.dark_of:
            words = (*words, "--resume")
        new = WatchedJob(self._next_name(run), words, self.clock(), "", job.kind)
        self.state.change(
            run.run, state=SUBMITTED, about=again, since=self.clock(), job=new,
            jobs=run.jobs + 1, tries=run.tries + 1, status=status,
        )  # fmt: skip
        self.save()
        self._submit(run.run, int(run.stamp[1]) if len(run.stamp) > 1 else 0)

    def _log_of(self, run: WatchedRun, job: WatchedJob) -> Path:
        if not job.slurm:
            return self.files.log(job.name)
        return self.files.log(f"r{run.run:04d}_{job.slurm.partition(';')[0]}")

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
            path.touch()
        except OSError as error:
            raise cannot_write(path, error) from None


def _fields(job: WatchedJob) -> tuple:
    return job.name, job.arguments, job.since, job.slurm, job.kind


def _run_number(name: str) -> int:
    """Return the run of a folder, 0 if it is none."""
    digits = name[1:]
    return int(digits) if name[:1] == "r" and 4 <= len(digits) <= 9 and digits.isdecimal() else 0


def _rests(run: WatchedRun, until: float) -> bool:
    """Return whether a run waits for its files to be at rest, which they will be soon."""
    return run.about.endswith("to be at rest") and run.next_look <= until
