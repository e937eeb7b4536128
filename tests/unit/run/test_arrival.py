"""Whether a run is there as a whole."""

import os
import shutil

import h5py
import pytest
from arrivingruns import arrive, arriving_run
from changes import own
from runnames import file_name

from xfelmpi.core.paths import Experiment
from xfelmpi.run.arrival import (
    list_folder,
    makes_redu,
    missing_files,
    run_labels,
    stamp_files,
    unequal_ends,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    arriving_run(folder)
    return folder


@pytest.fixture
def prefix(source, tmp_path):
    for kind in ("raw", "proc"):
        shutil.copytree(source / kind, tmp_path / kind, copy_function=os.link)
    return tmp_path


def listings(prefix):
    return [list_folder(prefix / kind / "r0050", kind) for kind in ("proc", "raw")]


@pytest.mark.slow
def test_complete_run(prefix):
    proc, raw = listings(prefix)
    assert proc.sequences == raw.sequences == {m: {0, 1} for m in range(16)}
    assert missing_files(proc, raw) == missing_files(proc) == missing_files(raw) == ""
    assert unequal_ends(proc, raw, 50) == unequal_ends(raw, None, 50) == ""
    assert run_labels(proc) == ("Simulation", "Simulated spheres")


def test_files_that_lack_are_counted(prefix):
    for module in (3, 4, 9):
        (prefix / "proc" / "r0050" / file_name(module, 1)).unlink()
    proc, raw = listings(prefix)
    assert missing_files(proc, raw) == missing_files(proc) == "3 modules of sequence 1"
    (prefix / "proc/r0050/CORR-R0050-AGIPD03-S00000.h5").unlink()
    assert missing_files(*listings(prefix)) == "1 module of sequence 0, and of 1 more"


def test_module_that_the_raw_run_has_not_is_not_waited_for(prefix):
    for kind, name in (("raw", "RAW"), ("proc", "CORR")):
        for sequence in (0, 1):
            (prefix / kind / f"r0050/{name}-R0050-AGIPD15-S0000{sequence}.h5").unlink()
    proc, raw = listings(prefix)
    assert missing_files(proc, raw) == ""
    assert unequal_ends(proc, raw, 50) == ""


def test_corrected_run_without_its_last_sequence(prefix):
    """It looks complete but for the raw run."""
    for module in range(16):
        (prefix / "proc" / "r0050" / file_name(module, 1)).unlink()
    proc, raw = listings(prefix)
    assert missing_files(proc) == ""
    assert missing_files(proc, raw) == "16 modules of sequence 1"


def test_module_that_ends_early(prefix):
    path = own(prefix / "proc/r0050/CORR-R0050-AGIPD07-S00001.h5")
    with h5py.File(path, "r+") as file:
        for name in [n for n in _counts(file) if n.endswith("/image/count")]:
            file[name][-1] = 0
    proc, raw = listings(prefix)
    assert unequal_ends(proc, raw, 50) == "the last 1 train of the raw run in module 7"
    assert unequal_ends(proc, None, 50) == "the last 1 train in module 7"


def _counts(file):
    found = []
    file["INDEX"].visititems(lambda name, item: found.append(f"INDEX/{name}"))
    return found


def test_module_that_ends_early_in_the_raw_run_too(prefix):
    for kind, name in (("raw", "RAW"), ("proc", "CORR")):
        path = own(prefix / kind / f"r0050/{name}-R0050-AGIPD07-S00001.h5")
        with h5py.File(path, "r+") as file:
            for count in [n for n in _counts(file) if n.endswith("/image/count")]:
                file[count][-1] = 0
    proc, raw = listings(prefix)
    assert unequal_ends(proc, raw, 50) == ""
    assert unequal_ends(raw, None, 50) == "the last 1 train in module 7"


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_file_that_is_half_there(prefix, size):
    path = own(prefix / "proc/r0050/CORR-R0050-AGIPD02-S00001.h5")
    os.truncate(path, size)
    proc, raw = listings(prefix)
    assert missing_files(proc, raw) == ""
    assert unequal_ends(proc, raw, 50).startswith(f"{path.name}, which cannot be read")


def test_raw_file_that_cannot_be_read_asks_for_nothing(prefix):
    os.truncate(own(prefix / "raw/r0050/RAW-R0050-AGIPD02-S00001.h5"), 0)
    proc, raw = listings(prefix)
    assert unequal_ends(proc, raw, 50) == ""


def test_redu_file(prefix):
    proc, raw = listings(prefix)
    assert missing_files(proc, raw, redu=True) == "the REDU file"
    (prefix / "proc/r0050/CORR-R0050-REDU00-S00000.h5").touch()
    proc, raw = listings(prefix)
    assert missing_files(proc, raw, redu=True) == ""
    assert [makes_redu(Experiment(prefix, prefix, run)) for run in (50, 51, 53, 54)] == [
        False, True, True, False,
    ]  # fmt: skip


def test_what_is_there_of_other_names(prefix):
    folder = prefix / "proc" / "r0050"
    for name in ("RAW-R0050-AGIPD00-S00007.h5", "CORR-R0050-DA01-S00000.h5", "notes.txt", "a.h5"):
        (folder / name).touch()
    proc, raw = listings(prefix)
    assert missing_files(proc, raw) == ""
    assert list_folder(prefix / "proc" / "r0051", "proc").names == ()


def test_detector_that_is_asked_for(tmp_path):
    for name in ("AGIPD00", "DSSC00", "DSSC01"):
        (tmp_path / f"CORR-R0050-{name}-S00000.h5").touch()
    assert list_folder(tmp_path, "proc").detector == "AGIPD"
    found = list_folder(tmp_path, "proc", "SCS_DET_DSSC1M-1")
    assert (found.detector, set(found.sequences)) == ("DSSC", {0, 1})
    assert not list_folder(tmp_path, "proc", "FXE_DET_LPD1M-1").sequences


@pytest.mark.parametrize(
    ("device", "n_modules"), [("HED_DET_AGIPD500K2G", 8), ("SPB_DET_AGIPD1M-1", 16), (None, 16)]
)
def test_modules_of_detectors_with_the_same_names(tmp_path, device, n_modules):
    """Only what is in the files tells; what cannot be read may be the larger one."""
    with h5py.File(tmp_path / "CORR-R0050-AGIPD00-S00000.h5", "w") as file:
        if device:
            file[f"INDEX/{device}/CORR/0CH0:output/image/first"] = [0]
    assert list_folder(tmp_path, "proc").n_modules == n_modules
    asked_for = list_folder(tmp_path, "proc", "HED_DET_AGIPD500K2G")
    assert asked_for.n_modules == 8


def test_modules_that_count_from_1(tmp_path):
    for number in range(1, 9):
        (tmp_path / f"CORR-R0050-JNGFR{number:02}-S00000.h5").touch()
    found = list_folder(tmp_path, "proc")
    assert (found.n_modules, set(found.sequences)) == (8, set(range(8)))
    assert found.last_files[0].name == "CORR-R0050-JNGFR01-S00000.h5"


def test_stamp_changes_with_the_files(prefix, source, tmp_path):
    before = stamp_files(*listings(prefix))
    assert stamp_files(*listings(prefix)) == before
    path = own(prefix / "proc/r0050/CORR-R0050-AGIPD00-S00000.h5")
    with open(path, "ab") as file:
        file.write(b"more")
    # whatever the times say that a copy keeps
    os.utime(path, (1, 1))
    after = stamp_files(*listings(prefix))
    assert after.size == before.size + 4
    assert after.latest > before.latest


def test_pieces_in_any_order(source, tmp_path):
    """Only the last piece makes the run complete, of the raw run first."""
    files = sorted(p.relative_to(source) for p in source.rglob("*AGIPD*.h5"))
    for path in [files[-1], *files[:-1]]:
        proc, raw = listings(tmp_path)
        assert missing_files(raw) or missing_files(proc, raw), path
        arrive(source, tmp_path, [path])
    assert missing_files(*listings(tmp_path)) == ""
