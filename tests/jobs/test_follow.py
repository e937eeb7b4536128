"""A run that is processed while it is written."""

import json
import os
import re
import shutil
import signal
import threading
import time

import h5py
import numpy as np
import pytest
from arrivingruns import arrive, raw_twin
from compare import assert_same_outputs
from launch import call_xfelmpi, limit, run_python
from mockrun import tiny_run
from stopped import run_until

from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.frame_table import FrameTable, ModuleFile
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.reduction.growing import digest_frames, digest_masks, ranges_of_trains
from xfelmpi.run import arrival
from xfelmpi.workflows import follow

pytestmark = pytest.mark.job

SEQUENCES, CELLS = 12, 3

HALF = {
    **{"run": 50, "detector": "AGIPD-500K", "dark_cells": 1},
    **{"sequence_length": 1, "with_mask": True},
}
MASK = "INSTRUMENT/HED_DET_AGIPD500K2G/CORR/4CH0:output/image/mask"

QUICK = """
import sys
from xfelmpi.core import shutdown
shutdown.watch()
from xfelmpi.run import arrival
from xfelmpi.workflows import follow
follow.LOOK_EVERY, arrival.SETTLED_AFTER = 0.1, 1.0
from xfelmpi.__main__ import main
sys.exit(main())
"""
"""The program, but for the time after which it takes files for finished."""

SHARED = """
from xfelmpi.mpi import shared_array
from xfelmpi.workflows import follow
class Rounds(follow._Rounds):
    def another(self):
        print("shared by now:", shared_array._room.promised, flush=True)
        return super().another()
follow._Rounds = Rounds
"""
"""Tells before every round what the ranks of the node hold together."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of 12 sequences, its files by sequence."""
    folder = tmp_path_factory.mktemp("source")
    tiny_run(folder, trains=SEQUENCES, cells=tuple(range(1, 1 + CELLS)), **HALF)
    raw_twin(folder, 50)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*R0050*.h5"))
    return folder, [[p for p in files if p.stem.endswith(f"S{n:05}")] for n in range(SEQUENCES)]


