"""``xfelmpi mask``: what it finds in a run with known bad cells, and what becomes of the mask."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from compare import assert_same_hdf5
from launch import call_xfelmpi, run_job
from mockrun import tiny_dark_runs, tiny_run
from mpi4py import MPI

from xfelmpi.cli import mask as command
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.workflows.mask import job
from xfelmpi.workflows.mask.bad_pixels import asic_edges

MODULES = [3, 15]
ABSENT = tuple(m for m in range(16) if m not in MODULES)
RUN = {"absent_modules": ABSENT, "truth": "hits", "hit_photons": (5e3, 5e4)}
CELLS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 13)
LIT = {**RUN, "trains": 48, "cells": CELLS, "background": 2e4, "hit_rate": 0.05}
MASK, POWDER = "scratch/det/r0050_mask.h5", "scratch/powder/r0050_powder_cells.h5"


def make(prefix, *options, ranks=0, status=3):
    """Run the command; the modules that are absent are problems."""
    done = run_job(["mask", 50, "--prefix", prefix, *options], ranks)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def read_mask(path):
    """Return cells and good pixels of the modules that are there, bool (cell, module, ss, fs)."""
    with h5py.File(path) as file:
        good = file["entry_1/good_pixels"]
        assert good.dtype == bool
        assert good.shape[1:] == (16, 512, 128)
        assert good[:, list(ABSENT)].all()
        return file["entry_1/cellIds"][:].tolist(), good[:, MODULES]


def kinds_of(mock, cells):
    return mock.truth["bad_kind"][MODULES][:, cells].swapaxes(0, 1)


@pytest.fixture(scope="module")
def lit(tmp_path_factory):
    """A run with light enough for every cell, 2 % of them bad, and its mask."""
    prefix = tmp_path_factory.mktemp("mask") / "p007927"
    mock = tiny_run(prefix, **LIT, bad_cells=0.02)
    # the main job first, without a mask, tells hits from misses
    done = call_xfelmpi([50, "--prefix", prefix, "--no-vds", "--no-report"])
    assert done.returncode == 3, done.stderr
    with h5py.File(prefix / "scratch/powder/r0050_powder.h5") as file:
        powder = {name: file[name][:] for name in file}
    return mock, make(prefix, "--powder-cells"), powder


def test_bad_cells_are_found_and_good_ones_are_not(lit):
    mock, done, _ = lit
    cells, good = read_mask(mock.options.prefix / MASK)
    assert cells == list(CELLS)
    kinds = kinds_of(mock, cells)
    for kind in (1, 2, 3):
        assert np.count_nonzero(kinds == kind) > 8000
        assert (~good[kinds == kind]).mean() >= 0.99
    assert (~good[kinds == 0]).mean() < 0.001
    whole = (kinds > 0).all(axis=0)
    assert (~good[:, whole]).mean() >= 0.99
    assert "in 2 modules" in done.stdout
    for name in (MASK, POWDER):
        path = mock.options.prefix / name
        assert str(path) in done.stdout
        assert path.stat().st_mode & 0o444 == 0o444


@pytest.mark.parametrize(("ranks", "memory"), [(1, "256M"), (2, "400M"), (3, "256M"), (5, "400M")])
def test_same_for_all_ranks_and_limits(lit, tmp_path, ranks, memory):
    """With one rank and little memory, in two parts."""
    prefix, here = lit[0].options.prefix, tmp_path / "out"
    shutil.copytree(prefix / "scratch/events", here / "events")
    options = ("--output", here, "--mask-file", here / "mask.h5", "--powder-cells")
    done = make(prefix, *options, "--memory-per-rank", memory, ranks=ranks)
    assert ("in 2 parts" in done.stdout) == (ranks == 1)
    assert_same_hdf5(here / "mask.h5", prefix / MASK)
    assert_same_hdf5(here / "powder/r0050_powder_cells.h5", prefix / POWDER)


def test_parts_of_a_module_change_nothing(lit, tmp_path, monkeypatch):
    prefix = lit[0].options.prefix
    smallest = job.plan_parts
    monkeypatch.setattr(job, "plan_parts", lambda *a: smallest(*a[:4], 1, a[5]))
    path = tmp_path / "mask.h5"
    assert command.main(["50", "--prefix", str(prefix), "--mask-file", str(path)], MPI.COMM_SELF)
    assert_same_hdf5(path, prefix / MASK)


def test_powder_per_cell_is_that_of_the_main_job(lit):
    mock, _, powder = lit
    with h5py.File(mock.options.prefix / POWDER) as file:
        assert file["cellIds"][:].tolist() == list(CELLS)
        for suffix in ("", "_hits", "_misses"):
            cells, frames = file[f"powder_cells{suffix}"], file[f"frames{suffix}"][:]
            assert (cells.shape, cells.dtype) == ((16, 10, 512, 128), np.uint32)
            assert cells.attrs["units"] == "photons"
            total = np.array([cells[m].sum(axis=0, dtype=np.uint64) for m in range(16)])
            np.testing.assert_array_equal(total, powder[f"powder{suffix}"])
            good = powder[f"good_frames{suffix}"]
            np.testing.assert_array_equal(frames.sum(axis=1), good.max(axis=(1, 2)))
        assert (file["frames"][MODULES] == 48).all()


def test_main_job_takes_the_mask(lit, tmp_path):
    mock = lit[0]
    prefix = mock.options.prefix
    args = ["--prefix", prefix, "--output", tmp_path, "--no-vds", "--no-report"]
    done = call_xfelmpi([50, *args, "--trains", "0:8", "--geometry", mock.paths.geometry])
    assert done.returncode == 3, done.stderr
    assert f"{prefix / MASK} (found)" in done.stdout
    whole = (kinds_of(mock, CELLS) > 0).all(axis=0)
    _, good = read_mask(prefix / MASK)
    with h5py.File(tmp_path / "powder/r0050_powder.h5") as file:
        np.testing.assert_array_equal(file["good_frames"][:][MODULES], 8 * good.sum(axis=0))
        assert not file["powder"][:][MODULES][whole & ~good.any(axis=0)].any()


def test_masks_are_not_overwritten_unless_told_so(lit):
    prefix = lit[0].options.prefix
    before = (prefix / MASK).read_bytes()
    done = make(prefix, status=2)
    assert f"{prefix / MASK} exists; --overwrite" in done.stderr
    assert (prefix / MASK).read_bytes() == before


@pytest.mark.parametrize(
    "options", [{"trains": 48, "cells": (3, 8)}, {"trains": 9, "hit_rate": 0.4}]
)
def test_few_cells_and_many_hits(tmp_path, options):
    """Two cells can only be compared with their neighbours; few trains leave dead cells unknown."""
    mock = tiny_run(tmp_path, **{**LIT, "bad_cells": 0.02, **options})
    done = make(tmp_path)
    cells, good = read_mask(tmp_path / MASK)
    kinds = kinds_of(mock, cells)
    found = {kind: (~good[kinds == kind]).mean() for kind in range(4)}
    assert found[0] < 0.005
    if options["trains"] == 48:
        assert min(found[1], found[2], found[3]) >= 0.97
        assert "too little light" not in done.stderr
    else:
        whole = (kinds == 1).all(axis=0)
        assert (~good[:, whole]).mean() >= 0.99
        assert "too little light to tell dead cells" in done.stderr


def test_faint_float_run_without_bad_cells(tmp_path):
    tiny_run(tmp_path, **{**RUN, "trains": 4, "cells": (0, 5), "dtype": "f4", "hit_rate": 0.0})
    done = make(tmp_path)
    assert read_mask(tmp_path / MASK)[1].mean() > 0.99999
    assert "dead pixels in 131,072 pixels: they stay good" in done.stderr
    assert not (tmp_path / POWDER).exists()


@pytest.fixture
def damaged(tmp_path):
    """A run in which an ASIC is dead, a cell of a module too bright, and a pixel often NaN."""
    tiny_run(
        tmp_path, **{**LIT, "trains": 20, "cells": CELLS[:8], "dtype": "f4", "compression": "none"}
    )
    data = "INSTRUMENT/SPB_DET_AGIPD1M-1/CORR/{}CH0:output/image/data"
    with h5py.File(tmp_path / "proc/r0050/CORR-R0050-AGIPD03-S00000.h5", "r+") as file:
        images = file[data.format(3)]
        for i in range(2, 160, 8):
            images[i, :, ::3] += 1
        images[:, 128:192, 64:] = 0
    with h5py.File(tmp_path / "proc/r0050/CORR-R0050-AGIPD15-S00000.h5", "r+") as file:
        file[data.format(15)][:150, 7, 7] = np.nan
    return tmp_path


def test_bright_cell_dead_asic_and_nan(damaged):
    done = make(damaged)
    _, good = read_mask(damaged / MASK)
    assert not good[2, 0].any()
    assert not good[:, 0, 128:192, 64:].any()
    good[2, 0] = good[:, 0, 128:192, 64:] = True
    assert good.mean() > 0.999
    assert good[:, 1, 7, 7].all()
    assert "bright                 65,536" in done.stdout


def test_other_masks_join(tmp_path):
    prefix = tmp_path / "p007927"
    tiny_dark_runs(prefix, stages=("high",), trains=30, cells=(0, 1), absent_modules=ABSENT)
    assert run_job(["darks", 10, "--prefix", prefix, "--out", tmp_path / "noise"]).returncode == 3
    with h5py.File(tmp_path / "noise/Cheetah-AGIPD03-calib.h5", "r+") as file:
        noise = file["Noise"]
        noise[0, 1, 20, 30] = 100
        noise[0, 1, 21, 30] = np.nan
    tiny_run(prefix, **{**LIT, "trains": 16, "cells": (0, 1)})
    with h5py.File(prefix / "scratch/det/mask.h5", "w") as file:
        global_mask = np.ones((16, 512, 128), bool)
        global_mask[:, 100:110] = False
        file["entry_1/good_pixels"] = global_mask
    done = make(prefix, "--asic-edges", "--noise", tmp_path / "noise")
    _, good = read_mask(prefix / MASK)
    assert not good[:, :, 100:110].any()
    assert not good[:, :, asic_edges(AGIPD_1M)].any()
    assert good[0, 0, 20:22, 30].all()
    assert not good[1, 0, 20:22, 30].any()
    rest = ~asic_edges(AGIPD_1M)
    rest[100:110] = False
    # the constants of the darks have noisy pixels of their own
    assert good[:, :, rest].mean() > 0.98
    for name in ("masked before", "noise", "ASIC edges"):
        assert name in done.stdout
    (tmp_path / "noise/Cheetah-AGIPD15-calib.h5").unlink()
    done = make(prefix, "--overwrite", "--noise", tmp_path / "noise", status=2, ranks=2)
    assert "Cheetah-AGIPD15-calib.h5: " in done.stderr
    assert "expected a file of calibration constants" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ratio", 0.5], "--ratio: found 0.5, expected 1 to 1e+06"),
        (["--leave-out", "hits"], "--leave-out hits: no events file"),
        (["--global-mask", "none.h5"], "none.h5: no such file"),
        (["--memory-per-rank", "10M"], "at least 256M"),
    ],
)
def test_wrong_use(tmp_path, options, message):
    tiny_run(tmp_path, trains=1, cells=(0,))
    done = make(tmp_path, *options, status=2, ranks=2)
    assert message in done.stderr


def test_hits_of_the_events_file_can_be_left_out(lit, tmp_path):
    prefix: Path = lit[0].options.prefix
    make(prefix, "--leave-out", "hits", "--mask-file", tmp_path / "mask.h5")
    kinds = kinds_of(lit[0], CELLS)
    _, good = read_mask(tmp_path / "mask.h5")
    assert (~good[kinds > 0]).mean() >= 0.99
    assert (~good[kinds == 0]).mean() < 0.001
