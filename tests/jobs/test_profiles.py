"""Radial profiles of hits, ``--profiles``: against numpy, on any ranks, patched and merged."""

import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
from launch import call_xfelmpi, run_job, run_xfelmpi
from mockrun import tiny_run

import xfelmpi
from xfelmpi.calibration.geometry import load_geometry
from xfelmpi.core.config.options import Config
from xfelmpi.core.errors import InputError, UsageError
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.mpi import alone
from xfelmpi.output.cxi.hit_writer import CxiWriter

DATASETS = ("photons", "pixels", "q", "edges")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run processed with profiles on one and on three ranks, and without."""
    folder = tmp_path_factory.mktemp("profiles")
    about = {"cells": (0, 1, 2), "hit_rate": 0.6, "absent_modules": (9,)}
    mock = tiny_run(folder / "p007927", trains=2, **about)
    where = ("--prefix", mock.options.prefix, "--no-vds", "--no-report", "--with-misses")
    where += ("--decide", "fixed", "--fixed-threshold", 3000, "--size", "none")
    for name, ranks, more in (("one", 1, ["--profiles"]), ("three", 3, ["--profiles"])):
        done = run_job([50, *where, "--output", folder / name, *more], ranks)
        assert done.returncode == 3, done.stderr
    done = call_xfelmpi([50, *where, "--output", folder / "without"])
    assert done.returncode == 3, done.stderr
    return folder


def profiles_of(cxi, entry="entry_1"):
    with h5py.File(cxi) as file:
        return {name: file[f"{entry}/radial_profile/{name}"][()] for name in DATASETS}


def cxi_of(output):
    return output / "saved_hits" / "r0050_hits.cxi"


def expected(cxi, entry="entry_1"):
    """Return what numpy makes of the frames in a CXI file: photons and pixels of every ring."""
    edges = profiles_of(cxi)["edges"]
    with h5py.File(cxi) as file:
        detector = file[f"{entry}/instrument_1/detector_1"]
        x, y, z = detector["xyz_map"][:].reshape(3, -1)
        wavelength = np.median(file["entry_1/instrument_1/source_1/photon_wavelength"])
        data, mask = (detector[n][:].reshape(len(detector[n]), -1) for n in ("data", "mask"))
    q = 4 * np.pi * np.sin(np.arctan2(np.hypot(x, y), z) / 2) / wavelength
    rings = range(len(edges) - 1)
    ring = np.searchsorted(edges, q, side="right") - 1
    photons = np.where(mask == 0, data, 0)
    sums = [np.bincount(ring, frame, len(rings)) for frame in photons]
    pixels = [np.bincount(ring, m == 0, len(rings)) for m in mask]
    middle = [q[ring == r].mean() if (ring == r).any() else np.nan for r in rings]
    return np.array(sums), np.array(pixels), np.array(middle)


@pytest.mark.parametrize("entry", ["entry_1", "entry_2"])
def test_against_numpy(made, entry):
    found = profiles_of(cxi_of(made / "one"), entry)
    sums, pixels, middle = expected(cxi_of(made / "one"), entry)
    assert found["photons"].dtype == np.float32
    np.testing.assert_array_equal(found["pixels"], pixels)
    seen = pixels > 0
    np.testing.assert_allclose(found["photons"][seen], (sums[seen] / pixels[seen]), 1e-6)
    assert np.isnan(found["photons"][~seen]).all()
    np.testing.assert_allclose(found["q"], middle, 1e-3)
    assert 150 < len(middle) < 300
    assert np.nansum(found["photons"] * found["pixels"]) > 1000


def test_on_any_number_of_ranks(made):
    for entry in ("entry_1", "entry_2"):
        one, three = (profiles_of(cxi_of(made / n), entry) for n in ("one", "three"))
        for name in DATASETS:
            np.testing.assert_array_equal(one[name], three[name], name)


def test_verify(made, tmp_path):
    """It agrees, and finds one number that is wrong, and profiles that are not there."""
    out = shutil.copytree(made / "one", tmp_path / "out")
    words = ("verify", 50, "--prefix", made / "p007927", "--output", out, "--frames", 0)
    assert call_xfelmpi(words).returncode == 0
    with h5py.File(cxi_of(out), "r+") as file:
        file["entry_1/radial_profile/photons"][0, 20] += 1
    done = call_xfelmpi(words)
    assert done.returncode == 1
    assert "photons of hits made again" in done.stdout + done.stderr
    with h5py.File(cxi_of(out), "r+") as file:
        del file["entry_1/radial_profile"]
    assert call_xfelmpi(words).returncode == 1


def test_added_later(made, tmp_path):
    """`xfelmpi size --profiles` adds the same bits, on two ranks; all else stays."""
    out = shutil.copytree(made / "without", tmp_path / "out")
    args = ["size", 50, "--prefix", made / "p007927", "--output", out, "--profiles"]
    done = run_xfelmpi(args, 2)
    assert done.returncode == 0, done.stderr
    found, wanted = profiles_of(cxi_of(out)), profiles_of(cxi_of(made / "one"))
    for name in DATASETS:
        np.testing.assert_array_equal(found[name], wanted[name], name)
    with h5py.File(cxi_of(out)) as file:
        assert "sizing" not in file["entry_1"]


def test_patched(made, tmp_path):
    """Another distance gives other rings, and the sums of what is in them."""
    out = shutil.copytree(made / "one", tmp_path / "out")
    args = ["patch", 50, "--prefix", made / "p007927", "--output", out, "--distance", 0.9]
    assert call_xfelmpi(args).returncode == 0
    found = profiles_of(cxi_of(out))
    sums, pixels, middle = expected(cxi_of(out))
    np.testing.assert_array_equal(found["pixels"], pixels)
    seen = pixels > 0
    np.testing.assert_allclose(found["photons"][seen], (sums[seen] / pixels[seen]), 1e-6)
    assert np.nanmax(middle) < 0.9 * np.nanmax(profiles_of(cxi_of(made / "one"))["q"])


def test_merged(made, tmp_path):
    """Merged hits have profiles on request; all of them, in their order."""
    out = shutil.copytree(made / "without", tmp_path / "out")
    where = ("--prefix", made / "p007927", "--output", out, "--name", "m")
    assert call_xfelmpi(["merge", 50, *where, "--profiles"]).returncode == 0
    found = profiles_of(out / "merged" / "m_hits.cxi")
    wanted = profiles_of(cxi_of(made / "one"))
    for name in DATASETS:
        np.testing.assert_array_equal(found[name], wanted[name], name)


def test_in_python(made):
    with xfelmpi.open_run(50, made / "p007927", made / "one") as run:
        table = run.hits[0].radial_profile()
        profiles = run.hits.radial_profiles()
        last = run.hits[[2, 0]].radial_profiles()
    assert list(table) == ["q", "photons", "pixels"]
    np.testing.assert_array_equal(table["photons"], profiles.photons[0])
    np.testing.assert_array_equal(last.photons, profiles.photons[[2, 0]])
    without = xfelmpi.open_run(50, made / "p007927", made / "without")
    with without as run, pytest.raises(UsageError, match="--profiles adds them"):
        run.hits[0].radial_profile()


def test_rings_need_distance_and_wavelength():
    """The job says so before it reads frames."""
    geometry = load_geometry(None, AGIPD_1M, 0.7)[0]
    flat = replace(geometry, distance=np.nan)
    for one, wavelength, what in ((flat, 2e-10, "distance"), (geometry, np.nan, "wavelength")):
        with pytest.raises(InputError, match=f"the {what} is unknown; give --"):
            CxiWriter.check(alone(), Config(profiles=True), one, np.array([wavelength]))
        assert CxiWriter.check(alone(), Config(), one, np.array([wavelength])) == ()
