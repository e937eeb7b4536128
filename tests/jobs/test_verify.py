"""Checking finished outputs: all is well with good ones, and one thing changed is found."""

import json
import os
import re
import shutil
import signal

import h5py
import numpy as np
import pytest
from changes import (
    add_one,
    attribute,
    emc_number,
    flip,
    mask_a_pixel,
    move_photon,
    own,
    replace,
    swap,
)
from launch import call_xfelmpi, run_job, run_xfelmpi
from mockrun import HALF, TINY_500K, TINY_RAW, tiny_raw_run, tiny_run
from stopped import run_until

from xfelmpi import mpi
from xfelmpi.cli import verify as command
from xfelmpi.workflows.verify import cxi_frames, full_rerun, job, run_data
from xfelmpi.workflows.verify.job import check_run
from xfelmpi.workflows.verify.sample import draw, photons_of

# the smallest detector: every check reads whole frames, and there are hundreds of checks here
DEVICE = "HED_DET_AGIPD500K2G"
RUN = {**TINY_500K, "missing": ((2, 1),), "chunk_frames": 1}
ADDED = "used"
SETTINGS = ["--decide", "run", "--sigma", "2", "--with-misses"]
SETTINGS += ["--add", f"{ADDED}=SPB_XTD9_XGM/DOOCS/MAIN/pulseEnergy.wavelengthUsed"]
DETECTOR = "entry_1/instrument_1/detector_1"
EVENTS, POWDER, CXI = (
    "events/r0050_events.h5",
    "powder/r0050_powder.h5",
    "saved_hits/r0050_hits.cxi",
)
EMC, DRAGONFLY, VDS = "emc/r0050.emc", "emc/r0050_det.h5", "vds/r0050_vds_proc.h5"


def process(mock, output, *options, ranks=0, status=0):
    paths = ["--prefix", mock.options.prefix, "--output", output, "--no-report"]
    words = [50, *paths, *options]
    done = run_job(words, ranks)
    assert done.returncode == status, done.stdout + done.stderr


@pytest.fixture(scope="module")
def mock(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("verify") / "p007927", **RUN)


@pytest.fixture(scope="module")
def outputs(mock, tmp_path_factory):
    output = tmp_path_factory.mktemp("outputs")
    process(mock, output, *SETTINGS, status=3)
    return output


@pytest.fixture
def spoilt(outputs, tmp_path):
    """The outputs as links, of which `own` makes files that can be changed."""
    return shutil.copytree(outputs, tmp_path / "out", copy_function=os.link)


def asked_for(argv):
    """Return what a command line of one run asks for."""
    (config,), frames = command._parse(argv)
    return config, frames


def failures(mock, output, *options) -> dict:
    """Return what does not pass, checked in this process."""
    argv = ["50", "--prefix", str(mock.options.prefix), "--output", str(output), *options]
    return check_run(mpi.alone(), *asked_for(argv)).failed


def other_bit(file):
    file[f"{DETECTOR}/mask"][0, 0, 0, 0] |= 4


def no_problems(file):
    table = file["problems"][:0]
    del file["problems"]
    file["problems"] = table


def size_of_no_hit(file):
    file["diameter"][np.flatnonzero(~file["is_hit"][()])[0]] = 5e-8


def other_size(file):
    hit = np.flatnonzero(file["is_hit"][()])[0]
    file["diameter"][hit] = 1.5 * file["diameter"][hit]


def odd_laser(file):
    file["pumped"] = np.full(len(file["trainId"]), 7, "u1")


def no_words(file):
    row = file["problems"][0]
    row["what"] = b""
    file["problems"][0] = row


def no_link(file):
    del file["entry_1/data_1/data"]


def not_good(file):
    never = np.argwhere(file["powder"][()] > 0)[0]
    file["good_frames"][tuple(never)] = 0


