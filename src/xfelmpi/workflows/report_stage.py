"""The end of a job: run report, run overview and hit browser, made by two ranks at once.

The outputs have their names and the summary is shown: what goes wrong here is a warning.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

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

    The last rank makes report and overview; meanwhile the first one makes what takes
    long (`PARTS`) and the hit browser. A rank that is ready sleeps: inside MPI it would take a
    core.
    """
    comm, experiment = job.comm, job.experiment
    fault_injection.inject(comm, "report")
    mpi.run_on_root(comm, lambda: _remove_earlier(experiment, same_hits=same_hits))
    if not job.config.report:
        return
    give_back()
    parts = _OtherParts(comm)
    makes_page = comm.rank == comm.size - 1
    found, failure = _make_page(experiment, parts) if makes_page else (None, "")
    give_back()
    try:
        mpi.run_on_root(comm, lambda: _make_hit_browser(experiment, found, parts))
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


class _OtherParts:
    """Parts of the page that the first rank makes, for the last one; nothing if there is only one.

    The first rank calls `end`, and the last one `receive_all`, whatever goes wrong.
    """

    def __init__(self, comm):
        self._comm = comm
        self._open = comm.size > 1
        self._requests: list = []
        self._received: dict[str, Any] = {}

    def make(self, found: "RunFiles") -> None:
        """Make all `PARTS`, and send those that do not fail: the others are made by the page."""
        if not self._open:
            return
        from xfelmpi.report.page_parts import PARTS

        for name, make in PARTS.items():
            with suppress(Exception):
                self._send((name, make(found)))

    def end(self) -> None:
        """Send that there are no more, and wait until all are received."""
        if self._open:
            self._send(None)
        for request in self._requests:
            request.wait()

    def _send(self, message: tuple[str, Any] | None) -> None:
        self._requests.append(self._comm.isend(message, dest=self._comm.size - 1))

    def receive(self, name: str) -> Any:
        """Return one; None if it is to be made here."""
        while self._open and name not in self._received:
            self._receive_next()
        return self._received.get(name)

    def receive_all(self) -> None:
        """Receive what nobody has asked for."""
        while self._open:
            self._receive_next()

    def _receive_next(self) -> None:
        message = self._comm.recv(source=0)
        if message is None:
            self._open = False
        else:
            self._received.update([message])


def _make_page(experiment: Experiment, parts: _OtherParts) -> tuple["RunFiles | None", str]:
    """Return what the output files say, and what went wrong; one rank."""
    try:
        # slow to import, and needed here only
        from xfelmpi.report.build import make_report

        return make_report(experiment, parts.receive), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
    finally:
        parts.receive_all()


def _make_hit_browser(experiment: Experiment, found: "RunFiles | None", parts: _OtherParts) -> None:
    """Make parts of the report, and the hit browser; one rank."""
    try:
        # slow to import, and needed here only
        from xfelmpi.report.hit_browser import write_hit_browser
        from xfelmpi.report.run_files import read_run_files

        found = found or read_run_files(experiment)
        parts.make(found)
        write_hit_browser(found)
    finally:
        parts.end()