def assert_as_of_a_plain_job(prefix):
    """Assert that the outputs are those of a job on the finished run."""
    output = prefix / "plain"
    done = call_xfelmpi([50, "--prefix", prefix, "--output", output, "--no-report"])
    assert done.returncode == 0, done.stderr
    assert_same_outputs(prefix / "scratch", output)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(follow, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(arrival, "SETTLED_AFTER", 0.5)


def frames_of(prefix):
    with h5py.File(prefix / "scratch" / "events" / "r0050_events.h5") as file:
        return len(file["trainId"])


class Facility(threading.Thread):
    """Writes the run: the next step when the report shows the sequences of the one before.

    Parameters
    ----------
    source : (Path, list)
    prefix : Path
    steps : list of int
        Sequences that each step writes.
    wait_for : callable, optional
        Waits for a number of sequences, otherwise than by the report. It has to be known when the
        thread starts: on a busy machine that has written the first step before its maker goes on.
    """

    def __init__(self, source, prefix, steps, wait_for=None):
        super().__init__()
        self.folder, self.sequences = source
        self.prefix, self.steps, self.seen = prefix, steps, []
        self.wait_for = wait_for or self.wait_for_report
        self.sequences = self.sequences[: sum(steps)]
        # the raw run is there as a whole: correction follows it
        self.write([p for files in self.sequences for p in files if p.parts[0] == "raw"])
        self.start()

    def write(self, files):
        arrive(self.folder, self.prefix, files)

    def run(self):
        n = 0
        for step in self.steps:
            files = [p for s in self.sequences[n : n + step] for p in s if p.parts[0] == "proc"]
            # half of the modules first: this is no sequence yet
            self.write(files[: len(files) // 2])
            self.write(files[len(files) // 2 :])
            n += step
            if n < len(self.sequences):
                self.wait_for(n)

    def wait_for_report(self, n):
        about = self.prefix / "scratch" / "report" / "r0050.json"
        end = time.monotonic() + limit(60)
        while time.monotonic() < end:
            if about.exists() and (said := json.loads(about.read_text()))["frames"] == CELLS * n:
                page = about.with_suffix(".html").read_text()
                assert f"still being written: {said['message']}" in page
                self.seen.append((n, said["status"], said["message"], said["hits"]))
                return
            time.sleep(0.05)


def frames_read(said):
    """Return how many frames every round has read, by its log."""
    read = []
    for about in re.split(r"^run: (?=[\d,]+ frames)", said, flags=re.MULTILINE)[1:]:
        done = re.search(r"^resume: ([\d,]+) of", about, re.MULTILINE)
        total = about.split()[0]
        read.append(int(total.replace(",", "")) - (int(done[1].replace(",", "")) if done else 0))
    return read


def test_run_is_followed_to_its_end(source, tmp_path, quick):
    """Every sequence is in the report before the next one comes, and is read once."""
    facility = Facility(source, tmp_path, [1, 2, 3, 6])
    done = call_xfelmpi([50, "--prefix", tmp_path, "--follow", "--follow-timeout", "2m"])
    facility.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert [seen[:3] for seen in facility.seen] == [
        (n, "followed", f"{n} sequence{'s' * (n > 1)} so far") for n in (1, 3, 6)
    ]
    assert facility.seen[-1][3] > 0
    read = frames_read(done.stdout)
    assert sum(read) == CELLS * SEQUENCES, done.stdout
    assert max(read) <= 6 * CELLS
    assert_as_of_a_plain_job(tmp_path)
    for left in ("follow", "checkpoint"):
        assert not (tmp_path / "scratch" / left).exists()
    about = json.loads((tmp_path / "scratch/report/r0050.json").read_text())
    assert (about["status"], about["frames"]) == ("0", CELLS * SEQUENCES)
    assert 'data-refresh="10"' not in (tmp_path / "scratch/report/r0050.html").read_text()


def test_on_several_ranks(source, tmp_path):
    facility = Facility(source, tmp_path, [1, 3], frames_in(tmp_path))
    args = [50, "--prefix", tmp_path, "--follow", "--no-report"]
    done = run_python(["-c", SHARED + QUICK, *args], 2, seconds=limit(60))
    facility.join()
    assert done.returncode == 0, done.stdout + done.stderr
    shared = re.findall(r"^shared by now: (\d+)", done.stdout, re.MULTILINE)
    assert len(shared) >= 3
    assert set(shared) == {"0"}, "masks of earlier rounds are still held"
    assert sum(frames_read(done.stdout)) == CELLS * 4, done.stdout
    assert_as_of_a_plain_job(tmp_path)


def test_error_of_a_round_ends_all_ranks(source, tmp_path):
    folder, sequences = source
    arrive(folder, tmp_path, [p for files in sequences[:2] for p in files if "raw" in p.parts])
    arrive(folder, tmp_path, [p for p in sequences[0] if "proc" in p.parts])
    args = [50, "--prefix", tmp_path, "--follow", "--no-report", "--exclude-cells", "400"]
    done = run_python(["-c", QUICK, *args], 2, seconds=limit(30))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "xfelmpi: error (rank 0): --exclude-cells" in done.stderr
    assert "nothing to show yet" not in done.stdout


def wait_for_frames(prefix, n):
    end = time.monotonic() + limit(60)
    while time.monotonic() < end:
        try:
            if frames_of(prefix) == n:
                return
        except OSError:
            pass
        time.sleep(0.05)


def frames_in(prefix):
    return lambda n: wait_for_frames(prefix, CELLS * n)


def test_killed_and_continued(source, tmp_path, quick):
    """What it had read before is not read again, on any number of ranks."""
    args = [50, "--prefix", tmp_path, "--follow", "--no-report"]

    def kill_later(n):
        wait_for_frames(tmp_path, CELLS * n)
        if n == 2:
            for lock in (tmp_path / "scratch" / "lock").glob("r0050.lock"):
                os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)

    facility = Facility(source, tmp_path, [2, 2], kill_later)
    killed = run_python(["-c", QUICK, *args], 3, seconds=limit(60))
    assert killed.returncode not in (0, 2, 3), killed.stdout + killed.stderr
    done = call_xfelmpi([*args, "--resume"])
    facility.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(frames_read(done.stdout)) == CELLS * 2, done.stdout
    assert_as_of_a_plain_job(tmp_path)


def test_stopped_while_it_waits(source, tmp_path):
    """No links are left, and it is said how to go on."""
    folder, sequences = source
    arrive(folder, tmp_path, [p for files in sequences[:2] for p in files if "raw" in p.parts])
    arrive(folder, tmp_path, [p for p in sequences[0] if "proc" in p.parts])
    args = [50, "--prefix", tmp_path, "--follow", "--no-report"]
    where = "workflows.follow:whole_sequences"
    done = run_until(tmp_path, args, 0, signal.SIGTERM, where, call=3)
    assert done.returncode == 143, done.stdout + done.stderr
    assert frames_of(tmp_path) == CELLS
    assert done.stderr.splitlines()[-1].endswith("--follow --no-report --resume")
    assert (tmp_path / "scratch" / "checkpoint").exists()
    for left in ("follow", "lock"):
        assert not (tmp_path / "scratch" / left).exists()


def test_masks_that_become_others(source, tmp_path, quick):
    """What all frames of the first sequences call bad, and later ones do not, is read again."""
    folder = shutil.copytree(source[0], tmp_path / "source")
    for path in folder.glob("proc/r0050/*AGIPD04*"):
        with h5py.File(path, "r+") as file:
            mask = file[MASK]
            bad = mask[:]
            bad[:, 100:200] = int(path.stem[-5:]) < 2
            mask[:] = bad
    prefix = tmp_path / "p007927"
    facility = Facility((folder, source[1]), prefix, [1, 1, 2], frames_in(prefix))
    args = [50, "--prefix", prefix, "--no-report"]
    done = call_xfelmpi([*args, "--follow"])
    facility.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "made with other masks" in done.stderr
    assert_as_of_a_plain_job(prefix)


def test_more_cells_with_masks_of_their_own(source, tmp_path, quick):
    """What was read of the first sequence counts when the next one has more memory cells."""
    folder = tmp_path / "source"
    for name, cells in (("few", 3), ("source", 6)):
        tiny_run(tmp_path / name, trains=2, cells=tuple(range(1, 1 + cells)), **HALF)
        for path in (tmp_path / name).glob("proc/r0050/*AGIPD04*"):
            with h5py.File(path, "r+") as file:
                mask = file[MASK]
                bad = mask[:]
                for cell in range(cells):
                    bad[cell, 100 + cell] = 1
                mask[:] = bad
    for path in (tmp_path / "few").glob("proc/r0050/*-S00000.h5"):
        shutil.copyfile(path, folder / "proc" / "r0050" / path.name)
    raw_twin(folder, 50)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*R0050*.h5"))
    sequences = [[p for p in files if p.stem.endswith(f"S{n:05}")] for n in range(2)]
    prefix = tmp_path / "p007927"
    facility = Facility((folder, sequences), prefix, [1, 1], frames_in(prefix))
    done = call_xfelmpi([50, "--prefix", prefix, "--follow", "--no-report"])
    facility.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(frames_read(done.stdout)) == 9, done.stdout
    assert_as_of_a_plain_job(prefix)


def test_run_that_stops_coming(source, tmp_path, quick):
    """What is there is processed, and it is said that the run is not complete."""
    folder, sequences = source
    arrive(folder, tmp_path, [p for files in sequences for p in files if "raw" in p.parts])
    arrive(folder, tmp_path, [p for files in sequences[:2] for p in files if "proc" in p.parts])
    done = call_xfelmpi([50, "--prefix", tmp_path, "--follow", "--follow-timeout", "0.5s"])
    assert done.returncode == 3, done.stdout + done.stderr
    assert "it is treated as finished" in done.stderr
    assert frames_of(tmp_path) == 2 * CELLS


def test_whole_sequences(source, tmp_path):
    """A sequence is whole with the modules of the raw run, else with all of the detector."""
    folder, sequences = source
    arrive(folder, tmp_path, [p for files in sequences[:2] for p in files])
    proc, raw = (arrival.list_folder(tmp_path / k / "r0050", k) for k in ("proc", "raw"))
    assert follow.whole_sequences(proc, raw) == follow.whole_sequences(proc) == {0, 1}
    (tmp_path / "proc/r0050/CORR-R0050-AGIPD04-S00001.h5").unlink()
    proc = arrival.list_folder(tmp_path / "proc" / "r0050", "proc")
    assert follow.whole_sequences(proc, raw) == follow.whole_sequences(proc) == {0}
    for path in tmp_path.glob("*/r0050/*AGIPD04*"):
        path.unlink()
    proc, raw = (arrival.list_folder(tmp_path / k / "r0050", k) for k in ("proc", "raw"))
    assert follow.whole_sequences(proc, raw) == {0, 1}
    assert follow.whole_sequences(proc) == {0}, "the last one may still get a module"
    assert follow.whole_sequences(arrival.Listing(tmp_path)) == set()


def table(trains, files, rows):
    train = np.repeat(np.array(trains, np.uint64), 2)
    cell = np.tile(np.array([0, 1], np.uint16), len(trains))
    columns = (np.array(x, np.int32)[:, None] for x in (files, rows))
    return FrameTable.of_places(train, cell, train, *columns)


def test_digest_of_frames_does_not_depend_on_other_frames():
    early, late = (ModuleFile(f"/a/S{n}.h5", 0, "data", stamp=str(n)) for n in (0, 1))
    few = table([5, 6], [0, 0, 0, -1], [0, 1, 2, 7])
    more = table([4, 5, 6], [0, 0, 1, 1, 1, -1], [0, 1, 0, 1, 2, 0])
    here = digest_frames(few, (early,))
    assert digest_frames(more[2:], (late, early)) == here
    elsewhere = ModuleFile("/b/S0.h5", 0, "data", stamp="0")
    assert digest_frames(few, (elsewhere,)) == here
    for other in (
        digest_frames(few, (late,)),
        digest_frames(few, (ModuleFile("/a/S0.h5", 0, "data", stamp="9"),)),
        digest_frames(table([5, 6], [0, 0, 0, 0], [0, 1, 2, 7]), (early,)),
        digest_frames(table([5, 6], [0, 0, 0, -1], [0, 1, 3, 0]), (early,)),
        digest_frames(table([5, 7], [0, 0, 0, -1], [0, 1, 2, 0]), (early,)),
    ):
        assert other != here


def test_digest_of_masks_is_by_cell():
    masks = Masks.all_good(AGIPD_1M)
    good = np.repeat(masks.good, 2, axis=1)
    good[3, 1, 5] = 0
    row = masks.row_of_cell.copy()
    row[7] = 1
    found = digest_masks(Masks(good, row, masks.region), [2, 4, 7])
    assert found["2"] == found["4"] != found["7"]
    assert digest_masks(masks, [2]) == {"2": found["2"]}
    assert digest_masks(Masks(good, row, masks.region, frame_bits=1), [2])["2"] != found["2"]


@pytest.mark.parametrize(
    ("trains", "rows"),
    [([5], ((0, 2),)), ([5, 6], ((0, 3),)), ([5, 8], ((0, 2), (3, 6))), ([5, 7], ()), ([], ())],
)
def test_ranges_of_trains(trains, rows):
    table = np.array([5, 5, 6, 8, 8, 8], np.uint64)
    assert ranges_of_trains(np.array(trains, np.uint64), table) == rows


def test_what_does_not_go_with_following(tmp_path):
    for option in ("--wait=1m", "--from-events"):
        done = call_xfelmpi([50, "--prefix", tmp_path, "--follow", option])
        assert done.returncode == 2
        assert "--follow: leave out" in done.stderr