ROWS, SHAPES = "CXI: rows are those of the events", "CXI: shapes"
SINGLES = "CXI: powder, background, geometry"
DECISION = "events: hits and misses by scores and settings"
PHOTONS = "powder: photons are those of the events"
PARTS = "powder: hits and misses are parts of all"
FRAMES_OF_EMC = 1024 // 4
DAMAGE = {
    "a short column": (EVENTS, replace("wavelength", lambda v: v[:-1]), "events: columns"),
    "another type": (EVENTS, replace("hitscore", lambda v: v.astype("f8")), "events: columns"),
    "no unit": (EVENTS, attribute("units", None, "pulse_energy"), "events: columns"),
    "rows swapped": (EVENTS, swap("cellId"), "events: rows ascend by train and cell"),
    "row twice": (EVENTS, replace("cellId", lambda v: v[[0, 0, *range(2, len(v))]]),
                  "events: rows ascend by train and cell"),
    "photons": (EVENTS, add_one("photons"), PHOTONS),
    "peak": (EVENTS, replace("sums/peak", lambda v: v * 0), "events: sums fit each other"),
    "ones": (EVENTS, replace("sums/ones", lambda v: v + 999999), "events: sums fit each other"),
    "entries": (EVENTS, replace("sums/entries", lambda v: v * 0), "events: sums fit each other"),
    "module 5": (EVENTS, replace("modules", lambda v: v | 32), "events: sums fit each other"),
    "score": (EVENTS, add_one("hitscore"), "events: sums fit each other"),
    "hit": (EVENTS, flip("is_hit", 3), DECISION),
    "miss": (EVENTS, flip("is_miss", 3), DECISION),
    "threshold": (EVENTS, add_one("hit_threshold"),
                  DECISION),
    "laser": (EVENTS, odd_laser, "events: pulses of the frames"),
    "size of no hit": (EVENTS, size_of_no_hit, "analyses: columns"),
    "another size": (EVENTS, other_size, "analyses: some hits once more"),
    "no problems": (EVENTS, no_problems, "events: problems"),
    "a problem without words": (EVENTS, no_words, "events: problems"),
    "powder": (POWDER, add_one("powder", (0, 0, 0)), PHOTONS),
    "powder of hits": (POWDER, add_one("powder_hits", (0, 0, 0)),
                       PHOTONS),
    "photon elsewhere": (POWDER, move_photon("powder"), SINGLES),
    "photon of hits elsewhere": (POWDER, move_photon("powder_hits"), cxi_frames.POWDER),
    "photon of misses elsewhere": (POWDER, move_photon("powder_misses"), cxi_frames.POWDER),
    "good frames of hits": (POWDER, add_one("good_frames_hits", (0, 0, 0)), cxi_frames.POWDER),
    "never good": (POWDER, not_good, PARTS),
    "powder unit": (POWDER, attribute("units", "frames", "powder"), "powder: shapes"),
    "hits swapped": (CXI, swap("entry_1/cellId"), ROWS),
    "index": (CXI, add_one("entry_1/vds_index"), ROWS),
    "photon counts": (CXI, add_one(f"{DETECTOR}/photon_counts"),
                      ROWS),
    "weighting": (CXI, add_one(f"{DETECTOR}/background_weighting"),
                  ROWS),
    "background of a hit": (CXI, add_one(f"{DETECTOR}/background_index"),
                            ROWS),
    "name of a hit": (CXI, replace("entry_1/experiment_identifier", lambda v: v[::-1]),
                      ROWS),
    "misses swapped": (CXI, swap("entry_2/trainId", "entry_2/cellId"),
                       ROWS),
    "frames swapped": (CXI, swap(f"{DETECTOR}/data"), cxi_frames.SUMS),
    "a photon more": (CXI, add_one(f"{DETECTOR}/data", (0, 0, 0, 0)), cxi_frames.SUMS),
    "photon of a hit elsewhere": (CXI, move_photon(f"{DETECTOR}/data"), cxi_frames.EMC),
    "lit pixel masked": (CXI, mask_a_pixel, cxi_frames.MASKS),
    "foreign bit": (CXI, other_bit, cxi_frames.MASKS),
    "no link": (CXI, no_link, "CXI: structure"),
    "another class": (CXI, attribute("NX_class", "NXentry", DETECTOR), "CXI: structure"),
    "axes": (CXI, attribute("axes", None, f"{DETECTOR}/mask"), "CXI: structure"),
    "energy in eV": (CXI, attribute("units", "eV", "entry_1/instrument_1/source_1/photon_energy"),
                     "CXI: structure"),
    "a mask less": (CXI, replace(f"{DETECTOR}/mask", lambda v: v[:-1]), SHAPES),
    "other counts": (CXI, replace(f"{DETECTOR}/data", lambda v: v.astype("u4")), SHAPES),
    "background": (CXI, add_one(f"{DETECTOR}/background", (0, 0, 0)),
                   SINGLES),
    "no good pixels": (CXI, replace(f"{DETECTOR}/good_pixels", np.zeros_like),
                       SINGLES),
    "command": (CXI, replace("entry_1/process_1/command", lambda _: np.bytes_("other")),
                "CXI: processing step"),
    "distance": (CXI, replace(f"{DETECTOR}/xyz_map", lambda v: v * 2), "Dragonfly: detector"),
    "mask of the detector": (DRAGONFLY, replace("mask", lambda v: v ^ 2), "Dragonfly: detector"),
    "q": (DRAGONFLY, add_one("qx"), "Dragonfly: detector"),
    "hits in the EMC": (EMC, emc_number(0, -1), "EMC: header"),
    "pixels in the EMC": (EMC, emc_number(1, 1), "EMC: header"),
    "ones in the EMC": (EMC, emc_number(FRAMES_OF_EMC, 1), "EMC: header"),
    "a place in the EMC": (EMC, emc_number(FRAMES_OF_EMC + 100, 1), cxi_frames.EMC),
    "a count in the EMC": (EMC, emc_number(-1, 1), cxi_frames.EMC),
    "trains of the VDS": (VDS, add_one(f"INSTRUMENT/{DEVICE}/DET/image/trainId"),
                          "VDS: frames and sources"),
    "no job": (POWDER, attribute("job_id", None), "provenance: complete"),
    "no end": (VDS, attribute("end_time", None), "provenance: complete"),
    "end before start": (CXI, attribute("end_time", "2020-01-01T00:00:00+00:00"),
                         "provenance: complete"),
    "another run": (DRAGONFLY, attribute("run", 51), "provenance: complete"),
    "another job": (POWDER, attribute("job_id", "0"), "provenance: one job"),
    "other settings": (CXI, attribute("configuration", "{}"), "provenance: one job"),
    "profiles not asked for": (CXI, lambda file: file.create_group("entry_1/radial_profile"),
                               "CXI: radial profiles"),
}  # fmt: skip

