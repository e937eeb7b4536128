"""A disk that is full, for each file and at several points: named, and old outputs stay."""

import os

import pytest
from compiled import compile_c
from launch import call_xfelmpi, output_files, run_python, run_xfelmpi
from mockrun import TINY_500K, tiny_dark_runs, tiny_run

from xfelmpi.core.errors import OutputError
from xfelmpi.io.output_file import check_room

OPTIONS = ("--decide", "fixed", "--fixed-threshold", 0, "--distance", 0.7)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    target = tmp_path_factory.mktemp("library") / "full_disk.so"
    return compile_c("faults/full_disk.c", target, "-shared", "-fPIC", libraries=["-ldl"])


@pytest.fixture(scope="module")
def mock(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full") / "p007927"
    few = {"trains": 2, "cells": (1, 2), "hit_rate": 0.5, "absent_modules": ()}
    return tiny_run(folder, **{**TINY_500K, **few})


@pytest.fixture(scope="module")
def full(library):
    """Return a function that runs a command with a disk that is full for one file."""

    def run(file, size, ranks, *args):
        # behind those that a build with sanitizers needs
        preload = f"{os.environ.get('LD_PRELOAD', '')} {library}".strip()
        full = {"LD_PRELOAD": preload, "FULL_DISK_FILE": file, "FULL_DISK_BYTES": size}
        return run_python(["-m", "xfelmpi", *args], ranks, **full)

    return run


@pytest.fixture(scope="module")
def before(mock, tmp_path_factory):
    """A folder of outputs, and their content."""
    folder = tmp_path_factory.mktemp("before")
    where = ["--prefix", mock.options.prefix, "--output", folder]
    assert call_xfelmpi([50, *where, *OPTIONS, "--no-report"]).returncode == 0
    return folder, contents(folder)


def contents(folder) -> dict[str, bytes]:
    names = [name for name in output_files(folder) if not name.endswith(".part")]
    return {name: (folder / name).read_bytes() for name in names}


def explained(done, name):
    """Assert that a job ended with one line about a file and what it needed."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "signal 11" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("xfelmpi: error"))
    assert f"{name}: cannot be written (No space left on device): it needs " in line
    assert line.endswith(" are free there")


FILES = {
    "events/r0050_events.h5": (0, 1_050_000),
    "powder/r0050_powder.h5": (0, 5_000, 100_000),
    "saved_hits/r0050_hits.cxi": (0, 1_050_000, 1_100_000, 15_000_000),
    "emc/r0050.emc": (0, 100, 2_000),
    "emc/r0050_det.h5": (0, 10_000, 15_000_000),
    "vds/r0050_vds_proc.h5": (0, 4_000, 11_000),
}
"""What a job writes, and sizes at which the disk is full."""

POINTS = [(name, size) for name, sizes in FILES.items() for size in sizes]


@pytest.mark.parametrize(("name", "size"), POINTS)
def test_each_output(name, size, full, mock, before):
    folder, old = before
    where = ["--prefix", mock.options.prefix, "--output", folder, "--no-report"]
    ranks = POINTS.index((name, size)) % 2 * 2
    done = full(name, size, ranks, 50, *where, *OPTIONS, "--miss-fraction", 0.5)
    explained(done, folder / name)
    assert contents(folder) == old
    assert not (folder / f"{name}.part").exists()
    assert not (folder / "lock").exists()


def test_works_again(mock, before):
    folder, _ = before
    where = ["--prefix", mock.options.prefix, "--output", folder, "--no-report"]
    assert run_xfelmpi([50, *where, *OPTIONS], 2).returncode == 0
    assert not [name for name in output_files(folder) if name.endswith(".part")]


@pytest.mark.parametrize("size", [0, 5_000])
@pytest.mark.parametrize("name", ["index/r0050_index_proc.h5", "report/r0050.html"])
def test_what_a_job_can_do_without(name, size, full, mock, tmp_path):
    where = ["--prefix", mock.options.prefix, "--output", tmp_path]
    options = () if "report" in name else ("--no-report",)
    done = full(name, size, 0, 50, *where, *OPTIONS, *options)
    assert done.returncode == 0, done.stderr
    if "report" in name:
        assert "WARNING: the run report could not be made" in done.stderr
        assert f"{tmp_path / name}: cannot be written (No space left on device)" in done.stderr
    assert not list((tmp_path / name).parent.glob("*.part"))


@pytest.mark.parametrize(("size", "ranks"), [(0, 2), (20_000, 0)])
def test_mask(size, ranks, full, mock, tmp_path):
    mask = tmp_path / "mask.h5"
    mask.write_text("old")
    where = ["--prefix", mock.options.prefix, "--output", tmp_path, "--mask-file", mask]
    explained(full("mask.h5.", size, ranks, "mask", 50, *where, "--overwrite"), mask)
    assert mask.read_text() == "old"


@pytest.mark.parametrize(("size", "ranks"), [(0, 0), (2_000_000, 2)])
def test_powder_of_cells(size, ranks, full, mock, tmp_path):
    name = tmp_path / "powder" / "r0050_powder_cells.h5"
    where = ["--prefix", mock.options.prefix, "--output", tmp_path, "--mask-file", tmp_path / "m"]
    explained(full("powder_cells", size, ranks, "mask", 50, *where, "--powder-cells"), name)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("name", "size", "ranks"),
    [("r50_hits.cxi", 0, 2), ("r50.emc", 2_000, 0), ("r50_det.h5", 10_000, 2)],
)
def test_merged_files(name, size, ranks, full, mock, before):
    folder, _ = before
    where = ["--prefix", mock.options.prefix, "--output", folder, "--name", "r50"]
    explained(full(name, size, ranks, "merge", 50, *where), folder / "merged" / name)
    assert not (folder / "merged" / name).exists()


@pytest.mark.parametrize(("size", "ranks"), [(0, 2), (2_000_000, 0)])
def test_constants(size, ranks, full, tmp_path):
    tiny_dark_runs(tmp_path, ("high",), trains=1, cells=(0,))
    out = tmp_path / "out"
    done = full("AGIPD03-calib", size, ranks, "darks", 10, "--prefix", tmp_path, "--out", out)
    explained(done, out / "Cheetah-AGIPD03-calib.h5")
    assert not list(out.glob("*.h5"))


@pytest.mark.parametrize("ranks", [0, 2])
def test_simulated_run(ranks, full, tmp_path):
    where = ["--prefix", tmp_path, "--trains", 1, "--cells", 1]
    done = full("AGIPD05", 10_000, ranks, "simulate", 9, *where)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "AGIPD05-S00000.h5: cannot be written (No space left on device)" in done.stderr


def test_room_is_checked_before_the_work(tmp_path):
    check_room(tmp_path, 1)
    with pytest.raises(OutputError, match=r"found [\d,]+ bytes free there, .* at least 1,152,9"):
        check_room(tmp_path, 1 << 60)


LIMIT = """
import resource, sys
from mpi4py import MPI
from xfelmpi.__main__ import main

resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("size", [100, 300_000, 5_000_000])
def test_files_that_may_not_grow(size, mock, tmp_path):
    """The system's limit, which meets all files alike."""
    script = tmp_path / "limit.py"
    script.write_text(LIMIT.format(size))
    where = ["--prefix", mock.options.prefix, "--output", tmp_path / "out"]
    done = run_python([script, 50, *where, *OPTIONS])
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot be written (File too large)" in done.stderr
    assert not contents(tmp_path / "out")
