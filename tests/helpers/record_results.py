"""A plugin of pytest: writes down that a test starts, how it ended and that it ended, at once.

``-p record_results --results FILE``. What a run has done before it was cut off still counts, and
what it did last has a name. Lines are ``start``, ``passed``, ``failed``, ``skipped`` or ``end``, a
tab and the name of the test; `count_results` adds them up.
"""

from pathlib import Path


def pytest_addoption(parser):
    parser.addoption("--results", type=Path, help="file that gets the results, one by one")


def pytest_configure(config):
    path = config.getoption("results")
    # with xdist, all reports come to the process that started the others
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Recorder(path))


class _Recorder:
    def __init__(self, path: Path):
        self._file = path.open("w", buffering=1)

    def _write(self, what: str, name: str) -> None:
        self._file.write(f"{what}\t{name}\n")

    def pytest_runtest_logstart(self, nodeid):
        self._write("start", nodeid)

    def pytest_runtest_logreport(self, report):
        # set-up and the end only tell when they fail, or when the test was skipped
        if report.when == "call" or not report.passed:
            self._write(report.outcome, report.nodeid)

    def pytest_runtest_logfinish(self, nodeid):
        self._write("end", nodeid)

    def pytest_collectreport(self, report):
        if report.failed:
            self._write("failed", f"{report.nodeid} (not even collected)")
