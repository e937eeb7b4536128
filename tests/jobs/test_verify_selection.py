"""xfelmpi verify checks what --dragonfly and --where add: one thing changed in each is found."""

import shutil

import h5py
import numpy as np
import pytest
from changes import add_one, attribute, emc_number, flip, mask_a_pixel, move_photon, replace
from launch import call_xfelmpi, run_job
from mockrun import TINY_500K, tiny_run

from xfelmpi import mpi
from xfelmpi.cli import verify as command
from xfelmpi.output.dragonfly.hit_list import HitList
from xfelmpi.workflows.verify import job, selection
from xfelmpi.workflows.verify.job import check_run

DETECTOR = "entry_1/instrument_1/detector_1"
RUN = {**TINY_500K, "masked_pixels": 0.01, "with_mask": True}
WHERE = "lit_pixels > 0 and cellId in (1, 2, 3, 4)"
LIST = "recon/data/hits.h5"
CXI, EMC, DET = (f"scratch/merged/r0050_selected{end}" for end in ("_hits.cxi", ".emc", "_det.h5"))
BOTH = {"of the selection": ("--where", WHERE), "of all hits": ()}


def process(prefix, *options):
    # half of a detector: there is no geometry file with its distance
    settings = ("--decide", "run", "--sigma", "2", "--mask", "run", "--distance", "0.7")
    settings += ("--bin", "8", "--profiles", "--no-report", "--dragonfly", prefix / "recon")
    done = call_xfelmpi([50, "--prefix", prefix, *settings, *options])
    assert done.returncode == 3, done.stderr


@pytest.fixture(scope="module")
def prefixes(tmp_path_factory):
    """Return experiment folders with a processed run, by what its folder for Dragonfly has."""
    made = {}
    for name, options in BOTH.items():
        prefix = tmp_path_factory.mktemp("selection") / "p007927"
        tiny_run(prefix, **RUN)
        process(prefix, *options)
        made[name] = prefix
    return made


def verified(prefix):
    """Check all but the run, in this process."""
    (config,), frames = command._parse(["50", "--prefix", str(prefix), "--frames", "0"])
    return check_run(mpi.alone(), config, frames)


def failures(prefix, name, change):
    """Change a file, verify, and put it back; None: without the file.

    In place: the settings say where the folder for Dragonfly is.
    """
    path = prefix / name
    data = path.read_bytes()
    try:
        if change is None:
            path.unlink()
        elif path.suffix == ".emc":
            changed = bytearray(data)
            change(changed)
            path.write_bytes(changed)
        else:
            with h5py.File(path, "r+") as file:
                change(file)
        return set(verified(prefix).failed)
    finally:
        path.write_bytes(data)


def with_digest(change):
    """Change the list of hits as one who also corrects its digest."""

    def changed(file):
        change(file)
        columns = (file[name][()] for name in ("run", "trainId", "cellId"))
        file.attrs["digest"] = HitList(*columns, "").digest

    return changed


def add_to_scale(file):
    file["scale"][1] *= 1.001


LISTED = {
    "another run": with_digest(add_one("run")),
    "another train": with_digest(add_one("trainId")),
    "another cell": with_digest(add_one("cellId")),
    "a digest of other hits": add_one("cellId"),
    "photons of other hits": attribute("emc_digest", "0"),
    "brightness of a hit": add_to_scale,
    "brightness of one less": replace("scale", lambda v: v[:-1]),
    "no list": None,
}


@pytest.mark.parametrize("change", LISTED.values(), ids=LISTED)
@pytest.mark.parametrize("hits", BOTH)
def test_list_of_hits(hits, change, prefixes, quiet):
    assert failures(prefixes[hits], LIST, change) == {job.FOLDER}


