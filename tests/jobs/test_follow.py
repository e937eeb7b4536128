"""A run that is processed while it is written."""

import json
import threading
import time

import h5py
import pytest
from arrivingruns import arrive, raw_twin
from compare import assert_same_outputs
from launch import call_xfelmpi
from mockrun import tiny_run

from xfelmpi.run import arrival
from xfelmpi.workflows import follow

pytestmark = pytest.mark.job


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of 4 sequences, its files by sequence."""
    folder = tmp_path_factory.mktemp("source")
    tiny_run(folder, run=50, trains=4, cells=(0, 1, 2), sequence_length=1)
    raw_twin(folder, 50)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*R0050*.h5"))
    return folder, [[p for p in files if p.stem.endswith(f"S0000{n}")] for n in range(4)]


def events_of(prefix):
    with h5py.File(prefix / "scratch" / "events" / "r0050_events.h5") as file:
        return len(file["trainId"])


def test_run_is_followed_to_its_end(source, tmp_path, monkeypatch):
    """Every sequence is in the report before the next one comes; the end is as of a plain job."""
    monkeypatch.setattr(follow, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(arrival, "SETTLED_AFTER", 0.3)
    folder, sequences = source
    seen = []

    def write():
        report = tmp_path / "scratch" / "report" / "r0050.json"
        for n, files in enumerate(sequences):
            detector = [p for p in files if "AGIPD" in p.name]
            arrive(folder, tmp_path, [p for p in files if p not in detector])
            arrive(folder, tmp_path, [p for p in detector if "raw" in p.parts])
            # half of the modules first: this is no sequence yet
            arrive(folder, tmp_path, [p for p in detector if "proc" in p.parts][:8])
            arrive(folder, tmp_path, [p for p in detector if "proc" in p.parts][8:])
            end = time.monotonic() + 120
            while n < 3 and time.monotonic() < end:
                if report.exists() and json.loads(report.read_text())["frames"] == 3 * (n + 1):
                    seen.append(n)
                    break
                time.sleep(0.05)

    # the raw run is known as a whole, as at the facility: correction follows it
    last = [p for p in sequences[3] if "raw" in p.parts and "AGIPD" in p.name]
    arrive(folder, tmp_path, last)
    writer = threading.Thread(target=write)
    writer.start()
    done = call_xfelmpi([50, "--prefix", tmp_path, "--follow", "--follow-timeout", "2m"])
    writer.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert seen == [0, 1, 2]
    assert not (tmp_path / "scratch" / "follow").exists()
    plain = tmp_path / "plain"
    done = call_xfelmpi([50, "--prefix", tmp_path, "--output", plain])
    assert done.returncode == 0, done.stderr
    assert_same_outputs(tmp_path / "scratch", plain)


def test_run_that_stops_coming(source, tmp_path, monkeypatch):
    """What is there is processed, and it is said that the run is not complete."""
    monkeypatch.setattr(follow, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(arrival, "SETTLED_AFTER", 0.1)
    folder, sequences = source
    arrive(folder, tmp_path, [p for files in sequences for p in files if "raw" in p.parts])
    arrive(folder, tmp_path, [p for files in sequences[:2] for p in files if "proc" in p.parts])
    done = call_xfelmpi([50, "--prefix", tmp_path, "--follow", "--follow-timeout", "0.5s"])
    assert done.returncode == 3, done.stdout + done.stderr
    assert "it is taken for finished" in done.stderr
    assert events_of(tmp_path) == 6


def test_whole_sequences_are_those_of_all_modules(source, tmp_path):
    folder, sequences = source
    detector = [p for files in sequences[:2] for p in files if "proc" in p.parts]
    arrive(folder, tmp_path, detector[:-1])
    listing = arrival.list_folder(tmp_path / "proc" / "r0050", "proc")
    assert follow.whole_sequences(listing) <= {0, 1}
    (tmp_path / "proc/r0050/CORR-R0050-AGIPD04-S00001.h5").unlink()
    listing = arrival.list_folder(tmp_path / "proc" / "r0050", "proc")
    assert follow.whole_sequences(listing) == {0}
    assert follow.whole_sequences(arrival.Listing(tmp_path)) == set()


def test_what_does_not_go_with_following(tmp_path):
    for option in ("--resume", "--from-events"):
        done = call_xfelmpi([50, "--prefix", tmp_path, "--follow", option])
        assert done.returncode == 2
        assert "--follow: leave out" in done.stderr