ANALYSES = ("analyses: columns", "analyses: some hits once more")
CONSEQUENCES = {
    "rows swapped": [ROWS, "VDS: frames and sources"],
    "row twice": ["VDS: frames and sources"],
    "photons": [cxi_frames.SUMS, ROWS],
    "peak": [cxi_frames.SUMS],
    "ones": [cxi_frames.SUMS],
    # a type that is not that of counts is refused by whoever reads the file back
    "other counts": [SINGLES, "Dragonfly: detector", *ANALYSES],
    "module 5": [ROWS, DECISION],
    "score": [ROWS, DECISION],
    "hit": [
        *(ROWS, SHAPES, "Dragonfly: detector", "EMC: header", PHOTONS),
        *ANALYSES,
    ],
    "another size": ["analyses: columns"],
    "background": ["Dragonfly: detector"],
    "miss": [ROWS, SHAPES, PHOTONS, PARTS],
    "powder": [SINGLES],
    "powder of hits": [SINGLES, PARTS, cxi_frames.POWDER],
    "photon elsewhere": [PARTS],
    "photon of hits elsewhere": [SINGLES, PARTS],
    "photon of misses elsewhere": [PARTS],
    "good frames of hits": [PARTS],
    "never good": [SINGLES],
    "frames swapped": [cxi_frames.EMC, "analyses: some hits once more"],
    "a photon more": [cxi_frames.EMC, cxi_frames.POWDER],
    "photon of a hit elsewhere": [cxi_frames.POWDER],
    "lit pixel masked": [cxi_frames.POWDER],
    "foreign bit": [cxi_frames.POWDER],
    "no job": ["provenance: one job"],
    "a mask less": [SINGLES, "Dragonfly: detector", *ANALYSES],
    "distance": ["analyses: some hits once more"],
    "weighting": ["analyses: some hits once more", "Dragonfly: detector"],
}
"""Of some changes: the other checks that fail, too."""


