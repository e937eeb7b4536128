"""``xfelmpi watch`` and ``submit`` with a Slurm of our own, whose jobs are preempted and die."""

import os
import random
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from arrivingruns import arriving_run, quick_project
from launch import limit

from xfelmpi.core.paths import WatchFiles
from xfelmpi.output.watch_state import DONE, read_state
from xfelmpi.workflows.watch.queues import read_result

pytestmark = pytest.mark.filterwarnings("default")

RUNS = range(50, 70)

EVENTS = 12
"""Accidents while the runs arrive."""

QUICK = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
from xfelmpi.workflows.watch import jobs, loop
jobs.LOST_AFTER, loop.CALLS_A_MINUTE, loop.FILES_A_MINUTE = 3.0, 1e6, 1e6
from xfelmpi.__main__ import main
sys.exit(main())
"""
"""The program, but for its patience with jobs that are missing, and with the disk."""

PYTHON = """#!/usr/bin/env bash
[[ $1 == -m ]] || exit 0
run=$3
find "$PREFIX/proc/r00$run" -name '*AGIPD*' | wc -l >>"{folder}/calls/$run"
exec {python} "$@"
"""
"""Python of the jobs, which also tells how many files the run had when it began."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Files of a run, of which all runs here have links."""
    folder = tmp_path_factory.mktemp("source")
    files = arriving_run(folder)
    return folder, [p for p in files if "AGIPD" in p.name]


def environment(slurm, project):
    prefix = str(project.parent / "p007927")
    return {**slurm.environment, "XFELMPI_ROOT": str(project), "RANKS": "1", "PREFIX": prefix}


def xfelmpi(slurm, project, *arguments, program=("-m", "xfelmpi")):
    command = [sys.executable, *program, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment(slurm, project), cwd=project,
    )  # fmt: skip


