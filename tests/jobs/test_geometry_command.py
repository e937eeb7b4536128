"""The centre of a processed run: found, written by extra-geom, and applied by ``patch``."""

import h5py
import numpy as np
import pytest
from launch import all_files, call_xfelmpi
from mockrun import tiny_run
from PIL import Image

from xfelmpi.calibration.geometry import load_geometry
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.io import lock_file

PIXEL = 2e-4
OFF = np.array([0.8e-3, -0.6e-3])
"""m by which the geometry of the job is off: 4 and 3 pixels."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run processed with a geometry that is off, and its true positions."""
    folder = tmp_path_factory.mktemp("geometry")
    many = {"trains": 4, "cells": tuple(range(10)), "hit_rate": 0.8, "hit_photons": (20e3, 50e3)}
    mock = tiny_run(folder / "p007927", **many)
    text = mock.paths.geometry.read_text()
    wrong = folder / "wrong.geom"
    shift = "".join(
        f"detector_shift_{a} = {1e3 * by} mm\n" for a, by in zip("xy", OFF, strict=True)
    )
    wrong.write_text(shift + text)
    where = ("--prefix", mock.options.prefix, "--no-vds", "--no-report", "--size", "none")
    where += ("--decide", "fixed", "--fixed-threshold", "3000", "--geometry", wrong)
    done = call_xfelmpi([50, *where, "--output", folder / "out"])
    assert done.returncode == 0, done.stderr
    with wrong.open("a") as file:
        file.write("badcorner/min_x = 900\nbadcorner/max_x = 901\n")
        file.write("badcorner/min_y = 900\nbadcorner/max_y = 901\n")
    true, _ = load_geometry(mock.paths.geometry, AGIPD_1M)
    return folder, true


def geometry(folder, *words, status=0):
    where = ("--prefix", folder / "p007927", "--output", folder / "out")
    done = call_xfelmpi(["geometry", 50, *words, *where])
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(("words", "limit"), [((), 0.1), (("--quadrants",), 1.0)])
def test_found_written_and_applied(made, tmp_path, words, limit):
    """With 30 hits the quadrants are not as exact as with 500."""
    folder, true = made
    file = tmp_path / "new.geom"
    said = geometry(folder, *words, "--geometry-file", file)
    assert "±" in said
    if not words:
        # later, the CXI file names the new geometry
        assert "wrong.geom has bad regions, the new geometry has none" in said
    new, warnings = load_geometry(file, AGIPD_1M)
    assert not warnings
    off = np.hypot(*(new.xyz - true.xyz)[:2])
    assert off.max() < limit * PIXEL
    np.testing.assert_allclose(new.xyz[2], true.xyz[2], atol=1e-6)
    with Image.open(folder / "out/report/r0050_geometry.png") as image:
        width, height = image.size
        assert width > 1.9 * height
    if not words:
        where = ("--prefix", folder / "p007927", "--output", folder / "out")
        done = call_xfelmpi(["patch", 50, *where, "--geometry", file])
        assert done.returncode == 0, done.stderr
        with h5py.File(folder / "out/saved_hits/r0050_hits.cxi") as cxi:
            xyz = cxi["entry_1/instrument_1/detector_1/xyz_map"][:]
        np.testing.assert_array_equal(xyz, new.xyz)
        assert call_xfelmpi(["report", 50, *where]).returncode == 0
        page = (folder / "out/report/r0050.html").read_text()
        assert '<a href="r0050_geometry.png">geometry</a>' in page
        # now there is nothing left to move
        said = geometry(folder, "--geometry-file", tmp_path / "again.geom")
        assert "(+0.0" in said or "(-0.0" in said


def test_refused_and_nothing_written(made, tmp_path):
    folder, _ = made
    (tmp_path / "there.geom").write_text("mine")
    before = all_files(folder / "out")
    said = geometry(folder, "--geometry-file", tmp_path / "there.geom", status=2)
    assert "exists already" in said
    assert (tmp_path / "there.geom").read_text() == "mine"
    assert "more than once" in geometry(folder, "50", status=2)
    assert "r0051" in geometry(folder, "51", status=2)
    assert all_files(folder / "out") == before

    lock = tmp_path / "new.geom.lock"
    token = lock_file.acquire(lock, "")
    said = geometry(folder, "--geometry-file", tmp_path / "new.geom", status=2)
    assert "the geometry new.geom is being made by" in said
    lock_file.release(lock, token)
    with h5py.File(folder / "out/powder/r0050_powder.h5", "r+") as file:
        file.attrs["job_id"] = "another"
    said = geometry(folder, "--geometry-file", tmp_path / "new.geom", status=2)
    assert "r0050_powder.h5: is of another job" in said
    done = call_xfelmpi(["report", 50, "--prefix", folder / "p007927", "--output", folder / "out"])
    assert done.returncode == 2
    assert "r0050_powder.h5: is of another job" in done.stderr
    assert not (tmp_path / "new.geom").exists()