@pytest.mark.parametrize("name", DAMAGE)
def test_one_thing_changed_is_found(name, mock, spoilt, quiet):
    file, change, check = DAMAGE[name]
    path = own(spoilt / file)
    if file == EMC:
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)
    else:
        with h5py.File(path, "r+") as opened:
            change(opened)
    failed = failures(mock, spoilt, "--frames", "0")
    assert check in failed, failed
    # all other checks pass, but for those that compare with the same thing
    assert set(failed) == {check} | set(CONSEQUENCES.get(name, ())), failed


def test_nothing_changed_passes(mock, outputs, quiet):
    results = check_run(
        mpi.alone(),
        *asked_for(["50", "--prefix", str(mock.options.prefix), "--output", str(outputs)]),
    )
    assert results.failed == {}
    # every check that is known has been done
    names = {name for name, *_ in job._CHECKS} | {cxi_frames.SUMS, cxi_frames.MASKS}
    names |= {cxi_frames.POWDER, cxi_frames.EMC, run_data.FRAMES, run_data.MASKS}
    assert results.n_checks == len(names) + 2
    assert not results.notes
    # these: test_classes.py, test_verify_selection.py
    elsewhere = {run_data.FRAMES, run_data.MASKS, "classes: columns", job.FOLDER}
    assert {check for *_, check in DAMAGE.values()} == names - elsewhere


@pytest.mark.parametrize("file", [POWDER, CXI, EMC, DRAGONFLY])
def test_missing_files(file, mock, spoilt, quiet):
    (spoilt / file).unlink()
    failed = failures(mock, spoilt, "--frames", "0")
    check = {EMC: "EMC: header", DRAGONFLY: "Dragonfly: detector"}.get(file, job.FILES)
    assert list(failed) == [check]


@pytest.mark.parametrize("file", [EVENTS, POWDER, CXI, DRAGONFLY, VDS])
def test_files_cut_short(file, mock, spoilt, quiet):
    path = own(spoilt / file)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert job.FILES in failures(mock, spoilt, "--frames", "0")


def put(file, name, values):
    """Put other values in place of a dataset, or nothing for None."""
    attributes = dict(file[name].attrs)
    # HDF5 cannot free chunks that are shared
    file[f"old_{name.rpartition('/')[2]}"] = file[name]
    del file[name]
    if values is not None:
        file[name] = values
        file[name].attrs.update(attributes)


def shortened(values):
    return values[:-1] if np.ndim(values) else np.stack([values, values])


def of_another_type(values):
    return np.zeros(np.shape(values), "S3" if values.dtype.kind in "fiub" else "f4")


FRAMES = (f"{DETECTOR}/data", f"{DETECTOR}/mask")
"""All of the CXI file that frames of the run are compared with."""

WAYS = {"missing": lambda values: None, "too short": shortened, "another type": of_another_type}


def datasets_of(path):
    """Return the names of all datasets of a file."""
    names = []

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            names.append(name)

    with h5py.File(path) as file:
        file.visititems(visit)
    return names


@pytest.mark.parametrize("file", [EVENTS, POWDER, CXI, DRAGONFLY, VDS])
def test_any_dataset_damaged_is_a_failed_check(file, mock, spoilt, quiet):
    """Never a traceback, whatever is missing, too short or of another type."""
    data = (spoilt / file).read_bytes()
    path = own(spoilt / file)
    for i, name in enumerate(datasets_of(path)):
        # all ways where the others, or the run, are compared with it
        compared = file == EVENTS or name in FRAMES
        for way in [*WAYS] if compared else [[*WAYS][i % len(WAYS)]]:
            path.write_bytes(data)
            with h5py.File(path, "r+") as opened:
                values = opened[name][()] if opened[name].size < 1 << 24 else np.zeros(1, "u1")
                put(opened, name, WAYS[way](np.asarray(values)))
            # raises if anything but a finding comes of it
            failed = failures(mock, spoilt, "--frames", "2" if compared else "0")
            # nothing tells how many problems there were, or what stands only in the CXI file
            unseen = file == CXI or (name, way) == ("problems", "too short")
            assert failed or unseen, (name, way)


