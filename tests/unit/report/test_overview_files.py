"""The overview of all runs is made whatever stands in the files about them."""

import json
import os

import pytest

from xfelmpi.core.errors import InputError
from xfelmpi.core.paths import Experiment
from xfelmpi.report.overview import RunStatus, read_statuses, rebuild, record, record_failure


@pytest.fixture
def experiment(tmp_path):
    experiment = Experiment(tmp_path, tmp_path / "scratch", 50)
    record(experiment, RunStatus(50, "0", "2026-11-20T12:00:00+00:00", sample="lysozyme"))
    return experiment


def test_message_that_is_not_utf8(experiment, tmp_path):
    """One such message must not keep the overview from being made ever after."""
    failed = Experiment(tmp_path, experiment.output, 51)
    failed.run_folder("raw").mkdir(parents=True)
    record_failure(failed, InputError("proc/\udcff\udcfe: \x1b[2Jno such file"))
    page = experiment.overview.read_text(encoding="utf-8")
    assert r"proc/\udcff\udcfe: \x1b[2Jno such file" in page
    assert "lysozyme" in page
    rebuild(experiment.overview)
    assert experiment.overview.read_text(encoding="utf-8").count("\x1b") == 0


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"[" * 100_000, b"{}", b'{"run": 1e400, "status": [], "time": {}}', b"null",
     json.dumps({"run": 52, "status": "0", "time": "99999-01-01", "frames": "many"}).encode(),
     json.dumps({"run": 52, "status": "0", "time": "x", "sigma": 10**30}).encode(),
     json.dumps({"run": 52, "status": "0", "time": "x", "hit_rate": 10**400}).encode(),
     json.dumps({"run": 10**30, "status": "0", "time": 3e11}).encode(),
     json.dumps({"run": 52, "status": "0", "time": "\ud800", "sample": "\udc00"}).encode()],
)  # fmt: skip
def test_file_that_says_anything(content, experiment):
    experiment.status.with_name("r0052.json").write_bytes(content)
    rebuild(experiment.overview)
    assert "lysozyme" in experiment.overview.read_text(encoding="utf-8")


def test_pipe_is_not_waited_for(experiment):
    os.mkfifo(experiment.status.with_name("r0052.json"))
    assert [status.run for status in read_statuses(experiment.status.parent)] == [50]
