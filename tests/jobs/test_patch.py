"""Finished files with other inputs, against whole jobs with these inputs, and all or none."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from compare import assert_same_hdf5, assert_same_outputs
from launch import all_files, call_xfelmpi, run_job
from mockrun import tiny_run

from xfelmpi.analysis.hit_powder import GEOMETRY_OFF

PROPOSAL = "p007927"
DETECTOR = "entry_1/instrument_1/detector_1"
# scores by modules that the new mask leaves alone: the hits are the same
OPTIONS = ("--hit-modules", "3", "4", "--with-misses", "--no-vds", "--analyse", "radius")
BAD = (slice(9, 11), slice(100, 180), slice(0, 50))
CELL_BAD = (slice(8, 12), slice(0, 512), slice(0, 128))
ALWAYS_BAD = (slice(13, 14), slice(10, 14), slice(20, 24))


def copied(made, tmp_path):
    return shutil.copytree(made / "out", tmp_path / "out")


def without_analyses(file) -> None:
    """Remove the columns of analyses, which the background of each hit goes into."""
    found = []
    file.visititems(lambda name, item: found.append((name, str(item.attrs.get("source", "")))))
    for name, source in found:
        if source.startswith("analysis "):
            del file[name]


def patch(prefix, output, *words, ranks=0, status=0):
    args = ["patch", *words, "--prefix", prefix, "--output", output]
    done = run_job(args, ranks)
    text = done.stdout + done.stderr
    assert done.returncode == status, text
    assert "Traceback" not in text
    return text


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run without module 5: files to patch, and those of whole jobs."""
    folder = tmp_path_factory.mktemp("patch")
    mock = tiny_run(folder / PROPOSAL, absent_modules=(5,), hit_rate=0.3, with_mask=True)
    first = mock.paths.geometry.read_text()
    other = folder / "new.geom"
    moved = first.splitlines()
    i = next(i for i, line in enumerate(moved) if line.startswith("p3a2/corner_x"))
    moved[i] = "p3a2/corner_x = 12.5"
    # the distance follows the run's motor, which the patch does not read
    moved = [line for line in moved if "DISTANCE_OFFSET" not in line]
    other.write_text("\n".join([*moved, ";XGEOM DISTANCE_OFFSET=0.2125"]) + "\n")
    good = np.ones((16, 512, 128), np.float32)
    good[BAD] = 0
    with h5py.File(folder / "new.h5", "w") as file:
        file["mask"] = good
    cells = np.ones((6, 16, 512, 128), bool)
    cells[(slice(None), *ALWAYS_BAD)] = False
    cells[(slice(2, 4), *CELL_BAD)] = False
    with h5py.File(folder / "cells.h5", "w") as file:
        file.create_dataset("entry_1/good_pixels", data=cells, compression=1)
        file["entry_1/cellIds"] = np.arange(6)
    prefix = mock.options.prefix
    plain = ("--prefix", prefix, "--geometry", mock.paths.geometry)
    new = {
        "geometry": ("--geometry", other),
        "mask": ("--global-mask", folder / "new.h5"),
        "cells": ("--cell-mask", folder / "cells.h5"),
    }
    jobs = {"out": ()} | {name: (*words, "--no-report") for name, words in new.items()}
    for name, words in jobs.items():
        done = call_xfelmpi([50, *plain, "--output", folder / name, *OPTIONS, *words])
        assert done.returncode in (0, 3), done.stderr
    return folder


@pytest.fixture(scope="module")
def cells_mask(made):
    """The path of a mask by cell: two cells lack four modules."""
    return made / "cells.h5"


def test_geometry_as_a_whole_job(made, tmp_path):
    """All files are equal to the bit, but for where they come from; the page is made anew."""
    out = copied(made, tmp_path)
    with h5py.File(out / "events/r0050_events.h5", "r+") as file:
        said = [*json.loads(file.attrs["warnings"]), f"{GEOMETRY_OFF}: it was"]
        file.attrs["warnings"] = json.dumps(said)
    page = (out / "report/r0050.html").read_bytes()
    words = ("--geometry", made / "new.geom")
    patch(made / PROPOSAL, out, "50", *words, ranks=2)
    for path in ("events/r0050_events.h5", "powder/r0050_powder.h5", "saved_hits/r0050_hits.cxi"):
        with h5py.File(out / path, "r+") as file:
            earlier = json.loads(file.attrs["patched_from"])
            del file.attrs["patched_from"]
            used = {f["role"]: f["path"] for f in json.loads(file.attrs["used_files"])}
            assert used["geometry"] == str(made / "new.geom")
            assert json.loads(file.attrs["configuration"])["geometry"] == used["geometry"]
            assert "MOTOR/Z_STEPPER" in file.attrs["beamline_sources"]
        (before,) = earlier
        assert before["command_line"].startswith("xfelmpi 50 ")
        assert json.loads(before["configuration"])["geometry"] != used["geometry"]
        with h5py.File(made / "out" / path) as file:
            assert before["job_id"] == file.attrs["job_id"]
    with h5py.File(out / "emc/r0050_det.h5", "r+") as file:
        del file.attrs["patched_from"]
    assert_same_outputs(made / "geometry", out)
    assert (out / "report/r0050.html").read_bytes() != page