@pytest.mark.parametrize(("way", "ranks"), [("missing", 3), ("too short", 0)])
def test_damaged_columns_of_the_events(way, ranks, mock, spoilt):
    name = ADDED if way == "missing" else "photons"
    with h5py.File(own(spoilt / EVENTS), "r+") as file:
        put(file, name, WAYS[way](file[name][()]))
    argv = ["verify", 50, "--prefix", mock.options.prefix, "--output", spoilt]
    done = run_job(argv, ranks)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(r"events: columns +FAILED", done.stdout)
    assert re.search(r"powder: shapes +ok", done.stdout)
    assert "note: not checked: what needs the columns of the events file" in done.stdout
    assert "EMC" not in done.stdout


@pytest.mark.parametrize("call", [2, 3, 4, 5])
def test_killed_while_files_get_their_names(call, mock, outputs, quiet, tmp_path):
    """Events, powder, CXI, EMC and detector file, one after the other: the others are old ones."""
    output = shutil.copytree(outputs, tmp_path / "out")
    paths = ["--prefix", mock.options.prefix, "--output", output, "--no-report"]
    # with fewer hits
    words = [50, *paths, *SETTINGS, "--sigma", "4"]
    where = "io.publish:_Renaming._keep_old"
    done = run_until(tmp_path, words, 0, signal.SIGKILL, where, call=call)
    assert done.returncode not in (0, 2, 3), done.stdout + done.stderr
    argv = ["50", "--prefix", str(mock.options.prefix), "--output", str(output), "--frames", "0"]
    results = check_run(mpi.alone(), *asked_for(argv))
    assert "provenance: one job" in results.failed
    named = {f.file for f in results.failed["provenance: one job"] if f.text.startswith("job_id")}
    old = [POWDER, CXI, EMC, DRAGONFLY][call - 2 :]
    assert named == {name.rpartition("/")[2] for name in old if name != EMC}
    left = [note for note in results.notes if "left by a job that did not end" in note]
    # what has no name yet, and what stood there before for those that have one
    assert len(left) == len([*old, VDS]) + call - 1


def test_attributes_that_are_missing(mock, spoilt, quiet):
    path = own(spoilt / EVENTS)
    with h5py.File(path, "r+") as file:
        del file.attrs["data"]
    assert list(failures(mock, spoilt)) == [job.FILES]


def test_sources_of_the_vds(mock, spoilt, quiet):
    with h5py.File(spoilt / VDS) as file:
        image = file[f"INSTRUMENT/{DEVICE}/DET/image"]
        assert image["data"].virtual_sources()
    victim = mock.options.prefix / "proc" / "r0050" / "CORR-R0050-AGIPD04-S00000.h5"
    kept = victim.rename(victim.with_suffix(".away"))
    try:
        assert "VDS: frames and sources" in failures(mock, spoilt, "--frames", "0")
    finally:
        kept.rename(victim)


def in_the_run(folder, change):
    """Change one file of the run."""
    with h5py.File(folder / "proc" / "r0050" / "CORR-R0050-AGIPD04-S00000.h5", "r+") as file:
        change(file)
    return folder


def photon_in_a_frame(file):
    file[f"INSTRUMENT/{DEVICE}/CORR/4CH0:output/image/data"][2, 0, 0] += 1


def ids_swapped(file):
    image = file[f"INSTRUMENT/{DEVICE}/CORR/4CH0:output/image"]
    for name in ("cellId", "pulseId"):
        image[name][0], image[name][1] = image[name][1], image[name][0]


def chunk_broken(file):
    data = file[f"INSTRUMENT/{DEVICE}/CORR/4CH0:output/image/data"]
    data.id.write_direct_chunk((1, 0, 0), b"no deflate stream")


