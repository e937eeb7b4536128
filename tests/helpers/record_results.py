"""A plugin of pytest: writes down that a test starts, how it ended and that it ended, at once.

``-p record_results --results FILE``. What a run has done before it was cut off still counts, and
what it did last has a name. Lines are ``start``, ``passed``, ``failed``, ``skipped`` or ``end``, a
tab and the name of the test; `count_results` adds them up. Beside it, ``FILE.times`` gets seconds
of a test, seconds of the CPU, and its name (`slow_files`).

With ``XFELMPI_TEST_COMPLETE=1``, a test that is skipped fails.
"""

import os
from pathlib import Path
from time import monotonic

import pytest


def pytest_addoption(parser):
    parser.addoption("--results", type=Path, help="file that gets the results, one by one")


def pytest_configure(config):
    path = config.getoption("results")
    # with xdist, all reports come to the process that started the others
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Recorder(path))
    if path:
        config.pluginmanager.register(_Clock())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return _not_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    # of a file that is skipped as a whole
    return _not_skipped((yield))


def _not_skipped(report):
    """Return the report, as a failure if the test was skipped and none may be."""
    if report.skipped and os.environ.get("XFELMPI_TEST_COMPLETE") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped, although XFELMPI_TEST_COMPLETE is 1: {report.longrepr}"
    return report


class _Recorder:
    def __init__(self, path: Path):
        self._file = path.open("w", buffering=1)
        self._times = path.with_name(f"{path.name}.times").open("w", buffering=1)

    def _write(self, what: str, name: str) -> None:
        self._file.write(f"{what}\t{name}\n")

    def pytest_runtest_logstart(self, nodeid):
        self._write("start", nodeid)

    def pytest_runtest_logreport(self, report):
        # set-up and the end only tell when they fail, or when the test was skipped
        if report.when == "call" or not report.passed:
            self._write(report.outcome, report.nodeid)
        for name, seconds in report.user_properties:
            if name == _SECONDS and report.when == "teardown":
                self._times.write("{:.2f}\t{:.2f}\t".format(*seconds) + report.nodeid + "\n")

    def pytest_runtest_logfinish(self, nodeid):
        self._write("end", nodeid)

    def pytest_collectreport(self, report):
        if report.failed:
            self._write("failed", f"{report.nodeid} (not even collected)")


_SECONDS = "seconds"


class _Clock:
    """Measures every test, with its fixtures and the processes that it started, where it runs."""

    def __init__(self):
        self._start = (0.0, 0.0)

    def pytest_runtest_logstart(self):
        self._start = _now()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, call):
        report = yield
        if call.when == "teardown":
            taken = [b - a for a, b in zip(self._start, _now(), strict=True)]
            report.user_properties.append((_SECONDS, taken))
        return report


def _now() -> tuple[float, float]:
    times = os.times()
    return monotonic(), sum(times[:4])
