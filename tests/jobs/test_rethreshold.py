"""Deciding a finished run again: the same files as a full run gives, from hits and misses alone."""

import json
import os
import re
import shutil
from functools import cache

import h5py
import numpy as np
import pytest
from compare import assert_same_outputs
from launch import all_files, run_job
from mockrun import HALF, NEAR, tiny_raw_run, tiny_run

from xfelmpi.core.config.options import Config

PROPOSAL = "p007927"

FAINT = {"hit_photons": (50.0, 3e3)}
"""Hits that other settings lose."""

RUN = {
    **HALF,
    "trains": 5,
    "cells": tuple(range(1, 10)),
    "veto": 0.1,
    **FAINT,
    "pulse_jitter": 0.2,
    "missing": ((2, 3),),
    "absent_modules": (6,),
    "chunk_frames": 2,
}


def process(mock, output, *options, ranks=0, status=0):
    paths = ["--prefix", mock.options.prefix, "--output", output, "--no-report"]
    words = [mock.options.run, *paths, *options]
    done = run_job(words, ranks)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def rethreshold(mock, first, output, *options, **how):
    """Decide again in a copy of the first outputs."""
    shutil.copytree(first, output)
    return process(mock, output, "--from-events", *options, **how)


def configuration(output) -> dict:
    with h5py.File(output / "events" / "r0050_events.h5") as file:
        return json.loads(file.attrs["configuration"])


def hits_and_misses(output) -> tuple[int, int]:
    with h5py.File(output / "events" / "r0050_events.h5") as file:
        return int(file["is_hit"][:].sum()), int(file["is_miss"][:].sum())


@pytest.fixture(scope="module")
def proc(tmp_path_factory):
    """A run, and its outputs with the usual settings."""
    folder = tmp_path_factory.mktemp("again")
    mock = tiny_run(folder / PROPOSAL, **RUN)
    process(mock, folder / "first", status=3)
    return mock, folder / "first"