def test_frames_that_the_job_could_not_read(mock, quiet, tmp_path):
    """A chunk that does not inflate, one that was never written: both say so."""
    folder = shutil.copytree(mock.options.prefix, tmp_path / "p007927")

    def damage(file):
        image = file[f"INSTRUMENT/{DEVICE}/CORR/4CH0:output/image"]
        values, attributes = image["data"][:], dict(image["data"].attrs)
        del image["data"]
        data = image.create_dataset("data", values.shape, "u1", chunks=(1, 512, 128), shuffle=True,
                                    compression="gzip")  # fmt: skip
        data.attrs.update(attributes)
        data[3:] = values[3:]
        chunk_broken(file)

    in_the_run(folder, damage)
    paths = ["--prefix", folder, "--output", tmp_path / "out"]
    done = run_job([50, *paths, "--no-report"])
    assert done.returncode == 3, done.stderr
    with h5py.File(tmp_path / "out" / EVENTS) as file:
        texts = {row["what"] for row in file["problems"]}
    assert any(b"never written" in text for text in texts), texts
    assert any(b"inflate" in text for text in texts), texts
    for how in (["--frames", "100"], ["--all"]):
        argv = ["50", *map(str, paths), *how]
        assert check_run(mpi.alone(), *asked_for(argv)).failed == {}


@pytest.mark.parametrize("change", [photon_in_a_frame, ids_swapped, chunk_broken])
@pytest.mark.parametrize("how", [["--frames", "100"], ["--all"]])
def test_the_run_says_otherwise(how, change, mock, spoilt, quiet, tmp_path):
    """As if the job had read it wrongly."""
    folder = shutil.copytree(mock.options.prefix, tmp_path / "p007927")
    in_the_run(folder, change)
    argv = ["50", "--prefix", str(folder), "--output", str(spoilt), *how]
    failed = check_run(mpi.alone(), *asked_for(argv)).failed
    if how == ["--all"]:
        assert full_rerun.SUMS in failed
        assert (full_rerun.POWDER in failed) == (change is not ids_swapped)
        assert full_rerun.HITS not in failed
    else:
        assert [name for name in failed if name.startswith(job.SAMPLE)], failed


@pytest.mark.parametrize(
    ("file", "change", "check"),
    [
        (EVENTS, add_one("pulse_energy", 5), run_data.FRAMES),
        (EVENTS, add_one("pulseId", 5), run_data.FRAMES),
        (EVENTS, attribute("masks_digest", "0"), run_data.MASKS),
        (EVENTS, replace("trainId", lambda v: v[:-1]), job.COLUMNS),
        (POWDER, move_photon("powder"), full_rerun.POWDER),
        (CXI, move_photon(f"{DETECTOR}/data"), full_rerun.HITS),
        (CXI, move_photon("entry_2/instrument_1/detector_1/data"), full_rerun.HITS),
        (EVENTS, flip("is_miss", 3), full_rerun.DECISION),
    ],
)
def test_outputs_against_all_of_the_run(file, change, check, mock, spoilt, quiet):
    with h5py.File(own(spoilt / file), "r+") as opened:
        change(opened)
    failed = failures(mock, spoilt, "--all")
    assert check in failed, failed


def test_a_hit_of_the_sample(mock, spoilt, quiet):
    with h5py.File(own(spoilt / CXI), "r+") as file:
        move_photon(f"{DETECTOR}/data")(file)
    failed = failures(mock, spoilt, "--frames", "100")
    (name,) = (name for name in failed if name.startswith(job.SAMPLE))
    assert [f.file for f in failed[name]] == ["r0050_hits.cxi"]


def test_run_that_is_gone(mock, spoilt, quiet, tmp_path):
    argv = ["50", "--prefix", str(tmp_path / "p007927"), "--output", str(spoilt)]
    results = check_run(mpi.alone(), *asked_for(argv))
    assert job.RUN in results.failed
    assert "--frames 0 checks without the run" in results.notes


