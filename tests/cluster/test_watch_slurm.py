"""``xfelmpi watch`` and ``submit`` with a Slurm of our own, whose jobs are preempted and die."""

import os
import random
import subprocess
import sys
import time

import pytest
from arrivingruns import arriving_run, quick_project
from launch import limit

from xfelmpi.core.paths import WatchFiles
from xfelmpi.output.watch_state import DONE, read_state
from xfelmpi.workflows.watch.queues import read_result

pytestmark = pytest.mark.filterwarnings("default")

RUNS = range(50, 58)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Runs 50 to 57, of links to the files of one."""
    folder = tmp_path_factory.mktemp("source")
    files = arriving_run(folder)
    return folder, [p for p in files if "AGIPD" in p.name]


def environment(slurm, project):
    return {**slurm.environment, "XFELMPI_ROOT": str(project), "RANKS": "1"}


def xfelmpi(slurm, project, *arguments):
    command = [sys.executable, "-m", "xfelmpi", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment(slurm, project), cwd=project,
    )  # fmt: skip


class Accidents:
    """What happens to jobs: they are cancelled or preempted, or their node fails."""

    def __init__(self, slurm):
        self._slurm = slurm
        self._kinds = [self._cancel, self._preempt, self._node]

    def happen(self, n: int) -> None:
        self._kinds[n % 3]()

    def _cancel(self):
        found = self._slurm.run("squeue", "-h", "-t", "R", "-p", "upex", "-o", "%A", check=False)
        for number in found.stdout.split()[:1]:
            self._slurm.run("scancel", number, check=False)

    def _preempt(self):
        self._slurm.submit("-p", "urgent", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")

    def _node(self):
        for state in ("down", "resume"):
            self._slurm.run(
                "scontrol", "update", "nodename=localhost", f"state={state}", "reason=test",
                check=False,
            )  # fmt: skip


def test_runs_that_arrive_while_nodes_die(slurm, source, tmp_path):
    """Each is processed to the end once, none is forgotten."""
    folder, files = source
    project = quick_project(tmp_path / "project", seconds=0.3)
    prefix = tmp_path / "p007927"
    chance, accidents = random.Random(3), Accidents(slurm)
    (prefix / "raw").mkdir(parents=True)
    options = ("--settle", "0.3s", "--every", "0.3s", "--tries", "20", "--redu", "no")
    watch = xfelmpi(slurm, project, "watch", "--prefix", prefix, "--partition", "upex", *options)
    try:
        for n, run in enumerate(RUNS):
            cut = chance.randrange(1, len(files))
            for piece in (files[:cut], files[cut:]):
                arrive_as(folder, prefix, piece, run)
                time.sleep(chance.uniform(0.1, 0.5))
            accidents.happen(n)
        wait_until_done(prefix, watch)
    finally:
        watch.kill()
        said = watch.communicate()[0]
    for run in RUNS:
        results = (prefix / "scratch" / "watch" / "jobs").glob(f"r{run:04}-*")
        ended = [read_result(path).status for path in results]
        assert ended.count(0) == 1, f"run {run}: {ended}\n{said}"


def arrive_as(folder, prefix, files, run):
    """Have files arrive under the name of another run; the trains are the same."""
    for path in files:
        new = prefix / str(path).replace("r0050", f"r{run:04}").replace("R0050", f"R{run:04}")
        new.parent.mkdir(parents=True, exist_ok=True)
        os.link(folder / path, new)


def wait_until_done(prefix, watch):
    end = time.monotonic() + limit(90)
    state = WatchFiles(prefix / "scratch").state
    while time.monotonic() < end and watch.poll() is None:
        runs = read_state(state).runs
        if len(runs) == len(RUNS) and all(run.state == DONE for run in runs.values()):
            return
        time.sleep(0.3)
    raise AssertionError([f"{r.run}: {r.state}, {r.about}" for r in runs.values()])


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
