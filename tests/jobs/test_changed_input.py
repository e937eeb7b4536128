"""A run that changes while it is processed, or between two jobs, gives no outputs of both."""

import os

import pytest
from launch import all_files, call_xfelmpi
from mockrun import tiny_run

from xfelmpi.output import write_stage


@pytest.fixture
def mock(tmp_path):
    return tiny_run(tmp_path / "p007927", trains=2, cells=(0, 2))


def options(mock, output, *more):
    return [50, "--prefix", mock.options.prefix, "--output", output, "--no-report", *more]


def replace_file(mock):
    """Replace a module's file by an equal one, as a second correction would."""
    path = sorted(mock.paths.proc.glob("*AGIPD05*"))[0]
    about, data = path.stat(), path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    os.utime(path, (about.st_mtime + 60, about.st_mtime + 60))
    return path


def test_replaced_between_the_pass_and_the_end(mock, tmp_path, monkeypatch):
    write_powder = write_stage.write_powder

    def replaced(*arguments, **meanwhile):
        replace_file(mock)
        return write_powder(*arguments, **meanwhile)

    monkeypatch.setattr(write_stage, "write_powder", replaced)
    done = call_xfelmpi(options(mock, tmp_path / "out"))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "AGIPD05-S00000.h5: changed while it was read" in done.stderr
    left = [name for name in all_files(tmp_path / "out") if not name.startswith("index/")]
    assert left == []


def test_replaced_before_the_run_is_decided_again(mock, tmp_path):
    """The scores are those of the old file."""
    output = tmp_path / "out"
    assert call_xfelmpi(options(mock, output)).returncode == 0
    before = (output / "events" / "r0050_events.h5").read_bytes()
    path = replace_file(mock)
    done = call_xfelmpi(options(mock, output, "--from-events", "--sigma", 4))
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"{path}: changed since {output}/events/r0050_events.h5 was made" in done.stderr
    assert (output / "events" / "r0050_events.h5").read_bytes() == before