DECISIONS = {
    "nothing new": (),
    "sigma": ("--sigma", "1.5"),
    "run, iqr": ("--decide", "run", "--width", "iqr", "--sigma", "0.5", "--sigma-floor", "none"),
    "window": ("--decide", "window", "--min-scores", "14", "--sigma", "0.3"),
    "fixed": ("--decide", "fixed", "--fixed-threshold", "300"),
    "limits": ("--min-score", "100", "--max-score", "1500", "--first-cell", "2", "--sigma", "1",
               "--exclude-cells", "4", "--min-pulse-energy", "1.2mJ"),
    "misses": ("--miss-base", "misses", "--miss-fraction", "0.4"),
    "no hits": ("--decide", "fixed", "--fixed-threshold", "1e9"),
    "all hits, other distance": (
        "--decide", "fixed", "--fixed-threshold", "-1", "--distance", "1.5", "--sample", "virus"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DECISIONS)
def test_same_as_a_full_run(proc, name, tmp_path):
    mock, first = proc
    options = DECISIONS[name]
    ranks = (0, 0, 2, 0, 3)[list(DECISIONS).index(name) % 5]
    process(mock, tmp_path / "full", *options, status=3)
    rethreshold(mock, first, tmp_path / "again", *options, ranks=ranks, status=3)
    assert_same_outputs(tmp_path / "full", tmp_path / "again")
    config = configuration(tmp_path / "again")
    assert config == configuration(tmp_path / "full") | {"output": str(tmp_path / "again")}
    counts = hits_and_misses(tmp_path / "again")
    assert (counts != hits_and_misses(first)) == (name != "nothing new")
    assert (tmp_path / "again" / "emc" / "r0050.emc").exists() == (name != "no hits")


def test_same_on_several_ranks(proc, tmp_path):
    mock, first = proc
    for n in (0, 3):
        options = ("--sigma", "1", "--miss-fraction", "0.5")
        rethreshold(mock, first, tmp_path / str(n), *options, ranks=n, status=3)
    assert_same_outputs(tmp_path / "0", tmp_path / "3")


def test_from_no_hits_to_hits_and_back(proc, tmp_path):
    mock, first = proc
    output = tmp_path / "out"
    rethreshold(mock, first, output, "--decide", "fixed", "--fixed-threshold", "1e9", status=3)
    assert hits_and_misses(output) == (0, 0)
    # the threshold of the time before belongs to a decision that is not wanted any more
    process(mock, output, "--from-events", "--decide", "auto", status=3)
    assert_same_outputs(first, output)


def test_settings_of_the_first_time_hold(tmp_path):
    mock = tiny_run(tmp_path / PROPOSAL, **HALF, trains=4, **FAINT)
    settings = ("--score", "photons", "--photon-threshold", "0.6", "--hit-modules", "3", "4")
    settings += ("--trains", "1:3", "--normalise", "unmasked", "--decide", "run", "--sigma", "3")
    process(mock, tmp_path / "first", *settings)
    process(mock, tmp_path / "full", *settings, "--sigma", "-1")
    rethreshold(mock, tmp_path / "first", tmp_path / "again", "--sigma", "-1")
    assert hits_and_misses(tmp_path / "first") != hits_and_misses(tmp_path / "full")
    assert_same_outputs(tmp_path / "full", tmp_path / "again")


def test_normalised_by_pulse_energy(tmp_path):
    mock = tiny_run(tmp_path / PROPOSAL, **HALF, trains=4, pulse_jitter=0.2, **FAINT)
    settings = ("--normalise", "pulse-energy", "--min-pulse-energy", "1.2mJ", "--min-scores", "9")
    process(mock, tmp_path / "first", *settings)
    process(mock, tmp_path / "full", *settings, "--sigma", "-1")
    rethreshold(mock, tmp_path / "first", tmp_path / "again", "--sigma", "-1", ranks=2)
    assert hits_and_misses(tmp_path / "first") != hits_and_misses(tmp_path / "full")
    assert_same_outputs(tmp_path / "full", tmp_path / "again")
    for option in (("--min-scores", "8"), ("--first-cell", "1"), ("--exclude-cells", "3")):
        options = ("--from-events", "--normalise", "pulse-energy", *option)
        done = process(mock, tmp_path / "again", *options, status=2)
        assert f"{option[0]} {option[1]} would change the scores" in done.stderr


def test_raw_run(tmp_path):
    mock = tiny_raw_run(tmp_path / PROPOSAL, **FAINT, **NEAR)
    settings = ("--adu-per-photon", "60", "--common-mode", "asic")
    process(mock, tmp_path / "first", *settings, status=3)
    process(mock, tmp_path / "full", *settings, "--sigma", "-1", status=3)
    # what is there now must not make a difference
    (mock.options.prefix / "proc" / "r0050").mkdir(parents=True, exist_ok=True)
    (mock.options.prefix / "proc" / "r0050" / "CORR-R0050-AGIPD00-S00000.h5").touch()
    rethreshold(mock, tmp_path / "first", tmp_path / "again", "--sigma", "-1", ranks=2, status=3)
    assert hits_and_misses(tmp_path / "first") != hits_and_misses(tmp_path / "full")
    assert_same_outputs(tmp_path / "full", tmp_path / "again")


def test_other_constants_are_refused(tmp_path):
    """Hits would have other photons than the scores by which they were found."""
    mock = tiny_raw_run(tmp_path / PROPOSAL, **NEAR)
    process(mock, tmp_path / "first", "--adu-per-photon", "60", status=3)
    path = sorted(mock.paths.constants.glob("*.h5"))[3]
    with h5py.File(path, "r+") as file:
        file["AnalogOffset"][0] += 1
    done = rethreshold(mock, tmp_path / "first", tmp_path / "again", "--sigma", "3", status=2)
    assert f"was made with other calibration constants than those found now (e.g. {path.name})" in (
        done.stderr
    )
    assert_same_outputs(tmp_path / "first", tmp_path / "again")


@pytest.mark.parametrize("masks", [("run",), ("run-static",), ("run", "file")])
def test_masks_of_the_run(masks, tmp_path):
    masked = {"masked_pixels": 0.1, "masked_at_times": 20.0}
    mock = tiny_run(tmp_path / PROPOSAL, **HALF, **FAINT, trains=4, **masked)
    mask = mock.options.prefix / "scratch" / "det" / "mask.h5"
    mask.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(mask, "w") as file:
        file["entry_1/good_pixels"] = np.random.default_rng(1).random((8, 512, 128)) < 0.9
    settings = ("--mask", *masks, "--with-misses")
    process(mock, tmp_path / "first", *settings)
    process(mock, tmp_path / "full", *settings, "--sigma", "-1")
    ranks = 2 * (len(masks) > 1)
    rethreshold(mock, tmp_path / "first", tmp_path / "again", "--sigma", "-1", ranks=ranks)
    assert hits_and_misses(tmp_path / "first") != hits_and_misses(tmp_path / "full")
    assert_same_outputs(tmp_path / "full", tmp_path / "again")


def test_only_hits_and_misses_are_read(tmp_path):
    """All other frames are overwritten with garbage: nobody notices."""
    mock = tiny_run(tmp_path / PROPOSAL, **HALF, trains=4, **FAINT)
    process(mock, tmp_path / "first")
    process(mock, tmp_path / "full", "--sigma", "2")
    with h5py.File(tmp_path / "full" / "events" / "r0050_events.h5") as file:
        needed = file["is_hit"][:] | file["is_miss"][:]
        ids = set(zip(file["trainId"][needed], file["cellId"][needed], strict=True))
    assert 0 < len(ids) < len(needed)
    for path in mock.paths.proc.glob("CORR-*-AGIPD*.h5"):
        spoil_frames(path, ids)
    done = rethreshold(mock, tmp_path / "first", tmp_path / "again", "--sigma", "2")
    assert_same_outputs(tmp_path / "full", tmp_path / "again")
    assert re.search(r"^read .* GB +hits and misses only$", done.stdout, re.M)


def spoil_frames(path, keep) -> None:
    """Overwrite the bytes of all frames but those of some (trainId, cellId)."""
    with h5py.File(path) as file:
        (source,) = (s for s in file[f"INSTRUMENT/{HALF['detector']}/CORR"].values())
        image = source["image"]
        ids = list(zip(image["trainId"][:].ravel(), image["cellId"][:].ravel(), strict=True))
        chunks = [image["data"].id.get_chunk_info_by_coord((i, 0, 0)) for i in range(len(ids))]
    raw = bytearray(path.read_bytes())
    for name, chunk in zip(ids, chunks, strict=True):
        if name not in keep:
            raw[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    about = path.stat()
    path.write_bytes(raw)
    # the files of both jobs say when their input was changed
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


REFUSED = {
    "--adu-per-photon": "2.5",
    "--photon-threshold": "0.5",
    "--score": "photons",
    "--normalise": "unmasked",
    "--hit-modules": "3",
    "--trains": "0:2",
    "--cell-mask": "mask.h5",
    "--data": "raw",
    "--mask": "none",
    "--mask-trains": "7",
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_would_change_the_scores_is_refused(proc, option, tmp_path):
    mock, first = proc
    before = {name: (first / name).stat().st_mtime_ns for name in all_files(first)}
    words = ("--from-events", option, REFUSED[option])
    done = process(mock, first, *words, ranks=2 * (option == "--mask"), status=2)
    value = (tmp_path.cwd() / "mask.h5") if option == "--cell-mask" else REFUSED[option]
    assert f"{option} {value} would change the scores, which were made with" in (done.stderr)
    assert done.stderr.count("error") == 1
    assert before == {name: (first / name).stat().st_mtime_ns for name in all_files(first)}


def test_the_same_value_is_not_refused(proc, tmp_path):
    mock, first = proc
    same = (
        "--data",
        "proc",
        "--detector",
        HALF["detector"],
        "--score",
        "litpixels",
        "--photon-threshold",
        "0.7",
        "--sigma",
        "4",
    )
    rethreshold(mock, first, tmp_path / "again", *same, status=3)
    assert_same_outputs(first, tmp_path / "again")


def test_nothing_to_start_from(proc, tmp_path):
    mock, first = proc
    done = process(mock, tmp_path / "none", "--from-events", status=2)
    assert "r0050_events.h5: no such file; process the run first" in done.stderr
    shutil.copytree(first, tmp_path / "out")
    events = tmp_path / "out" / "events" / "r0050_events.h5"
    (tmp_path / "out" / "powder" / "r0050_powder.h5").unlink()
    done = process(mock, tmp_path / "out", "--from-events", status=2)
    assert "r0050_powder.h5" in done.stderr
    with h5py.File(events, "r+") as file:
        del file["sums"]
    done = process(mock, tmp_path / "out", "--from-events", status=2)
    assert "r0050_events.h5" in done.stderr
    assert "expected an events file of this version; process the run again" in done.stderr
    events.write_bytes(b"no HDF5")
    done = process(mock, tmp_path / "out", "--from-events", status=2)
    assert "r0050_events.h5" in done.stderr


def test_the_run_has_changed(tmp_path):
    mock = tiny_run(tmp_path / PROPOSAL, **HALF, trains=3, sequence_length=1)
    output = tmp_path / "out"
    process(mock, output)
    hits = output / "saved_hits" / "r0050_hits.cxi"
    before = hits.stat().st_mtime_ns
    mask = mock.options.prefix / "scratch" / "det" / "mask.h5"
    mask.parent.mkdir(parents=True, exist_ok=True)
    good = np.ones((8, 512, 128), bool)
    good[3, 5, 7] = False
    with h5py.File(mask, "w") as file:
        file["entry_1/good_pixels"] = good
    done = process(mock, output, "--from-events", status=2)
    assert "was made with other masks than those found now" in done.stderr
    mask.unlink()
    for path in mock.paths.proc.glob("*-S00002.h5"):
        path.unlink()
    done = process(mock, output, "--from-events", status=2)
    assert "has 18 frames, which are not the 12 that are in the run now" in done.stderr
    assert hits.stat().st_mtime_ns == before


def test_another_region_is_noticed(proc, tmp_path):
    mock, first = proc
    region = np.zeros((8, 512, 128), bool)
    region[3:5] = True
    (tmp_path / "det").mkdir()
    with h5py.File(tmp_path / "det" / "hit_finding_mask.h5", "w") as file:
        file["entry_1/good_pixels"] = region
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
    done = process(mock, tmp_path, "--from-events", status=2)
    assert "was made with other masks than those found now" in done.stderr


def test_module_that_is_only_in_trains_left_out(tmp_path):
    """Its frames are not complete, neither the first time nor when decided again."""
    mock = tiny_run(tmp_path / PROPOSAL, **HALF, **FAINT, trains=4, sequence_length=2)
    (mock.paths.proc / "CORR-R0050-AGIPD05-S00000.h5").unlink()
    chosen = ("--trains", "0:2")
    process(mock, tmp_path / "first", *chosen, status=3)
    assert hits_and_misses(tmp_path / "first") == (0, 0)
    dry = ("--from-events", "--dry-run", "--sigma", "-5")
    assert rows_of(process(mock, tmp_path / "first", *dry).stdout) == {-5.0: (0, 0.0)}
    process(mock, tmp_path / "full", *chosen, "--sigma", "-5", status=3)
    rethreshold(mock, tmp_path / "first", tmp_path / "again", "--sigma", "-5", status=3)
    assert_same_outputs(tmp_path / "full", tmp_path / "again")


def test_paths_hold_in_another_folder(tmp_path, monkeypatch):
    mock = tiny_run(tmp_path / PROPOSAL, **HALF)
    region = np.ones((8, 512, 128), bool)
    with h5py.File(tmp_path / "hit.h5", "w") as file:
        file["entry_1/good_pixels"] = region
    monkeypatch.chdir(tmp_path)
    process(mock, tmp_path / "out", "--hit-mask", "hit.h5")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    process(mock, tmp_path / "out", "--from-events", "--sigma", "3")


def test_virtual_dataset_afterwards_is_refused(tmp_path):
    mock = tiny_run(tmp_path / PROPOSAL, **HALF)
    process(mock, tmp_path / "out", "--no-vds")
    done = process(mock, tmp_path / "out", "--from-events", "--vds", status=2)
    assert "xfelmpi vds does" in done.stderr


def rows_of(table: str) -> dict[float, tuple[int, float]]:
    found = re.findall(r"^ +([-\d.]+) +([\d,]+) +([\d.]+) %", table, re.M)
    return {float(s): (int(n.replace(",", "")), float(rate)) for s, n, rate in found}


@pytest.fixture(scope="module")
def hits_of_a_real_job(proc, tmp_path_factory):
    """Return what tells how many hits a whole job finds with a sigma."""
    mock, _ = proc

    @cache
    def hits(sigma):
        output = tmp_path_factory.mktemp("real")
        process(mock, output, "--sigma", sigma, status=3)
        return hits_and_misses(output)[0]

    return hits


@pytest.mark.parametrize("ranks", [0, 2])
def test_dry_run_is_what_a_real_one_gives(proc, hits_of_a_real_job, ranks, tmp_path):
    _, first = proc
    before = all_files(first)
    shutil.copytree(first, tmp_path / "out")
    # not even the run is needed
    paths = ("--prefix", tmp_path / "nowhere", "--output", tmp_path / "out")
    sigmas = ("0.5", "1.5", "4", "1e6")
    done = run_job([50, *paths, "--from-events", "--dry-run", "--sigma", *sigmas], ranks)
    assert done.returncode == 0, done.stderr
    table = rows_of(done.stdout)
    assert sorted(table) == [0.5, 1.5, 4.0]
    assert re.search(r"^ +1e\+06 +0 +0.00 %", done.stdout, re.M)
    assert all_files(first) == before == all_files(tmp_path / "out")
    with h5py.File(first / "events" / "r0050_events.h5") as file:
        n_complete = int((file["modules"][:] == 0xFF & ~(1 << 6)).sum())
    for sigma, (n_hits, rate) in table.items():
        assert hits_of_a_real_job(sigma) == n_hits
        assert rate == round(100 * n_hits / n_complete, 2)
    assert len({n for n, _ in table.values()}) > 1


def test_dry_run_with_its_own_settings(proc):
    mock, first = proc
    done = process(mock, first, "--from-events", "--dry-run", "--decide", "run")
    assert list(rows_of(done.stdout)) == [4.0]
    fixed = ("--decide", "fixed", "--fixed-threshold", "500", "--sigma", "3", "5")
    done = process(mock, first, "--from-events", "--dry-run", *fixed)
    assert len(set(rows_of(done.stdout).values())) == 1
    assert "sigma has no effect" in done.stdout


def test_dry_run_alone_is_refused(proc):
    done = process(*proc, "--dry-run", "--sigma", "3", "4", status=2)
    assert "--dry-run takes the scores from the events file: add --from-events" in done.stderr
    done = process(*proc, "--from-events", "--sigma", "3", "4", status=2)
    assert "unrecognized arguments: 4" in done.stderr


def test_configuration_comes_back_from_json():
    config = Config(
        run=7, trains=(None, 5), hit_modules=(3, 4), cell_mask="m.h5", exclude_cells=(1,), vds=False
    )
    again = Config.from_json(config.to_json())
    assert again.to_json() == config.to_json()
    assert again.exclude_cells == (1,)
    assert str(again.cell_mask) == "m.h5"
    with pytest.raises(ValueError, match="another version: unknown colour"):
        Config.from_json('{"run": 7, "colour": 3}')
    with pytest.raises(ValueError, match="no configuration: '3'"):
        Config.from_json("3")
