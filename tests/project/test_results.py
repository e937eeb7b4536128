"""How results are counted: also those of a run that was cut off, or of a test that hangs."""

import os
import subprocess
import sys

import pytest
from count_results import outcomes
from docpages import ROOT
from slow_files import slow_files

SUITE = """
import os, time

def test_good(): pass
def test_bad(): assert False
def test_last(): {last}
def test_after(): pass
"""


def run(folder, last, *options, before=(), patience="1"):
    """Run a small suite of its own; return its status and what is counted."""
    (folder / "test_some.py").write_text(SUITE.format(last=last))
    pytest_run = ["-m", "pytest", "-q", "-p", "record_results", "--rootdir", folder]
    results = ["--results", folder / "all.results", *options, folder / "test_some.py"]
    done = subprocess.run(
        list(map(str, [sys.executable, *before, *pytest_run, *results])),
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "tests" / "helpers"),
            "XFELMPI_TEST_PATIENCE": patience,
        },
        capture_output=True,
        check=False,
    )
    good, bad = ({name.rpartition("::")[2] for name in names} for names in outcomes(folder))
    return done.returncode, good, bad


def test_all_are_counted(tmp_path):
    status, good, bad = run(tmp_path, "pass")
    assert (status, good, bad) == (1, {"test_good", "test_last", "test_after"}, {"test_bad"})


@pytest.mark.parametrize("options", [(), ("-n", "1")])
@pytest.mark.parametrize("complete", [False, True])
def test_skipped_tests_fail_where_none_may_be(complete, options, tmp_path, monkeypatch):
    """Of a test, and of a file that lacks a library."""
    monkeypatch.setenv("XFELMPI_TEST_COMPLETE", str(int(complete)))
    (tmp_path / "test_file.py").write_text("import pytest\npytest.importorskip('no_such_library')")
    last = "import pytest; pytest.skip('no strace')"
    options = (*options, "--continue-on-collection-errors", tmp_path / "test_file.py")
    _, good, bad = run(tmp_path, last, *options)
    assert good == {"test_good", "test_after"}
    skipped = {"test_last", "test_file.py (not even collected)"} if complete else set()
    assert {name.rpartition("/")[2] for name in bad} == {"test_bad"} | skipped


def test_a_process_that_ends_leaves_its_results(tmp_path):
    status, good, bad = run(tmp_path, "os._exit(7)")
    assert status == 7
    assert (good, bad) == ({"test_good"}, {"test_bad", "test_last (did not end)"})


@pytest.mark.parametrize("options", [(), ("-n", "1")])
def test_times_are_of_the_test_and_its_processes(options, tmp_path):
    code = "import time\nwhile time.process_time() < 0.3: pass"
    run(
        tmp_path,
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])",
        *options,
    )
    ((name, seconds, of_cpu),) = slow_files(tmp_path)
    assert name == "test_some.py"
    assert of_cpu >= 0.27  # four times in ticks of 0.01 s each
    assert seconds > 0


@pytest.mark.slow
def test_a_test_that_hangs_fails_and_the_others_go_on(tmp_path):
    options = ("--timeout=0.5", "--timeout-method=thread", "-n", "1")
    _, good, bad = run(tmp_path, "time.sleep(600)", *options)
    assert (good, bad) == ({"test_good", "test_after"}, {"test_bad", "test_last"})


@pytest.mark.slow
def test_what_hangs_altogether_is_ended_and_named(tmp_path):
    watch = (ROOT / "tests" / "helpers" / "watch_results.py", tmp_path, "5")
    before = (*watch, sys.executable)
    status, good, bad = run(
        tmp_path, "time.sleep(600)", "-p", "no:timeout", before=before, patience="0.5"
    )
    assert status == 124
    assert (good, bad) == ({"test_good"}, {"test_bad", "test_last (did not end)"})


@pytest.mark.slow
def test_a_file_that_cannot_be_imported_is_a_failure(tmp_path):
    (tmp_path / "test_some.py").write_text("")
    _, good, bad = run(tmp_path, "pass\nimport nothing_of_this_name")
    assert not good
    assert len(bad) == 1
    assert "not even collected" in min(bad)