def test_mask_as_a_whole_job(made, tmp_path):
    """But for the sums and scores of frames that are in no file, and what follows from these."""
    out = copied(made, tmp_path)
    patch(made / PROPOSAL, out, "r0050", "--mask", made / "new.h5")
    for path in (out / "saved_hits/r0050_hits.cxi", made / "mask/saved_hits/r0050_hits.cxi"):
        with h5py.File(path, "r+") as file:
            file.attrs.pop("patched_from", None)
            without_analyses(file)
            for entry in ("entry_1", "entry_2"):
                detector = file[f"{entry}/instrument_1/detector_1"]
                # the non-hits' photons, which are in no file
                del detector["background_weighting"]
                assert not detector["data"][(slice(None), *BAD)].any()
                assert (detector["mask"][(slice(None), *BAD)] & 0x80).all()
            assert np.isnan(file[f"{DETECTOR}/background"][BAD]).all()
    for name in ("saved_hits/r0050_hits.cxi", "powder/r0050_powder.h5", "emc/r0050_det.h5"):
        with h5py.File(out / name, "r+") as file, h5py.File(made / "mask" / name, "r+") as whole:
            file.attrs.pop("patched_from", None)
            if "scale" in file:
                # the same weighting
                del file["scale"], whole["scale"]
        assert_same_hdf5(made / "mask" / name, out / name)
    emc = "emc/r0050.emc"
    assert (out / emc).read_bytes() == (made / "mask" / emc).read_bytes()
    with h5py.File(out / "events/r0050_events.h5") as a:
        with h5py.File(made / "mask/events/r0050_events.h5") as b:
            there = a["is_hit"][:] | a["is_miss"][:]
            assert there.sum() < len(there)
            for name in ("litpixels", "photons", "sums/ones", "sums/peak"):
                np.testing.assert_array_equal(a[name][:][there], b[name][:][there])
            for name in ("hitscore", "is_hit", "is_miss", "hit_sigma"):
                np.testing.assert_array_equal(a[name][:], b[name][:])
        assert a.attrs["mask_patched"]


def test_verify_accepts_patched_files(made, tmp_path):
    out = copied(made, tmp_path)
    words = ("--geometry", made / "new.geom", "--mask", made / "new.h5")
    said = patch(made / PROPOSAL, out, "50", *words)
    assert "pixels more are bad" in said
    patch(made / PROPOSAL, out, "50", "--distance", "0.7")
    with h5py.File(out / "saved_hits/r0050_hits.cxi") as file:
        assert len(json.loads(file.attrs["patched_from"])) == 2
        assert file[f"{DETECTOR}/distance"][()] == 0.7
        # the first patch counts still
        assert not file[f"{DETECTOR}/data"][(slice(None), *BAD)].any()
        roles = [f["role"] for f in json.loads(file.attrs["used_files"])]
        assert sorted(roles) == ["geometry", "global mask"]
    done = call_xfelmpi(["verify", 50, "--prefix", made / PROPOSAL, "--output", out])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pixels were masked later" in done.stdout + done.stderr


def test_verify_of_scores_from_before_the_mask(tmp_path):
    """Scores by all pixels: those of hits and misses may be higher than their new sums, only."""
    mock = tiny_run(tmp_path / PROPOSAL, trains=1, hit_rate=0.3)
    where = ("--prefix", mock.options.prefix)
    job = [50, *where, "--with-misses", "--no-vds", "--no-report"]
    assert call_xfelmpi([*job, "--decide", "fixed", "--fixed-threshold", "3000"]).returncode == 0
    good = np.ones((16, 512, 128), np.uint8)
    good[BAD] = 0
    with h5py.File(tmp_path / "new.h5", "w") as file:
        file["entry_1/good_pixels"] = good
    events = mock.options.prefix / "scratch/events/r0050_events.h5"
    patch(mock.options.prefix, events.parent.parent, "50", "--mask", tmp_path / "new.h5")
    verify = ["verify", 50, *where]
    done = call_xfelmpi(verify)
    assert done.returncode == 0, done.stdout + done.stderr
    with h5py.File(events, "r+") as file:
        hit = np.flatnonzero(file["is_hit"][:])[0]
        file["hitscore"][hit] = file["litpixels"][hit] - 1
    done = call_xfelmpi(verify)
    assert done.returncode == 1
    assert "hitscore (litpixels): 1 of" in done.stdout + done.stderr