class Accidents:
    """What happens: jobs are cancelled or preempted, their node fails or crashes, watch is killed.

    Parameters
    ----------
    slurm : PrivateSlurm
    start : callable
        Starts a watch.
    """

    def __init__(self, slurm, start):
        self._slurm, self._start = slurm, start
        self._kinds = [self._cancel, self._preempt, self._fail, self._crash, self.end]
        self.said = []
        self.watch = start()

    def happen(self, n: int) -> None:
        self._kinds[n % len(self._kinds)]()
        if self.watch.poll() is not None:
            self.watch = self._start()

    def end(self):
        self.watch.kill()
        self.said.append(self.watch.communicate()[0])

    def _cancel(self):
        found = self._slurm.run("squeue", "-h", "-t", "R", "-p", "upex", "-o", "%A", check=False)
        for number in found.stdout.split()[:1]:
            self._slurm.run("scancel", number, check=False)

    def _preempt(self):
        self._slurm.submit("-p", "urgent", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")

    def _fail(self):
        for state in ("down", "resume"):
            self._slurm.run(
                "scontrol", "update", "nodename=localhost", f"state={state}", "reason=test",
                check=False,
            )  # fmt: skip

    def _crash(self):
        self._slurm.crash_node()


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """20 different runs, and the files of each, in order."""
    folder = tmp_path_factory.mktemp("night")
    few = {"trains": 2, "sequence_length": 2, "detector": "AGIPD-500K"}
    return folder, {run: arriving_run(folder, run, seed=run, **few) for run in RUNS}


def test_runs_that_arrive_while_nodes_die(slurm, night, tmp_path):
    """20 runs in pieces, in random order: each is processed once, right, and none is forgotten."""
    folder, files = night
    project = quick_project(tmp_path / "project")
    script = project / "jobs" / "process_run.sh"
    # five at once on the one node of 64 CPUs; all twenty would take 6 GB of memory
    several = "#SBATCH --cpus-per-task=12\n"
    script.write_text(script.read_text().replace("#SBATCH --exclusive\n", several))
    python = PYTHON.format(folder=project, python=sys.executable)
    (project / ".venv" / "bin" / "python").write_text(python)
    prefix = tmp_path / "p007927"
    (prefix / "raw").mkdir(parents=True)
    options = ("--settle", "0.3s", "--every", "0.3s", "--tries", "20", "--redu", "no")
    where = ("--prefix", prefix, "--partition", "upex")

    def start():
        program = ("-c", QUICK)
        return xfelmpi(
            slurm, project, "watch", *where, *options, "--", "--no-report", program=program
        )

    chance, accidents = random.Random(3), Accidents(slurm, start)
    try:
        pieces = arriving_pieces(files, chance)
        for n, (run, piece) in enumerate(pieces):
            arrive_as(folder, prefix, piece, run, run)
            time.sleep(chance.uniform(0.0, 0.3))
            if n % (len(pieces) // EVENTS) == 0:
                accidents.happen(n * EVENTS // len(pieces))
        wait_until_done(prefix, accidents)
    finally:
        accidents.end()
    for run in RUNS:
        n_files = sum(path.parts[0] == "proc" for path in files[run])
        results = (prefix / "scratch" / "watch" / "jobs").glob(f"r{run:04}-*")
        ended = [read_result(path).status for path in results]
        assert ended.count(0) == 1, f"run {run}: {ended}\n{logs_of(prefix, run)}\n{accidents.said}"
        had = (project / "calls" / str(run)).read_text().split()
        assert set(had) == {str(n_files)}, f"run {run}: {had}"
        check_photons(prefix, folder, run)


def check_photons(prefix, folder, run):
    """Assert that a run was processed whole, and right."""
    with (
        h5py.File(prefix / "scratch" / "events" / f"r{run:04}_events.h5") as events,
        h5py.File(folder / "scratch" / "truth" / f"r{run:04}_truth.h5") as truth,
    ):
        for name in ("trainId", "cellId", "photons", "litpixels"):
            np.testing.assert_array_equal(events[name], truth[name], f"{name} of run {run}")


def arriving_pieces(files, chance):
    """Return (run, files) in the order in which they arrive: raw before corrected files."""
    pieces = []
    for run in RUNS:
        own = files[run]
        cuts = sorted(chance.sample(range(1, len(own)), chance.randrange(1, 4)))
        for a, b in zip([0, *cuts], [*cuts, len(own)], strict=True):
            pieces.append((chance.uniform(run, run + 8) + a / len(own), run, own[a:b]))
    pieces.sort(key=lambda piece: piece[0])
    arrived, late = dict.fromkeys(RUNS, 0), []
    for _, run, _ in pieces:
        # whatever the order of the pieces, the files of a run come one after the other
        own = [some for _, r, some in pieces if r == run]
        own.sort(key=lambda some: files[run].index(some[0]))
        late.append((run, own[arrived[run]]))
        arrived[run] += 1
    return late


def arrive_as(folder, prefix, files, run, source=50):
    """Have files arrive, perhaps under the name of another run; the trains are the same."""
    for path in files:
        name = str(path).replace(f"r{source:04}", f"r{run:04}")
        new = prefix / name.replace(f"R{source:04}", f"R{run:04}")
        new.parent.mkdir(parents=True, exist_ok=True)
        os.link(folder / path, new)


def wait_until_done(prefix, accidents):
    end = time.monotonic() + limit(240)
    state = WatchFiles(prefix / "scratch").state
    while time.monotonic() < end and accidents.watch.poll() is None:
        runs = read_state(state).runs
        if len(runs) == len(RUNS) and all(run.state == DONE for run in runs.values()):
            return
        time.sleep(0.3)
    undone = [r for r in runs.values() if r.state != DONE]
    raise AssertionError(
        f"{sorted(set(RUNS) - set(runs))} not seen, watch ended: {accidents.watch.poll()}\n"
        + "\n".join(f"{r.run}: {r.state}, {r.about}\n{logs_of(prefix, r.run)}" for r in undone)
    )


def logs_of(prefix, run) -> str:
    """Return how the jobs of a run ended, and the ends of their logs."""
    scratch = prefix / "scratch"
    paths = (
        *(scratch / "watch" / "jobs").glob(f"r{run:04}-*"),
        *scratch.rglob(f"log/r{run:04}_*.log"),
        *scratch.rglob("log/slurm-*.out"),
    )
    paths = sorted(paths, key=lambda path: path.stat().st_mtime)
    return "\n".join(f"--- {p.name}\n{p.read_text(errors='replace')[-2000:]}" for p in paths)


def test_submitted_runs_and_their_table(slurm, source, tmp_path):
    folder, files = source
    project = quick_project(tmp_path / "project")
    for run in (50, 51):
        arrive_as(folder, tmp_path, files, run)
    done = xfelmpi(
        slurm, project, "submit", "50-52", "--prefix", tmp_path, "--partition", "upex",
        "--nodes", "auto", "--sigma", "5",
    )  # fmt: skip
    said = done.communicate(timeout=limit())[0]
    assert done.returncode == 3, said
    lines = said.splitlines()
    assert lines[0].split() == ["run", "data", "size", "nodes", "job"]
    number = lines[1].split()[-1].removesuffix("_50")
    assert lines[2].split()[-1] == f"{number}_51"
    assert lines[3].endswith("not submitted: no detector files in proc or raw/")
    assert lines[4] == "2 of 3 runs submitted"
    for run in (50, 51):
        assert slurm.wait(f"{number}_{run}")[0] == "COMPLETED"
        (call,) = (project / "calls" / str(run)).read_text().splitlines()
        assert call.endswith("--sigma 5")


def test_job_that_is_put_back_into_the_queue_continues(slurm, source, tmp_path):
    """As after preemption; the end of its log tells how it ended."""
    folder, files = source
    project = quick_project(tmp_path / "project", seconds=3)
    arrive_as(folder, tmp_path, files, 50)
    done = xfelmpi(slurm, project, "submit", "50", "--prefix", tmp_path, "--partition", "upex")
    said = done.communicate(timeout=limit())[0]
    number, calls, end = said.splitlines()[1].split()[-1], project / "calls" / "50", limit(60)
    begun = time.monotonic()
    while not calls.exists() and time.monotonic() < begun + end:
        time.sleep(0.1)
    slurm.run("scontrol", "requeue", number)
    assert slurm.wait(number, limit(180))[0] == "COMPLETED"
    first, second = calls.read_text().splitlines()
    assert second == f"{first} --resume"
    (log,) = project.glob("slurm-*.out")
    assert log.read_text().splitlines()[-1] == "xfelmpi 50 done, status 0"


@pytest.mark.parametrize("option", ["reservation", "account", "constraint", "cluster"])
def test_options_reach_slurm(slurm, source, tmp_path, option):
    """There are none of these here: Slurm says so, or the job has it."""
    folder, files = source
    project = quick_project(tmp_path / "project")
    arrive_as(folder, tmp_path, files, 50)
    done = xfelmpi(slurm, project, "submit", "50", "--prefix", tmp_path, f"--{option}", "upex_7927")
    said = done.communicate(timeout=limit())[0]
    if option == "account":
        assert done.returncode == 0, said
        number = said.splitlines()[1].split()[-1]
        assert slurm.job(number)["Account"] == "upex_7927"
        slurm.wait(number)
    else:
        assert done.returncode == 3
        assert "not submitted: sbatch: status 1" in said