@pytest.mark.parametrize(
    ("options", "settings", "again"),
    [
        ({"masked_pixels": 0.01, "masked_at_times": 0.002}, ["--mask", "run", "--bin", "4"], []),
        (
            {"dtype": "f4", "adu_per_photon": 60.0},
            ["--adu-per-photon", "60", "--hit-modules", "3"],
            ["--sigma", "1"],
        ),
        (
            {"hit_rate": 0.0},
            ["--score", "photons", "--decide", "fixed", "--fixed-threshold", "1e9"],
            [],
        ),
        (None, ["--data", "raw", "--adu-per-photon", "60", "--common-mode", "asic"], []),
    ],
)
def test_other_outputs_pass(options, settings, again, tmp_path):
    """Under mpirun and alone, on a sample and on all frames."""
    folder = tmp_path / "p007927"
    few = {**HALF, "trains": 2, "cells": (1, 2, 3, 5)}
    if options is None:
        run = tiny_raw_run(folder, absent_modules=tuple(range(3, 16)), **TINY_RAW | {"trains": 2})
        settings = [*settings, "--constants", run.paths.constants]
    else:
        run = tiny_run(folder, **few, **options)
    paths = ["--prefix", folder, "--output", tmp_path / "out"]
    first = run_job([50, *paths, "--no-report", *settings])
    assert first.returncode in (0, 3), first.stderr
    if again:
        done = run_job([50, *paths, "--no-report", "--from-events", *again])
        assert done.returncode in (0, 3), done.stderr
    for how, ranks in ((["--all"], 2), (["--frames", "5"], 0)):
        done = run_job(["verify", 50, *paths, *how], ranks)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "checks passed" in done.stdout
        assert "FAILED" not in done.stdout


@pytest.mark.parametrize("ranks", [0, 3])
def test_what_a_user_sees(ranks, mock, spoilt):
    paths = ["--prefix", mock.options.prefix, "--output", spoilt]
    (spoilt / "powder" / "r0050_powder.h5.part").write_text("")
    with h5py.File(own(spoilt / CXI), "r+") as file:
        file[f"{DETECTOR}/photon_counts"][1] += 1
    done = run_job(["verify", 50, *paths, "--frames", "5"], ranks)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.endswith(" FAILED")] == [
        f"{'CXI: rows are those of the events':48} FAILED"
    ]
    n_checks = sum(line.endswith((" ok", " FAILED")) for line in lines)
    assert f"1 of {n_checks} checks FAILED:" in lines
    (found,) = (line for line in lines if "photon_counts" in line)
    assert found.startswith(
        "    r0050_hits.cxi: entry_1/instrument_1/detector_1/photon_counts: 1 of "
    )
    assert "row 1 first: found " in found
    assert any(line.startswith("note: ") and ".part" in line for line in lines)


def test_several_runs(mock, spoilt):
    """One after the other; the worst of them counts."""
    prefix = ("--prefix", mock.options.prefix, "--output", spoilt, "--frames", "0")
    for path in [path for path in spoilt.rglob("r0050*") if path.is_file()]:
        os.link(path, path.with_name(path.name.replace("r0050", "r0051")))
    done = call_xfelmpi(["verify", "50-51", *prefix])
    said = done.stdout + done.stderr
    assert "run 50:" in said
    assert "run 51:" in said
    # files of run 50 are no files of run 51
    assert done.returncode == 1
    assert call_xfelmpi(["verify", "50", *prefix]).returncode == 0
    done = call_xfelmpi(["verify", "50", "50", *prefix])
    assert "run 50 is given more than once" in done.stderr


def test_wrong_use(mock, outputs):
    paths = ["--prefix", mock.options.prefix, "--output", outputs]
    done = run_xfelmpi(["verify", 51, *paths], 2)
    assert done.returncode == 2
    assert "r0051_events.h5: no such file; process the run first" in done.stderr
    for options in (["--all", "--frames", "5"], ["--frames", "-1"]):
        done = call_xfelmpi(["verify", 50, *paths, *options])
        assert done.returncode == 2
        assert "--frames" in done.stderr


def test_other_settings_do_not_matter(mock, outputs, quiet, tmp_path):
    """Those that the outputs were made with are in them."""
    settings = tmp_path / "night.toml"
    settings.write_text(f'sigma = 7\nmiss_fraction = 0\nprefix = "{mock.options.prefix}"\n')
    argv = ["50", "--config", str(settings), "--output", str(outputs), "--frames", "0"]
    assert check_run(mpi.alone(), *asked_for(argv)).failed == {}


