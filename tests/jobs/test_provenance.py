"""What every file says of where it comes from."""

import hashlib
import json
import os
import socket
from pathlib import Path

import h5py
import numpy as np
import pytest
from launch import call_xfelmpi, run_xfelmpi
from mockrun import tiny_raw_run, tiny_run
from runnames import constants_name, file_name

from xfelmpi import mpi
from xfelmpi.core.input_files import UsedFile
from xfelmpi.core.job_context import JobContext
from xfelmpi.core.paths import Experiment
from xfelmpi.io.parallel_hdf5 import ParallelFile
from xfelmpi.io.partial_file import begin_partial
from xfelmpi.io.publish import publish
from xfelmpi.output.provenance import describe_used, provenance

HDF5 = ("events/r0050_events.h5", "powder/r0050_powder.h5", "saved_hits/r0050_hits.cxi")
HDF5 += ("emc/r0050_det.h5", "vds/r0050_vds_proc.h5")
MANY_HITS = ["--decide", "fixed", "--fixed-threshold", "1"]
SECRET = "hunter2-of-the-environment"


def attributes_of(path: Path) -> dict:
    with h5py.File(path) as file:
        return dict(file.attrs)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A run that has masks, and the outputs of a job on two ranks."""
    folder = tmp_path_factory.mktemp("provenance") / "p007927"
    mock = tiny_run(folder, trains=2, cells=(0, 2, 3, 4))
    mask = folder / "scratch" / "det" / "mask.h5"
    with h5py.File(mask, "w") as file:
        file["entry_1/good_pixels"] = np.ones((16, 512, 128), bool)
    done = run_xfelmpi([50, "--prefix", folder, "--hit-mask", mask, *MANY_HITS], 2, TOKEN=SECRET)
    assert done.returncode == 0, done.stderr
    return mock, mask


def test_every_file_of_a_job(job):
    mock, mask = job
    scratch = mock.options.prefix / "scratch"
    found = [attributes_of(scratch / name) for name in HDF5]
    events = found[0]
    for name in ("job_id", "start_time", "end_time", "program_commit", "input_files", "used_files"):
        assert {about[name] for about in found} == {events[name]}, name
    assert events["ranks"] == 2
    assert events["nodes"] == 1
    assert events["host"] == socket.gethostname()
    version = run_xfelmpi(["--version"]).stdout
    assert version == f"xfelmpi {events['program_version']} (commit {events['program_commit']})\n"
    # the run's files: modules, and what was looked into for machine data
    inputs = {Path(file["path"]).name for file in json.loads(events["input_files"])}
    assert inputs >= set(map(file_name, range(16)))
    assert any("-DA" in name for name in inputs), inputs
    used = {file["role"]: file for file in json.loads(events["used_files"])}
    assert set(used) == {"global mask", "hit-finding region", "geometry"}
    for file in used.values():
        data = Path(file["path"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(data).hexdigest()
        assert file["size"] == len(data)
    assert used["global mask"]["path"] == str(mask)


def test_no_secrets(job):
    """Nothing of the environment gets into a file."""
    mock, _ = job
    for path in (mock.options.prefix / "scratch").rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_the_page_shows_it(job):
    mock, mask = job
    page = (mock.options.prefix / "scratch" / "report" / "r0050.html").read_text()
    events = attributes_of(mock.options.prefix / "scratch" / HDF5[0])
    for text in (events["job_id"], events["program_commit"], events["end_time"]):
        assert text in page
    assert f"global mask: {mask}, " in page
    assert json.loads(events["used_files"])[0]["sha256"] in page


def test_deciding_again_names_the_first_job(job):
    mock, _ = job
    scratch = mock.options.prefix / "scratch"
    first = attributes_of(scratch / HDF5[0])
    for threshold in ("2", "3"):
        again = [50, "--prefix", mock.options.prefix, "--from-events", *MANY_HITS[:3], threshold]
        assert call_xfelmpi(again).returncode == 0
        for name in HDF5[:3]:
            about = attributes_of(scratch / name)
            assert about["job_id"] != first["job_id"]
            scores_by = json.loads(about["scores_by"])
            assert scores_by["job_id"] == first["job_id"]
            assert scores_by["command_line"] == first["command_line"]


def test_masks_and_constants_of_raw_data(tmp_path):
    absent = tuple(range(2, 16))
    mock = tiny_raw_run(tmp_path / "p007927", trains=1, cells=(0, 2), absent_modules=absent)
    paths = ["--prefix", mock.options.prefix, "--constants", mock.paths.constants]
    done = run_xfelmpi(["mask", 50, *paths, "--data", "raw", "--mask-file", tmp_path / "m.h5"], 2)
    assert done.returncode in (0, 3), done.stderr
    about = attributes_of(tmp_path / "m.h5")
    used = json.loads(about["used_files"])
    assert [file["role"] for file in used] == ["constants", "constants"]
    for module, file in enumerate(used):
        path = mock.paths.constants / constants_name(module)
        assert file["path"] == str(path)
        assert file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert about["ranks"] == 2
    assert about["end_time"] >= about["start_time"]


def test_many_input_files(tmp_path):
    """1600 files take more than the 64 KiB that an attribute may have in its object's header."""
    alone = mpi.alone()
    (tmp_path / "input").mkdir()
    names = [file_name(i % 16, i // 16) for i in range(1600)]
    paths = [str(tmp_path / "input" / name) for name in names]
    Path(paths[0]).write_text("some")
    os.utime(paths[0], (1e9, 1e9))
    job = JobContext(
        comm=alone,
        experiment=Experiment(tmp_path, tmp_path, 50),
        settings="{}",
        argv=("50", "--sample", "a b"),
    )
    attributes = provenance(job, paths)
    file = ParallelFile(alone, tmp_path / "out.h5", attributes)
    file.close()
    publish(tmp_path / "out.h5")
    about = attributes_of(tmp_path / "out.h5")
    assert len(about["input_files"]) > 128 << 10
    files = json.loads(about["input_files"])
    assert [file["path"] for file in files] == paths
    assert files[0] == {"path": paths[0], "size": 4, "mtime": "2001-09-09T01:46:40+00:00"}
    assert files[1]["size"] is None
    assert about["command_line"] == "xfelmpi 50 --sample 'a b'"
    assert about["end_time"] >= about["creation_date"] >= about["start_time"]


def test_files_that_have_gone(tmp_path):
    (used,) = describe_used(mpi.alone(), [UsedFile("geometry", str(tmp_path / "a.geom"))])
    assert used["role"] == "geometry"
    assert used["sha256"] is None
    assert used["size"] is None


def test_only_hdf5_is_stamped(tmp_path):
    part = begin_partial(tmp_path / "a.emc")
    part.write_bytes(b"\1" * 2000)
    publish(tmp_path / "a.emc")
    assert (tmp_path / "a.emc").read_bytes() == b"\1" * 2000
