"""The jobs of runs that are watched: submitted, followed to their end, continued if they died.

A job is in the state file before it is submitted: the watch that is started after a kill knows
which job may have been, asks Slurm and the result file of that job for it, and submits it again,
under the same name, only if nobody has heard of it.
"""

from collections.abc import Callable
from pathlib import Path

from xfelmpi.core.errors import (
    EXIT_COMPLETE,
    EXIT_NOT_STARTED,
    EXIT_PARTIAL,
    EXIT_SIGNAL,
    OutputError,
)
from xfelmpi.core.log import log, size_text
from xfelmpi.core.paths import Experiment
from xfelmpi.output.watch_state import (
    DONE,
    FAILED,
    RUNNING,
    SUBMITTED,
    WAITING,
    WatchedJob,
    WatchedRun,
)
from xfelmpi.workflows.watch.ledger import Ledger
from xfelmpi.workflows.watch.looks import LookOptions, Verdict, chosen_data, describe
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

_PAUSE_AFTER_REFUSAL = 60.0
"""Seconds until a job is submitted again that Slurm did not take."""

_CALLS_OF_RESULT = 3
"""File system calls of reading a result file."""


class Jobs:
    """The jobs of one process that watches.

    Parameters
    ----------
    ledger : Ledger
    queue : SlurmQueue or LocalQueue
    options : LookOptions
    tries : int
        Jobs that a run may have, if they are stopped or die.
    extra : callable
        Returns further options for ``sbatch``, told the bytes of the run.
    """

    def __init__(
        self,
        ledger: Ledger,
        queue: SlurmQueue | LocalQueue,
        options: LookOptions,
        tries: int,
        extra: Callable[[int], list[str]],
    ):
        self._ledger, self.queue, self._options = ledger, queue, options
        self._tries, self._extra = tries, extra
        self._quiet = False

    @property
    def full(self) -> bool:
        """Whether there are as many jobs as there may be."""
        return len(self._ledger.state.active) >= self.queue.most

    def process(self, run: int, verdict: Verdict) -> None:
        """Submit a job for a run."""
        known = self._ledger.state.runs[run]
        words = list(self._options.words(verdict.rule))
        if verdict.kind == "raw" and not known.dark_of and chosen_data(words) != "raw":
            words += ["--data", "raw"]
        if known.job is not None and self._unfinished_before(known):
            words.append("--resume")
        job = WatchedJob(
            self._next_name(known), tuple(words), self._ledger.clock(), "", verdict.kind
        )
        about = f"submitting: {describe(verdict)}, {size_text(verdict.n_bytes)}"
        # a job that may be there must be known before it is
        self._ledger.tell(
            run, about, state=SUBMITTED, job=job, jobs=known.jobs + 1, tries=known.tries + 1,
            status=None, inputs=verdict.inputs,
        )  # fmt: skip
        self._ledger.save()
        self._submit(run, verdict.n_bytes)

    def _unfinished_before(self, run: WatchedRun) -> bool:
        """Return whether the job before was stopped, so that it may have left a checkpoint."""
        return run.status in (None, EXIT_NOT_STARTED) or run.status in _STOPPED

    def _next_name(self, run: WatchedRun) -> str:
        """Return a name that no job has had, also before the state file was removed."""
        number = run.jobs + 1
        while self._ledger.files.result(f"r{run.run:04d}-{number}").exists():
            number += 1
        return f"r{run.run:04d}-{number}"

    def _submit(self, run: int, n_bytes: int) -> None:
        known = self._ledger.state.runs[run]
        job = known.job
        assert job is not None
        where = ["--prefix", str(self._options.prefix.absolute())]
        if known.dark_of:
            out = Experiment(self._options.prefix, self._options.output, run).constants.absolute()
            words = ["darks", *map(str, known.dark_of), *where, "--out", str(out)]
        else:
            output = str(self._options.output.absolute())
            words = [str(run), *where, "--output", output, *job.arguments]
        try:
            number = self.queue.submit(job.name, words, self._extra(n_bytes))
        except OutputError as error:
            self._ledger.tell(
                run, f"{error}; tried again", next_look=self._ledger.clock() + _PAUSE_AFTER_REFUSAL
            )
            return
        at = f"job {number}" if number else f"log {self._ledger.files.log(job.name)}"
        about = f"submitted to {self.queue.where}: {at}"
        job = WatchedJob(job.name, job.arguments, job.since, number, job.kind)
        self._ledger.tell(run, about, job=job, next_look=0.0)
        self._ledger.save()

    def follow(self) -> int:
        """See what has become of the jobs; return the calls of the file system that it took."""
        active, calls = self._ledger.state.active, 0
        if not active:
            return calls
        alive = self.queue.alive([run.job for run in active if run.job])
        if alive is None:
            if not self._quiet:
                log.warning("squeue does not answer; asking for the jobs again later")
            self._quiet = True
            return calls
        self._quiet = False
        for run in active:
            job = run.job
            assert job is not None
            if job.name in alive:
                state, number = alive[job.name]
                self._is_alive(run, state, number)
                continue
            result = read_result(self._ledger.files.result(job.name))
            calls += _CALLS_OF_RESULT
            if result.status is not None:
                self._ended(run, result.status)
            else:
                self._is_missing(run, result)
        return calls

    def _is_alive(self, run: WatchedRun, state: str, number: str) -> None:
        job = run.job
        assert job is not None
        if job.missing_since or (number and number != job.slurm):
            job = WatchedJob(job.name, job.arguments, job.since, number or job.slurm, job.kind)
        if state == PENDING and run.state == RUNNING:
            self._ledger.tell(run.run, "back in the queue of Slurm", state=SUBMITTED, job=job)
        elif state != PENDING and run.state == SUBMITTED:
            at = f" (job {job.slurm})" if job.slurm else ""
            self._ledger.tell(run.run, f"running{at}", state=RUNNING, job=job)
        else:
            self._ledger.change(run.run, job=job)

    def _is_missing(self, run: WatchedRun, result: Result) -> None:
        """Nobody knows of a job: it may not have been submitted, or has died with its node."""
        job, now = run.job, self._ledger.clock()
        assert job is not None
        if not job.missing_since:
            self._ledger.change(run.run, job=WatchedJob(*_fields(job), missing_since=now))
            return
        if now - job.missing_since < self._lost_after(job, result):
            return
        if not result.owner and not job.slurm:
            if now < run.next_look:
                return
            log.info("run %d: its job was not submitted; submitting it", run.run)
            self._ledger.change(run.run, job=WatchedJob(*_fields(job)))
            self._ledger.save()
            self._submit(run.run, _size(run))
            return
        self._again(run, "its job died, perhaps with its node", None)

    def _lost_after(self, job: WatchedJob, result: Result) -> float:
        # one whose submission was not confirmed may be on its way to Slurm
        return min(LOST_AFTER, 2 * self._options.every) if job.slurm or result.owner else LOST_AFTER

    def _ended(self, run: WatchedRun, status: int) -> None:
        job = run.job
        assert job is not None
        if status in _STOPPED:
            self._again(run, f"its job was stopped (status {status})", status)
            return
        if status == EXIT_NOT_STARTED:
            self._again(run, f"Slurm did not start its ranks (status {status})", status)
            return
        self._ledger.change(run.run, tries=0)
        said = {EXIT_COMPLETE: "complete", EXIT_PARTIAL: "complete, with problems (status 3)"}
        good = status in said
        about = said.get(status, f"failed, status {status}; see {self._log_of(run, job)}")
        kind = job.kind if good else run.done_kind
        if job.kind == "raw" and self._options.raw_after is not None and not run.dark_of:
            about = f"raw data {about}; waiting for correction"
            self._ledger.tell(
                run.run, about, state=WAITING, status=status, done_kind=kind or "raw", next_look=0.0
            )
            return
        self._ledger.tell(
            run.run, about, state=DONE if good else FAILED, status=status, done_kind=kind
        )

    def _again(self, run: WatchedRun, why: str, status: int | None) -> None:
        if run.tries >= self._tries:
            about = f"{why}, after {run.tries} tries; xfelmpi watch --again {run.run} tries again"
            self._ledger.tell(run.run, about, state=FAILED, status=status)
            return
        again = f"{why}; try {run.tries + 1} of {self._tries}"
        log.info("run %d: %s", run.run, again)
        job = run.job
        assert job is not None
        words = tuple(word for word in job.arguments if word != "--resume")
        if not run.dark_of:
            words = (*words, "--resume")
        new = WatchedJob(self._next_name(run), words, self._ledger.clock(), "", job.kind)
        self._ledger.change(
            run.run, state=SUBMITTED, about=again, since=self._ledger.clock(), job=new,
            jobs=run.jobs + 1, tries=run.tries + 1, status=status,
        )  # fmt: skip
        self._ledger.save()
        self._submit(run.run, _size(run))

    def _log_of(self, run: WatchedRun, job: WatchedJob) -> Path:
        if not job.slurm:
            return self._ledger.files.log(job.name)
        return self._ledger.files.log(f"r{run.run:04d}_{job.slurm.partition(';')[0]}")


def _fields(job: WatchedJob) -> tuple:
    return job.name, job.arguments, job.since, job.slurm, job.kind


def _size(run: WatchedRun) -> int:
    """Return the bytes of a run when it was looked at last."""
    return int(run.stamp[1]) if len(run.stamp) > 1 else 0