N_HITS_OF_EMC = 0
CHANGES = {
    "photon elsewhere": (CXI, move_photon(f"{DETECTOR}/data"), selection.FRAMES),
    "pixel masked": (CXI, mask_a_pixel, selection.FRAMES),
    "foreign bit": (CXI, add_one(f"{DETECTOR}/mask", (0, 0, 0, 0)), selection.FRAMES),
    "counts of another type": (CXI, replace(f"{DETECTOR}/data", lambda v: v.astype("u2")),
                               selection.ROWS),
    "run": (CXI, add_one("entry_1/run"), selection.ROWS),
    "train": (CXI, add_one("entry_1/trainId"), selection.ROWS),
    "photons": (CXI, add_one(f"{DETECTOR}/photon_counts"), selection.ROWS),
    "weighting": (CXI, add_one(f"{DETECTOR}/background_weighting"), selection.ROWS),
    "background of a hit": (CXI, add_one(f"{DETECTOR}/background_index"), selection.ROWS),
    "size": (CXI, add_one("entry_1/sizing/diameter"), selection.ROWS),
    "unit": (CXI, attribute("units", "mm", "entry_1/sizing/diameter"), selection.ROWS),
    "profile": (CXI, add_one("entry_1/radial_profile/photons"), selection.ROWS),
    "powder": (CXI, add_one(f"{DETECTOR}/powder", (0, 0, 0)), selection.ROWS),
    "background": (CXI, add_one(f"{DETECTOR}/background", (0, 0, 0, 0)), selection.ROWS),
    "good pixel": (CXI, flip(f"{DETECTOR}/good_pixels", (0, 0, 0)), selection.ROWS),
    "position": (CXI, add_one(f"{DETECTOR}/xyz_map", (0, 0, 0, 0)), selection.ROWS),
    "distance": (CXI, replace(f"{DETECTOR}/distance", lambda v: v + 1), selection.ROWS),
    "condition": (CXI, attribute("where", "photons > 0"), selection.ORIGIN),
    "job": (CXI, attribute("job_id", "0"), selection.ORIGIN),
    "no end": (CXI, attribute("end_time", None), selection.ORIGIN),
    "class": (CXI, attribute("NX_class", "NXentry", DETECTOR), selection.ORIGIN),
    "no CXI": (CXI, None, selection.ORIGIN),
    "hits in the EMC": (EMC, emc_number(N_HITS_OF_EMC, -1), selection.EMC),
    "a place in the EMC": (EMC, emc_number(1024 // 4 + 100, 1), selection.EMC),
    "a count in the EMC": (EMC, emc_number(-1, 1), selection.EMC),
    "no EMC": (EMC, None, selection.EMC),
    "mask of the detector": (DET, replace("mask", lambda v: v ^ 2), selection.PIXELS),
    "q": (DET, add_one("qx"), selection.PIXELS),
    "background of the detector": (DET, add_one("background"), selection.PIXELS),
    "scale of the background": (DET, add_one("scale"), selection.PIXELS),
    "job of the detector": (DET, attribute("job_id", "0"), selection.PIXELS),
    "no detector": (DET, None, selection.PIXELS),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_files_of_the_selection(name, prefixes, quiet):
    file, change, check = CHANGES[name]
    failed = failures(prefixes["of the selection"], file, change)
    assert check in failed, failed
    # frames of the EMC file are compared with those of this CXI file, the list of hits with all
    others = {selection.EMC, job.FOLDER} | ({selection.ROWS} if name == "no CXI" else set())
    assert failed <= {check} | others, failed


def test_every_value_of_the_selection(prefixes, quiet):
    """No dataset can change without being named."""
    prefix, names = prefixes["of the selection"], []

    def change(file):
        def one(name, item):
            if isinstance(item, h5py.Dataset) and item.dtype.kind in "iufb":
                names.append(name)

        file.visititems(one)
        for name in names:
            row = (0,) * file[name].ndim
            value = file[name][row]
            # one more is nothing to large floats
            other = 7 if np.isnan(value) else 2 * value + 1
            file[name][row] = ~value if value.dtype == bool else other

    path = prefix / CXI
    data = path.read_bytes()
    try:
        with h5py.File(path, "r+") as file:
            change(file)
        failed = verified(prefix).failed
    finally:
        path.write_bytes(data)
    said = {finding.text for findings in failed.values() for finding in findings}
    frames = {f"{DETECTOR}/data": "frame 0, photons", f"{DETECTOR}/mask": "impossible mask bits"}
    assert len(names) > 25
    for name in names:
        assert any(frames.get(name, f"{name}: ") in text for text in said), name


@pytest.mark.parametrize("ranks", [0, 3])
def test_status_and_text(ranks, prefixes):
    prefix = prefixes["of the selection"]
    done = run_job(["verify", 50, "--prefix", prefix, "--frames", "5"], ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "note" not in done.stdout
    for name in (selection.ORIGIN, selection.ROWS, selection.FRAMES, selection.EMC, job.FOLDER):
        assert f"{name:48} ok" in done.stdout
    path = prefix / CXI
    data = path.read_bytes()
    try:
        with h5py.File(path, "r+") as file:
            move_photon(f"{DETECTOR}/data")(file)
        done = run_job(["verify", 50, "--prefix", prefix, "--frames", "0"], ranks)
    finally:
        path.write_bytes(data)
    assert done.returncode == 1
    assert f"{selection.FRAMES:48} FAILED" in done.stdout
    assert "r0050_selected_hits.cxi: frame 0, photons: 2 of 524,288 pixels differ" in done.stdout


def copied(prefixes, hits, tmp_path):
    """Return a processed run of its own; its folder for Dragonfly is the old one."""
    return shutil.copytree(prefixes[hits], tmp_path / "p007927", symlinks=True)


def test_sizes_measured_later(prefixes, tmp_path, quiet):
    """The selection is of before then: it is not compared, and a note says so."""
    prefix = copied(prefixes, "of the selection", tmp_path)
    assert call_xfelmpi(["size", 50, "--prefix", prefix]).returncode == 0
    found = verified(prefix)
    assert found.failed == {}
    assert any("is not compared: the run was patched" in note for note in found.notes)


def test_nothing_selected(prefixes, tmp_path, quiet):
    """There are no files then; older ones are found."""
    prefix = copied(prefixes, "of the selection", tmp_path)
    kept = (prefix / EMC).read_bytes()
    options = ("--from-events", "--where", "photons < 0", "--dragonfly", tmp_path / "recon")
    done = call_xfelmpi([50, "--prefix", prefix, "--no-report", *options])
    assert done.returncode == 3, done.stderr
    assert verified(prefix).failed == {}
    (prefix / EMC).write_bytes(kept)
    assert list(verified(prefix).failed) == [selection.ORIGIN]


def test_patched_pixels(prefixes, tmp_path, quiet):
    """The folder's list has the brightness on other pixels: a note, not a failure."""
    prefix = tmp_path / "p007927"
    tiny_run(prefix, **RUN)
    process(prefix)
    done = call_xfelmpi(["patch", 50, "--prefix", prefix, "--distance", "0.8"])
    assert done.returncode == 0, done.stderr
    found = verified(prefix)
    assert found.failed == {}
    assert any("is of before the files were patched" in note for note in found.notes)
    assert failures(prefix, LIST, with_digest(add_one("cellId"))) == {job.FOLDER}
