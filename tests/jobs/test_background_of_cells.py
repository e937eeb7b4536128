"""``--background cell``: every memory cell's own background, from the job to patch and merge."""

import shutil

import h5py
import numpy as np
import pytest
from compare import assert_same_hdf5
from expected import Expected
from launch import call_xfelmpi, process, run_xfelmpi
from mockrun import tiny_run

CXI = "saved_hits/r0050_hits.cxi"
DETECTOR = "entry_1/instrument_1/detector_1"
OPTIONS = ("--background", "cell", "--with-misses", "--no-report", "--no-vds")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, processed by one rank."""
    folder = tmp_path_factory.mktemp("cells")
    mock = tiny_run(folder / "p007927", trains=4, cells=tuple(range(5)))
    process(mock, folder / "out", *OPTIONS)
    return mock, folder


def command(made, out, *words):
    done = call_xfelmpi([*words, "--prefix", made[0].options.prefix, "--output", out])
    assert done.returncode == 0, done.stderr
    return done


def test_means_of_the_non_hits_of_every_cell(made):
    """Against dense sums; other programs of the field find them by the links in the entry."""
    mock, folder = made
    expected = Expected(mock)
    dark = expected.column("n_pulses") == 0
    with h5py.File(folder / "out" / CXI) as file:
        entry, detector = file["entry_1"], file[DETECTOR]
        for name in ("background_index", "background_weighting"):
            assert entry[name] == detector[name]
        cells, means = detector["background_cell"][:], detector["background"][:]
        assert cells[0] == -1
        assert len(cells) == len(means) > 3
        np.testing.assert_allclose(means[0], expected.background, rtol=1e-6)
        for cell, mean in zip(cells[1:], means[1:], strict=True):
            own = (expected.column("cellId") == cell) & ~expected.is_hit & ~dark
            right = np.mean([expected.frame(row) for row in np.flatnonzero(own)], axis=0)
            np.testing.assert_allclose(mean, right, rtol=1e-6)
        for name in ("entry_1", "entry_2"):
            row, cell = file[f"{name}/background_index"][:], file[f"{name}/cellId"][:]
            assert (cells[row] == np.where(np.isin(cell, cells), cell, -1)).all()
            assert file[f"{name}/instrument_1/detector_1/background"] == detector["background"]


def test_same_bits_on_three_ranks(made, tmp_path):
    mock, folder = made
    args = [50, "--prefix", mock.options.prefix, "--output", tmp_path / "out", *OPTIONS]
    assert run_xfelmpi(args, 3).returncode == 0
    assert_same_hdf5(folder / "out" / CXI, tmp_path / "out" / CXI)


def test_verify_finds_a_wrong_background(made, tmp_path):
    mock, folder = made
    out = shutil.copytree(folder / "out", tmp_path / "out")
    command(made, out, "verify", 50)
    with h5py.File(out / CXI, "r+") as file:
        file[f"{DETECTOR}/background"][2] *= 1.5
    done = call_xfelmpi(["verify", 50, "--prefix", mock.options.prefix, "--output", out])
    assert done.returncode == 1
    assert "background of memory cell" in done.stdout + done.stderr


def test_patched_and_merged(made, tmp_path):
    """Pixels that are bad later have no background in any cell; merged runs have one each."""
    _, folder = made
    out, mask = shutil.copytree(folder / "out", tmp_path / "out"), tmp_path / "mask.h5"
    good = np.ones((16, 512, 128), bool)
    good[3, 100:110] = False
    with h5py.File(mask, "w") as file:
        file["entry_1/good_pixels"] = good
    with h5py.File(out / CXI) as file:
        before = file[f"{DETECTOR}/background"][:]
        rows = file["entry_1/background_index"][:]
    command(made, out, "patch", 50, "--mask", mask)
    with h5py.File(out / CXI) as file:
        after = file[f"{DETECTOR}/background"][:]
        np.testing.assert_array_equal(file["entry_1/background_index"][:], rows)
    assert np.isnan(after[:, ~good]).all()
    np.testing.assert_array_equal(after[:, good], before[:, good])
    command(made, out, "merge", 50, "--name", "one")
    with h5py.File(out / "merged/one_hits.cxi") as file:
        assert file[f"{DETECTOR}/background"].shape == (1, 16, 512, 128)
        assert "background_cell" not in file[DETECTOR]
        np.testing.assert_array_equal(file[f"{DETECTOR}/background"][0], after[0])
        assert not file["entry_1/background_index"][:].any()


def test_refused_where_memory_does_not_suffice(made, tmp_path):
    mock, _ = made
    done = process(mock, tmp_path / "out", *OPTIONS, "--memory-per-rank", "256M", status=2)
    assert "--background cell: the backgrounds of 5 memory cells take" in done.stderr
