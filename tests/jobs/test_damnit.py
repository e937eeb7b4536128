"""The context file for DAMNIT, with DAMNIT's own context runner and database."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from launch import call_xfelmpi, limit
from mockrun import tiny_run
from optional import unavailable

pytestmark = [pytest.mark.job, pytest.mark.filterwarnings("default")]

SUPPORT = """
import sys
from pathlib import Path
import damnit
print(Path(damnit.__file__).parent / "ctxsupport")
"""

INGEST = """
import sys
from pathlib import Path
from damnit.backend.db import DamnitDB
from damnit.backend.extract_data import add_to_db, load_reduced_data
folder, fragment, run = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
db = DamnitDB(folder / "runs.sqlite", create=True)
add_to_db(load_reduced_data(fragment), db, 7927, run, "context.py")
db.close()
"""


@pytest.fixture(scope="module")
def support():
    """The folder of DAMNIT's context runner."""
    command = [sys.executable, "-c", SUPPORT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        unavailable("no damnit", "XFELMPI_TEST_DAMNIT")
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def proposal(tmp_path_factory):
    """A proposal where the facility's software finds it; run 50 is processed, others are not."""
    root = tmp_path_factory.mktemp("exfel")
    prefix = root / "SPB" / "202405" / "p007927"
    for run in (50, 51, 52):
        tiny_run(prefix, run=run)
    done = call_xfelmpi([50, "--prefix", prefix, "--no-vds"])
    assert done.returncode == 0, done.stderr
    return root, prefix


def execute(support, proposal, run, *options, cluster=()):
    """Install the context file and run it; return the database's columns of the run.

    `cluster` are further words for DAMNIT's runner, e.g. that this is its job on the cluster.
    """
    root, prefix = proposal
    done = call_xfelmpi(["damnit-context", "--prefix", prefix, "--install", *options])
    assert done.returncode == 0, done.stderr
    folder = prefix / "usr" / "Shared" / "amore"
    environment = {
        **os.environ, "PYTHONPATH": str(support), "EXTRA_DATA_DATA_ROOT": str(root),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    fragment = folder / "fragment.txt"
    for command in (
        ["-m", "ctxrunner", "exec", "7927", run, "all", "--record-output", fragment, *cluster],
        ["-c", INGEST, folder, None, run],
    ):
        words = [fragment.read_text().strip() if word is None else str(word) for word in command]
        done = subprocess.run(
            [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True,
            timeout=limit(60), check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    with sqlite3.connect(folder / "runs.sqlite") as db:
        rows = db.execute("select name, value from run_variables where run = ?", (run,)).fetchall()
    return dict(rows), done.stderr


def test_values_are_those_of_the_events_file(support, proposal):
    found, said = execute(support, proposal, 50)
    prefix = proposal[1]
    with h5py.File(prefix / "scratch/events/r0050_events.h5") as file:
        hit, photons = file["is_hit"][:].astype(bool), file["photons"][:]
        complete = file["modules"][:] == file.attrs["modules_in_run"]
        energy, median = file["pulse_energy"][:], file["hit_median"][:]
        sigma = json.loads(file.attrs["configuration"])["sigma"]
        diameter = file["diameter"][:][hit]
    assert hit.sum() > 0
    assert found["hits"] == hit.sum(), said
    assert found["hit_rate"] == pytest.approx(100 * hit.sum() / complete.sum(), rel=1e-12)
    assert found["hit_sigma"] == sigma
    assert found["photons_per_frame"] == pytest.approx(photons.mean(), rel=1e-12)
    assert found["brightest_100"] == pytest.approx(np.sort(photons[hit])[-100:].mean(), rel=1e-12)
    assert found["background_score"] == pytest.approx(np.nanmean(median), rel=1e-6)
    assert found["pulse_energy"] == pytest.approx(np.nanmean(energy), rel=1e-6)
    assert found["median_size"] == pytest.approx(np.nanmedian(diameter), rel=1e-6)
    assert found["problems"] == 0
    assert found["verdicts"] in ("good", "doubtful", "bad")
    assert found["report"] == str(prefix / "scratch/report/r0050.html")
    assert found["hit_powder"].startswith(b"\x89PNG")
    about = json.loads((prefix / "scratch/report/r0050.json").read_text())
    for name in ("photons_per_frame", "brightest_100"):
        assert about[name] == pytest.approx(found[name], rel=1e-12)
    assert about["background"] == pytest.approx(found["background_score"], rel=1e-6)


def test_run_that_was_not_processed_has_no_values(support, proposal):
    found, _ = execute(support, proposal, 51, "--wait", "0s")
    assert found.get("hits") is None


def test_variables_that_start_the_job(support, proposal, monkeypatch):
    """DAMNIT computes these in its own job on the cluster, which processes the run first."""
    monkeypatch.setenv("XFELMPI_ROOT", str(Path(__file__).parents[2]))
    monkeypatch.setenv("RANKS", "1")
    found, said = execute(support, proposal, 52, "--start", cluster=("--cluster-job",))
    with h5py.File(proposal[1] / "scratch/events/r0052_events.h5") as file:
        n_hits = file["is_hit"][:].sum()
    assert n_hits > 0
    assert found["hits"] == n_hits, said
    assert found["report"] == str(proposal[1] / "scratch/report/r0052.html")


def test_context_file_of_others_is_left_alone(tmp_path):
    path = tmp_path / "usr/Shared/amore/context.py"
    path.parent.mkdir(parents=True)
    path.write_text("# ours\n")
    done = call_xfelmpi(["damnit-context", "--prefix", tmp_path, "--install"])
    assert done.returncode == 2
    assert "there is a context file already" in done.stderr
    assert path.read_text() == "# ours\n"


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_context_file_that_is_none_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "usr/Shared/amore/context.py"
    path.parent.mkdir(parents=True)
    make = {
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "device": lambda: path.symlink_to("/dev/zero"),
    }
    make[kind]()
    done = call_xfelmpi(["damnit-context", "--prefix", tmp_path, "--install"])
    assert done.returncode == 2
    assert f"{path}: not a regular file" in done.stderr
