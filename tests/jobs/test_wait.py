"""Runs that are not complete: a job says so, or waits."""

import threading
import time

import h5py
import pytest
from arrivingruns import arrive
from launch import call_xfelmpi

from xfelmpi.run import arrival
from xfelmpi.workflows import wait

pytestmark = pytest.mark.job


def process(prefix, *options):
    return call_xfelmpi([50, "--prefix", prefix, "--no-report", "--no-vds", *options])


def problems(prefix):
    with h5py.File(prefix / "scratch" / "events" / "r0050_events.h5") as file:
        return [row.decode() for row in file["problems"]["what"][:]]


@pytest.mark.parametrize(
    ("lacks", "said"),
    [
        ("AGIPD03-S00001", "1 module of sequence 1"),
        ("S00001", "16 modules of sequence 1"),
    ],
)
def test_job_on_half_a_run_says_so(arriving, tmp_path, lacks, said):
    folder, files = arriving
    arrive(folder, tmp_path, [p for p in files if "proc" not in p.parts or lacks not in p.name])
    done = process(tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    text = f"run is not complete: it lacks {said}; is it still being written?"
    assert text in problems(tmp_path)
    assert text in done.stdout


def test_job_without_the_redu_file_that_others_have(arriving, tmp_path):
    folder, files = arriving
    arrive(folder, tmp_path, files)
    (tmp_path / "proc" / "r0049").mkdir()
    (tmp_path / "proc" / "r0049" / "CORR-R0049-REDU00-S00000.h5").touch()
    assert process(tmp_path).returncode == 3
    assert any("it lacks the REDU file" in what for what in problems(tmp_path))


def test_job_waits_until_the_run_is_complete(arriving, tmp_path, monkeypatch):
    monkeypatch.setattr(wait, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(arrival, "SETTLED_AFTER", 0.3)
    folder, files = arriving
    arrive(folder, tmp_path, files[:-20])

    def write_the_rest():
        for path in files[-20:]:
            time.sleep(0.05)
            arrive(folder, tmp_path, [path])

    writer = threading.Thread(target=write_the_rest)
    writer.start()
    done = process(tmp_path, "--wait", "5m")
    writer.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "run 50 is complete" in done.stdout
    assert "waiting for" in done.stdout
    assert not problems(tmp_path)


def test_job_that_has_waited_long_enough(arriving, tmp_path, monkeypatch):
    monkeypatch.setattr(arrival, "SETTLED_AFTER", 0.0)
    folder, files = arriving
    arrive(folder, tmp_path, files[:-1])
    done = process(tmp_path, "--wait", "0.2s")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "run 50 is not complete after" in done.stderr
    assert len(problems(tmp_path)) >= 1


def test_complete_run_is_not_waited_for(arriving, tmp_path, monkeypatch):
    monkeypatch.setattr(arrival, "SETTLED_AFTER", 0.0)
    folder, files = arriving
    arrive(folder, tmp_path, files)
    done = process(tmp_path, "--wait", "5m")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "waiting" not in done.stdout


def test_waiting_makes_no_sense_for_a_run_that_was_processed(tmp_path):
    done = process(tmp_path, "--from-events", "--wait", "1m")
    assert done.returncode == 2
    assert "leave out --wait" in done.stderr
