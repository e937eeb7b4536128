"""For all tests: what each is (markers), how long it may take, crashes in the test's own process.

Disk and memory of a test file are given back at its end: all files together need tens of GB.

The limit of a test grows with the load of the machine at its start: a test that is only slow goes
on, one that hangs fails by its name.
"""

import ctypes
import gc
import shutil
from pathlib import Path

import launch
import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from keptbins import keep_bins
from parsedgeometry import keep_parsed
from patience import patience

from xfelmpi.core import free_memory

_give_back = free_memory.give_back

TESTS = Path(__file__).parent

FOLDERS = {"jobs": "job", "cluster": "cluster"}
"""The marker of all tests in a folder."""

SECONDS = 400
"""What a test may take on a quiet machine; the longest takes a tenth."""

MPI_SECONDS = 240
"""The same for a test on several ranks, of which one may wait for ever for the others."""


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's mallopt."""


def pytest_configure(config):
    launch.crashes = config.stash.get(fault_handler_stderr_fd_key, launch.crashes)
    # memory of large arrays is kept for the next ones: a fifth of the time of a job in this process
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    free_memory.give_back = lambda: None
    keep_parsed()
    keep_bins()
    # what pytest collects is kept to the end, and each search for garbage would walk all of it
    gc.disable()


@pytest.fixture(scope="module", autouse=True)
def _space_given_back(request, tmp_path_factory):
    """Remove what the fixtures of a file have written, unless a test failed; return free memory."""
    if request.config.getoption("--with-mpi", False):
        yield  # another rank may still read it
        return
    folder = tmp_path_factory.getbasetemp()
    before, failed = set(folder.iterdir()), request.session.testsfailed
    yield
    if request.session.testsfailed == failed:
        for path in set(folder.iterdir()) - before:
            shutil.rmtree(path, ignore_errors=True)
    _give_back()


def pytest_collection_modifyitems(items):
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in FOLDERS:
            item.add_marker(FOLDERS[folder])
    _apart(items)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish():
    """Leave all that exists from now on out of searches for garbage."""
    gc.freeze()
    gc.enable()


def _apart(items) -> None:
    """Put other files between those of tests/cluster, which mostly wait: one of them at a time."""
    files: dict[Path, list] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    waiting = [path for path in files if path.parent.name == "cluster"]
    others = [path for path in files if path not in waiting]
    for i, path in enumerate(waiting):
        others.insert(9 * i, path)
    items[:] = [item for path in others for item in files[path]]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Run whole files in one process each, but test_pages.py in two, which would end last."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file, _, test = nodeid.partition("::")
            return f"{file}, how-to" if "[docs/howto/" in test else file

    return Files(config, log)


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
