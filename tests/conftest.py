"""For all tests: what each is (markers), how long it may take, crashes in the test's own process.

The limit of a test grows with the load of the machine at its start: a test that is only slow goes
on, one that hangs fails by its name.
"""

from pathlib import Path

import launch
import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from patience import patience

TESTS = Path(__file__).parent

FOLDERS = {"jobs": "job", "cluster": "cluster"}
"""The marker of all tests in a folder."""

SECONDS = 400
"""What a test may take on a quiet machine; the longest takes a tenth."""

MPI_SECONDS = 240
"""The same for a test on several ranks, of which one may wait for ever for the others."""


def pytest_configure(config):
    launch.crashes = config.stash.get(fault_handler_stderr_fd_key, launch.crashes)


def pytest_collection_modifyitems(items):
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in FOLDERS:
            item.add_marker(FOLDERS[folder])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    if item.config.pluginmanager.hasplugin("timeout"):
        mpi = item.get_closest_marker("mpi")
        seconds = (MPI_SECONDS if mpi else SECONDS) * patience()
        # a signal ends one test, but not what waits in C; a thread ends the process, which xdist
        # replaces, and which ends the job of all ranks
        method = "thread" if mpi or hasattr(item.config, "workerinput") else "signal"
        item.add_marker(pytest.mark.timeout(seconds, method=method))
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Have reports that xdist can send: it takes only text that can be UTF-8."""
    report = yield
    report.sections = [(_sendable(title), _sendable(text)) for title, text in report.sections]
    if report.failed and _sendable(str(report.longrepr)) != str(report.longrepr):
        report.longrepr = _sendable(str(report.longrepr))
    return report


def _sendable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