def test_files_that_have_changed_since(mock, spoilt, quiet):
    """Masks, constants and geometry: a note, because the outputs are what they were."""
    about = json.dumps([
        {"role": "global mask", "path": "/nowhere/mask.h5", "size": 1, "mtime": None, "sha256": ""},
    ])  # fmt: skip
    with h5py.File(own(spoilt / EVENTS), "r+") as file:
        file.attrs["used_files"] = about
    argv = ["50", "--prefix", str(mock.options.prefix), "--output", str(spoilt), "--frames", "0"]
    results = check_run(mpi.alone(), *asked_for(argv))
    assert not results.failed
    assert results.notes == ["global mask /nowhere/mask.h5 is not there any more"]


def test_own_masks_whose_source_is_gone(tmp_path, quiet):
    """Frames without their mask are missing; the check does not take zeros for it either."""
    few = {**HALF, "trains": 2, "cells": (1, 2, 3)}
    mock = tiny_run(tmp_path / "p007927", **few, with_mask=True)
    path = mock.paths.proc / "CORR-R0050-AGIPD04-S00000.h5"
    name = f"INSTRUMENT/{HALF['detector']}/CORR/4CH0:output/image/mask"
    with h5py.File(path, "r+") as file, h5py.File(tmp_path / "masks.h5", "w") as other:
        old = file[name]
        # a mask that was there: half of the frames are read with it
        other["mask"] = old[:3] | 1
        layout = h5py.VirtualLayout(old.shape, old.dtype)
        layout[:3] = h5py.VirtualSource(str(tmp_path / "masks.h5"), "mask", other["mask"].shape)
        gone = old[3:].shape
        layout[3:] = h5py.VirtualSource(str(tmp_path / "gone.h5"), "mask", gone)
        del file[name]
        file.create_virtual_dataset(name, layout)
    process(mock, tmp_path / "out", "--mask", "run", status=3)
    assert failures(mock, tmp_path / "out", "--frames", "100") == {}
    with h5py.File(tmp_path / "out" / EVENTS) as file:
        assert (file["modules"][:] >> 4 & 1).tolist() == [1, 1, 1, 0, 0, 0]


def test_the_sample():
    is_hit = np.zeros(1000, bool)
    is_hit[::100] = True
    everything = np.ones(1000, bool)
    rows = draw(is_hit, everything, 100)
    assert (np.diff(rows) > 0).all()
    assert 100 <= len(rows) <= 110
    assert is_hit[rows].sum() == 10
    np.testing.assert_array_equal(rows, draw(is_hit, everything, 100))
    assert draw(is_hit, everything, 5000).tolist() == list(range(1000))
    assert len(draw(np.zeros(3, bool), np.ones(3, bool), 2)) == 2
    assert draw(is_hit, is_hit, 100).tolist() == np.flatnonzero(is_hit).tolist()


def test_photons_of_the_sample():
    values = np.array([-1, 0, 0.69, 0.7, 1.69, 1.71, np.nan, np.inf, -np.inf, 7e4], np.float32)
    photons, bad = photons_of(values, 1.0, 0.7)
    assert photons.tolist() == [0, 0, 0, 1, 1, 2, 0, 0, 0, 0]
    assert np.flatnonzero(bad).tolist() == [6, 7, 8, 9]
    photons, bad = photons_of(np.array([0, 3, 65535, 65536], np.uint32), 60.0, 0.7)
    assert photons.tolist() == [0, 3, 65535, 0]
    assert bad.tolist() == [False, False, False, True]


def test_the_folder_for_dragonfly(mock, outputs, tmp_path):
    """Another job may have taken it: that is worth a note, not a failure."""
    folder = tmp_path / "recon"
    paths = ["--prefix", mock.options.prefix, "--output", tmp_path / "out"]
    done = run_job([50, *paths, *SETTINGS, "--dragonfly", folder, "--no-report"])
    assert done.returncode == 3
    link = folder / "data" / "photons.emc"
    for target, text in ((outputs / EMC, "leads to"), (tmp_path / "gone", "is not there")):
        link.unlink()
        link.symlink_to(target)
        done = run_job(["verify", 50, *paths, "--frames", "0"])
        assert done.returncode == 0, done.stdout
        (note,) = (line for line in done.stdout.splitlines() if line.startswith("note: "))
        assert f"{link} {text}" in note