def test_merged_sets(made, tmp_path):
    """Patched run by run and then merged, or merged and then patched: the same."""
    prefix = made / PROPOSAL
    a, b = copied(made, tmp_path / "a"), copied(made, tmp_path / "b")
    merge = ["merge", 50, "--name", "all", "--prefix", prefix, "--output"]
    words = ("--geometry", made / "new.geom", "--mask", made / "new.h5")
    assert call_xfelmpi([*merge, b]).returncode == 0
    patch(prefix, b, "all", "50", *words)
    patch(prefix, a, "50", *words)
    assert call_xfelmpi([*merge, a]).returncode == 0
    # with backgrounds that are those of several runs, these would be wrong
    with h5py.File(b / "merged/all_hits.cxi") as file:
        found = []
        file.visititems(lambda _, item: found.append(item))
        sources = [str(item.attrs.get("source", "")).startswith("analysis ") for item in found]
        blank = [item[()] for item, ours in zip(found, sources, strict=True) if ours]
        assert blank
        for values in blank:
            assert np.isnan(values).all() if values.dtype.kind == "f" else (values == -1).all()
    for name in ("all_hits.cxi", "all_det.h5"):
        with h5py.File(b / "merged" / name, "r+") as file:
            del file.attrs["patched_from"]
            del file.attrs["input_files"]
            without_analyses(file)
        with h5py.File(a / "merged" / name, "r+") as file:
            del file.attrs["input_files"]
            without_analyses(file)
        assert_same_hdf5(a / "merged" / name, b / "merged" / name)
    emc = "merged/all.emc"
    assert (a / emc).read_bytes() == (b / emc).read_bytes()
    with h5py.File(b / "saved_hits/r0050_hits.cxi") as file:
        assert file[f"{DETECTOR}/xyz_map"].shape == (3, 16, 512, 128)


