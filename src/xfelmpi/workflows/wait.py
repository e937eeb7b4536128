"""Waiting for a run that is still being written or corrected, before it is processed."""

from contextlib import suppress
from time import monotonic, sleep, time

from xfelmpi import mpi
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.log import duration, log
from xfelmpi.output.watch_state import WatchState
from xfelmpi.run import arrival
from xfelmpi.workflows.watch.looks import Look, LookOptions, Verdict

LOOK_EVERY = 5.0
"""Seconds between looks at first; later a tenth of the time that it has taken so far."""

LONGEST_PAUSE = 30.0


def wait_for_run(job: RunJob, seconds: float) -> None:
    """Return when the run is complete, or after so many seconds; collective.

    Corrected data are waited for unless ``--data raw`` asks for raw ones. A run that is not
    complete by then is processed as it is, and the job says so.

    Parameters
    ----------
    job : RunJob
        Holds the lock of the run.
    seconds : float
    """
    mpi.run_on_root(job.comm, lambda: _wait(job, seconds))


class Completeness:
    """Tells again and again whether a run is complete; one rank.

    Parameters
    ----------
    job : RunJob
        Holds the lock of the run. Corrected data are expected unless raw ones are asked for.
    """

    def __init__(self, job: RunJob):
        self._job, self._state = job, WatchState()
        self._state.redu = arrival.makes_redu(job.experiment)

    def lacking(self) -> str:
        """Return what the run waits for, empty if it is complete."""
        verdict = _look(self._job, self._state)
        return verdict.about if verdict.what == "wait" else ""


def _wait(job: RunJob, seconds: float) -> None:
    start, said, run = monotonic(), "", Completeness(job)
    while lacking := run.lacking():
        waited = monotonic() - start
        if waited >= seconds:
            log.warning(
                "run %d is not complete after %s (%s): processed as it is",
                *(job.experiment.run, duration(waited), lacking),
            )
            return
        if lacking != said:
            log.info("%s …", lacking)
            said = lacking
        pause = min(max(LOOK_EVERY, waited / 10), LONGEST_PAUSE)
        sleep(min(pause, seconds - waited))
    if said:
        log.info("run %d is complete", job.experiment.run)


def _look(job: RunJob, state: WatchState) -> Verdict:
    experiment, data = job.experiment, job.config.data
    words = ("--data", data) if data == "raw" else ()
    if job.config.detector:
        words += ("--detector", job.config.detector)
    options = LookOptions(
        experiment.prefix,
        experiment.output,
        options=words,
        settle=arrival.SETTLED_AFTER,
        patience=float("inf"),
    )

    def file_now() -> float:
        with suppress(OSError):
            return arrival.file_system_now(experiment.lock)
        return time()

    run = state.change(experiment.run)
    return Look(options, state, run, time(), file_now).take()
