"""The end of a job: run report, run overview and hit browser, made by two ranks at once.

The outputs have their names and the summary is shown: what goes wrong here is a warning.
"""

from contextlib import suppress
from typing import TYPE_CHECKING

from xfelmpi import mpi
from xfelmpi.core import fault_injection
from xfelmpi.core.free_memory import give_back
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.log import log
from xfelmpi.core.paths import Experiment

if TYPE_CHECKING:
    from xfelmpi.report.run_files import RunFiles


def report_run(job: RunJob, *, same_hits: bool = False) -> None:
    """Make run report, run overview and hit browser, if wanted; collective.

    Pages of an earlier job are removed; that of the classes stays with the `same_hits`.

    The last rank makes report and overview; meanwhile the first one draws the hits of the report,
    and makes the hit browser. A rank that is ready sleeps: inside MPI it would take a core.
    """
    comm, experiment = job.comm, job.experiment
    fault_injection.inject(comm, "report")
    mpi.run_on_root(comm, lambda: _remove_earlier(experiment, same_hits=same_hits))
    if not job.config.report:
        return
    give_back()
    hits = _HitImages(comm)
    makes_page = comm.rank == comm.size - 1
    found, failure = _make_page(experiment, hits) if makes_page else (None, "")
    try:
        mpi.run_on_root(comm, lambda: _make_hit_browser(experiment, found, hits))
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


def _remove_earlier(experiment: Experiment, *, same_hits: bool) -> None:
    """Remove what an earlier job has shown of the run: it does not fit the new outputs."""
    pages = [experiment.page, experiment.hit_browser, experiment.status]
    for path in pages if same_hits else [*pages, experiment.classes_page]:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s of an earlier job cannot be removed: %s", path, error.strerror)


class _HitImages:
    """Hits of the report, drawn by the first rank for the last one; nothing if that fails.

    Each of the two calls its own method once, whatever goes wrong.
    """

    def __init__(self, comm):
        self._comm = comm
        self._due = comm.size > 1

    def send(self, found: "RunFiles | None"):
        """Draw them; return the request of the message, None if there is only one rank."""
        if not self._due:
            return None
        drawn = ""
        if found is not None:
            # the report draws them itself, then, and says what is wrong
            with suppress(Exception):
                from xfelmpi.report.detector_images import hit_images

                drawn = hit_images(found)
        return self._comm.isend(drawn, dest=self._comm.size - 1)

    def receive(self) -> str:
        """Return them as HTML, once; nothing if they are to be drawn here."""
        if not self._due:
            return ""
        self._due = False
        return self._comm.recv(source=0)


def _make_page(experiment: Experiment, hits: _HitImages) -> tuple["RunFiles | None", str]:
    """Return what the output files say, and what went wrong; one rank."""
    try:
        # slow to import, and needed here only
        from xfelmpi.report.build import make_report

        return make_report(experiment, hits.receive), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
    finally:
        hits.receive()


def _make_hit_browser(experiment: Experiment, found: "RunFiles | None", hits: _HitImages) -> None:
    """Draw the hits of the report, and make the hit browser; one rank."""
    request = None
    try:
        # slow to import, and needed here only
        from xfelmpi.report.hit_browser import write_hit_browser
        from xfelmpi.report.run_files import read_run_files

        found = found or read_run_files(experiment)
        request = hits.send(found)
        write_hit_browser(found)
    finally:
        request = request or hits.send(None)
        if request is not None:
            request.wait()
