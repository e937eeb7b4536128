"""The end of a job: run report, run overview and hit browser, made by two ranks at once.

The outputs have their names and the summary is shown: what goes wrong here is a warning.
"""

from typing import TYPE_CHECKING

from xfelmpi import mpi
from xfelmpi.core import fault_injection
from xfelmpi.core.free_memory import give_back
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.log import log
from xfelmpi.core.paths import Experiment

if TYPE_CHECKING:
    from xfelmpi.report.run_files import RunFiles


def report_run(job: RunJob) -> None:
    """Make run report, run overview and hit browser, if wanted; collective.

    The last rank makes report and overview; meanwhile the first one makes the hit browser. A rank
    that is ready sleeps: inside MPI it would take a core.
    """
    comm, experiment = job.comm, job.experiment
    fault_injection.inject(comm, "report")
    mpi.run_on_root(comm, lambda: _remove_earlier(experiment))
    if not job.config.report:
        return
    give_back()
    makes_page = comm.rank == comm.size - 1
    found, failure = _make_page(experiment) if makes_page else (None, "")
    try:
        mpi.run_on_root(comm, lambda: _make_hit_browser(experiment, found))
        browser_failure = ""
    except Exception as error:
        browser_failure = f"{type(error).__name__}: {error}"
    failure = comm.bcast(failure, root=comm.size - 1)
    if comm.rank == 0:
        if failure:
            log.warning("the run report could not be made: %s", failure)
        else:
            log.info("report: %s", experiment.page)
        if browser_failure:
            log.warning("no hit browser of the run: %s", browser_failure)


def _remove_earlier(experiment: Experiment) -> None:
    """Remove what an earlier job has shown of the run: it does not fit the new outputs."""
    for path in (experiment.page, experiment.hit_browser, experiment.status):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s of an earlier job cannot be removed: %s", path, error.strerror)


def _make_page(experiment: Experiment) -> tuple["RunFiles | None", str]:
    """Return what the output files say, and what went wrong; one rank."""
    try:
        # slow to import, and needed here only
        from xfelmpi.report.build import make_report

        return make_report(experiment), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def _make_hit_browser(experiment: Experiment, found: "RunFiles | None") -> None:
    # slow to import, and needed here only
    from xfelmpi.report.hit_browser import write_hit_browser
    from xfelmpi.report.run_files import read_run_files

    write_hit_browser(found or read_run_files(experiment))