REFUSED = {
    "nothing": ((50,), "nothing to change"),
    "twice": ((50, "r0050", "--distance", 1), "more than once"),
    "other run": ((50, 51, "--distance", 1), "r0051_hits.cxi"),
    "no such set": (("all", "--distance", 1), "all_hits.cxi"),
    "no geometry": ((50, "--geometry", "none.geom"), "none.geom: no such file"),
    "no mask": ((50, "--mask", "none.h5"), "none.h5"),
    "neither": ((50, "a/b", "--distance", 1), "'a/b' is neither"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_and_nothing_changed(made, name):
    """Also if only the second of two sets cannot be patched."""
    out = made / "out"
    before = {name: (out / name).read_bytes() for name in all_files(out)}
    words, message = REFUSED[name]
    said = patch(made / PROPOSAL, out, *words, status=2)
    assert message in said
    assert {name: (out / name).read_bytes() for name in all_files(out)} == before


def test_files_that_do_not_belong_together(made, tmp_path):
    """What a patch reads must be of one job, have the same hits, and be what was used."""
    powder, cxi = Path("powder/r0050_powder.h5"), Path("saved_hits/r0050_hits.cxi")
    out = copied(made, tmp_path)
    shutil.copy(made / "mask" / powder, out / powder)
    said = patch(made / PROPOSAL, out, 50, "--distance", 1, status=2)
    assert f"{out / powder}: is of another job" in said
    shutil.copy(made / "out" / powder, out / powder)
    with h5py.File(out / cxi, "r+") as file:
        file["entry_1/vds_index"][0] += 1
    said = patch(made / PROPOSAL, out, 50, "--distance", 1, status=2)
    assert f"{out / cxi}: has " in said
    assert "hits, which are not the" in said
    with h5py.File(out / cxi, "r+") as file:
        used = json.loads(file.attrs["used_files"])
        file["entry_1/vds_index"][0] -= 1
        for about in used:
            about["sha256"] = "0" * 64
        file.attrs["used_files"] = json.dumps(used)
    said = patch(made / PROPOSAL, out, 50, "--distance", 1, status=2)
    assert "the geometry is another one now; name it with --geometry" in said
    assert not list(out.rglob("*.part"))


def without_nonhits(file) -> None:
    """Remove what needs the photons of frames that are in no file."""
    without_analyses(file)
    for entry in [name for name in file if name.startswith("entry_")]:
        for name in ("background_weighting", "background", "powder"):
            del file[f"{entry}/instrument_1/detector_1/{name}"]


def test_mask_per_cell_as_a_whole_job(made, cells_mask, tmp_path):
    """But for what frames that are in no file have in pixels that are bad in some cells."""
    out = copied(made, tmp_path)
    said = patch(made / PROPOSAL, out, "50", "--mask", cells_mask, ranks=2)
    assert "16 pixels more are bad in all cells, others by cell" in said
    assert "powder and background keep what" in said
    whole = made / "cells"
    with (
        h5py.File(out / "powder/r0050_powder.h5") as a,
        h5py.File(made / "out/powder/r0050_powder.h5") as b,
    ):
        # what is known to be wrong is gone from the powder of all frames as well
        lost = sum(b[f"powder{s}"][:] - a[f"powder{s}"][:] for s in ("_hits", "_misses"))
        assert lost[CELL_BAD].any()
        np.testing.assert_array_equal(b["powder"][:] - lost, a["powder"][:])
        with h5py.File(whole / "powder/r0050_powder.h5") as c:
            for name in ("powder_hits", "good_frames_hits", "powder_misses", "good_frames_misses"):
                np.testing.assert_array_equal(a[name][:], c[name][:])
        powder = a["powder"][:]
    with h5py.File(out / "saved_hits/r0050_hits.cxi", "r+") as file:
        assert json.loads(file.attrs["used_files"])[-1]["role"] == "per-cell mask"
        assert json.loads(file.attrs["configuration"])["cell_mask"] == str(cells_mask)
        np.testing.assert_array_equal(file[f"{DETECTOR}/powder"][:], powder)
    for path in (out / "saved_hits/r0050_hits.cxi", whole / "saved_hits/r0050_hits.cxi"):
        with h5py.File(path, "r+") as file:
            file.attrs.pop("patched_from", None)
            without_nonhits(file)
    assert_same_hdf5(whole / "saved_hits/r0050_hits.cxi", out / "saved_hits/r0050_hits.cxi")
    emc = "emc/r0050.emc"
    assert (out / emc).read_bytes() == (whole / emc).read_bytes()
    with h5py.File(out / "emc/r0050_det.h5") as a, h5py.File(whole / "emc/r0050_det.h5") as b:
        np.testing.assert_array_equal(a["mask"][:], b["mask"][:])


def test_mask_per_cell_is_verified(made, cells_mask, tmp_path):
    out = copied(made, tmp_path)
    patch(made / PROPOSAL, out, "50", "--mask", cells_mask)
    done = call_xfelmpi(["verify", 50, "--prefix", made / PROPOSAL, "--output", out])
    assert done.returncode == 0, done.stdout + done.stderr


def test_merged_set_with_a_mask_per_cell(made, cells_mask, tmp_path):
    """The hits are those of patched runs; merged hits keep the powder."""
    prefix = made / PROPOSAL
    a, b = copied(made, tmp_path / "a"), copied(made, tmp_path / "b")
    merge = ["merge", 50, "--name", "all", "--prefix", prefix, "--output"]
    assert call_xfelmpi([*merge, b]).returncode == 0
    patch(prefix, b, "all", "--mask", cells_mask)
    patch(prefix, a, "50", "--mask", cells_mask)
    assert call_xfelmpi([*merge, a]).returncode == 0
    with h5py.File(a / "merged/all_hits.cxi") as one, h5py.File(b / "merged/all_hits.cxi") as other:
        for name in ("data", "mask", "photon_counts", "lit_pixels"):
            x, y = (file[f"{DETECTOR}/{name}"][:] for file in (one, other))
            np.testing.assert_array_equal(x, y)


def test_mask_of_other_values_is_refused(made, tmp_path):
    """Told by the ranks that read it, not by that which looks first."""
    with h5py.File(tmp_path / "cells.h5", "w") as file:
        file["entry_1/good_pixels"] = np.full((1, 16, 512, 128), 2.5, np.float32)
        file["entry_1/cellIds"] = [1]
    before = {name: (made / "out" / name).read_bytes() for name in all_files(made / "out")}
    patch(made / PROPOSAL, made / "out", "50", "--mask", tmp_path / "cells.h5", status=2)
    assert {name: (made / "out" / name).read_bytes() for name in all_files(made / "out")} == before


def test_cells_that_the_detector_does_not_have(made, cells_mask, tmp_path):
    out = copied(made, tmp_path)
    with h5py.File(out / "saved_hits/r0050_hits.cxi", "r+") as file:
        file["entry_1/cellId"][0] = 352
    said = patch(made / PROPOSAL, out, "50", "--mask", cells_mask, status=2)
    assert "cellId has cells that" in said
