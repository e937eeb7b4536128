"""Poor surroundings: little shared memory, terminals without UTF-8."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from launch import output_files, process, run_program, run_xfelmpi
from mockrun import tiny_raw_run, tiny_run, write_mask

SMALL_SHM = ("--map-root-user", "--mount", "sh", "-c")
CELLS = tuple(range(0, 24, 2))

DISK = "/var/tmp"
"""Not in /dev/shm, which these tests cover, and where files of tests may be (`jobs/test.sh`)."""


def in_small_shm(n_bytes, ranks, *args):
    """Run a job where the shared memory of the node is small, as in a container."""
    mount = f'mount -t tmpfs -o size={n_bytes} tmpfs /dev/shm && exec "$@"'
    job = ["mpirun", "-n", ranks, "python", "-m", "xfelmpi", *args]
    env = {"OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "TMPDIR": DISK}
    return subprocess.run(
        ["unshare", *SMALL_SHM, mount, "sh", *map(str, job)],
        env=os.environ | env | {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.fixture(scope="module")
def namespaces():
    """Skip where a process may not mount anything of its own."""
    mount = ["unshare", *SMALL_SHM, "mount -t tmpfs -o size=1m tmpfs /dev/shm"]
    if not shutil.which("unshare") or subprocess.run(mount, check=False).returncode:
        pytest.skip("no mount namespaces here")


@pytest.fixture(scope="module")
def on_disk():
    with tempfile.TemporaryDirectory(dir=DISK, prefix="xfelmpi-tests-") as folder:
        yield Path(folder)


@pytest.fixture
def tmp_path(on_disk):
    """In place of pytest's own."""
    return Path(tempfile.mkdtemp(dir=on_disk))


@pytest.fixture(scope="module")
def mock(on_disk):
    return tiny_run(on_disk / "p007927", trains=2, cells=CELLS, background=5.0, sample="No Sample")


@pytest.fixture(scope="module")
def names(mock, on_disk):
    """The outputs of a job in good surroundings."""
    process(mock, on_disk / "names")
    return output_files(on_disk / "names")


def test_shared_memory_too_small_for_masks(mock, namespaces, tmp_path):
    good = np.ones((len(CELLS), 16, 512, 128), np.uint8)
    good[5, 3, 7, 11] = 0
    mask = write_mask(tmp_path / "mask.h5", good, CELLS)
    options = ("--cell-mask", mask, "--decide", "fixed", "--fixed-threshold", 1)
    process(mock, tmp_path / "enough", *options)
    where = ["--prefix", mock.options.prefix, "--output", tmp_path / "small"]
    # of 9 MiB the MPI library has 8
    done = in_small_shm("9m", 2, 50, *where, "--geometry", mock.paths.geometry, *options)
    assert done.returncode == 0, done.stderr
    needed = len(CELLS) * 16 * 512 * 128 // 8
    assert re.search(rf"/dev/shm has room for [\d,]+ bytes, and {needed:,} are nee", done.stderr)
    assert "every rank holds its own copy" in done.stderr
    for name in ("events/r0050_events.h5", "powder/r0050_powder.h5"):
        with (
            h5py.File(tmp_path / "enough" / name) as right,
            h5py.File(tmp_path / "small" / name) as found,
        ):
            for key in (k for k in right if isinstance(right[k], h5py.Dataset)):
                np.testing.assert_array_equal(found[key][()], right[key][()], key)


def test_shared_memory_too_small_for_constants(namespaces, tmp_path):
    raw = tiny_raw_run(tmp_path / "p007927")
    where = ["--prefix", raw.options.prefix, "--output", tmp_path / "out"]
    options = ("--adu-per-photon", 60, "--memory-per-rank", "256M")
    done = in_small_shm("12m", 2, 50, *where, *options)
    assert done.returncode == 2, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("xfelmpi: error"))
    assert re.search(r"/dev/shm has room for [\d,]+ bytes, and [\d,]+ are needed", line)
    assert (
        "a rank may hold 0 of its own (--memory-per-rank); give the container more (--shm-size)"
        in line
    )
    assert "Traceback" not in done.stderr
    assert "Bus error" not in done.stderr


def test_terminal_without_utf8(mock, tmp_path):
    where = ["--prefix", mock.options.prefix, "--output", tmp_path / "out"]
    strict = {"PYTHONIOENCODING": "ascii:strict"}
    for command in (["process", 50, "--no-report"], ["show", 50]):
        found = run_xfelmpi([*command, *where], **strict)
        assert found.returncode == 0, found.stderr
        assert "Logging error" not in found.stderr
    # every line is there, what the encoding lacks as an escape
    right = run_xfelmpi(["show", 50, *where], PYTHONIOENCODING="utf-8")
    assert len(found.stdout.splitlines()) == len(right.stdout.splitlines())
    assert "\\u25" in found.stdout
    refused = run_xfelmpi([50, *where, "--wrong", "µ"], **strict)
    assert refused.returncode == 2
    assert r"\xb5" in refused.stderr


def test_paths_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"run\xe9")
    mock = tiny_run(tmp_path / name, trains=1, cells=(0, 1), background=5.0)
    done = run_xfelmpi([50, "--prefix", mock.options.prefix])
    assert done.returncode == 0, done.stderr
    with h5py.File(mock.options.prefix / "scratch/events/r0050_events.h5") as events:
        np.testing.assert_array_equal(events["photons"][:], mock.truth["photons"])
        assert r"run\udce9" in events.attrs["command_line"]
        (first, *_) = json.loads(events.attrs["input_files"])
        assert Path(first["path"]).exists()


def test_shared_memory_that_is_read_only(mock, namespaces, tmp_path):
    """Open MPI cannot write files without it, which is said before a frame is read."""
    mount = 'mount -t tmpfs -o ro tmpfs /dev/shm && exec "$@"'
    args = [sys.executable, "-m", "xfelmpi", 50, "--prefix", mock.options.prefix]
    args += ["--output", tmp_path, "--no-report"]
    done = run_program(["unshare", *SMALL_SHM, mount, "sh", *args], TMPDIR=DISK)
    assert done.returncode in (0, 2), done.stderr
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert "expected a folder, and a /dev/shm, that can be written" in done.stderr
        assert output_files(tmp_path) == []


@pytest.mark.parametrize("streams", [">&- 2>&-", ">/dev/full 2>/dev/full"])
def test_standard_streams_closed_or_full(streams, mock, names, tmp_path):
    """Output is best effort, results are not."""
    args = [sys.executable, "-m", "xfelmpi", 50, "--prefix", mock.options.prefix]
    args += ["--output", tmp_path / "out", "--no-report"]
    done = run_program(["bash", "-c", f'"$@" {streams}', "bash", *args])
    assert done.returncode == 0, done.stderr
    assert output_files(tmp_path / "out") == names


@pytest.mark.parametrize("io", ["ompio", "romio321"])
def test_paths_that_mpi_io_cannot_open(io, mock, names, tmp_path):
    """Long ones end a job of Open MPI with SIGABRT; ROMIO takes what is before a colon away."""
    output = tmp_path / "ufs:a" / ("d" * 200) / ("e" * 100)
    where = ["--prefix", mock.options.prefix, "--no-report", "--sample", "\udcff"]
    done = run_xfelmpi([50, *where, "--output", output], 2, OMPI_MCA_io=io)
    assert done.returncode == 0, done.stderr
    assert output_files(output) == names
    with h5py.File(output / "saved_hits" / "r0050_hits.cxi") as file:
        assert file["entry_1/sample_1/name"][()] == rb"\udcff"
