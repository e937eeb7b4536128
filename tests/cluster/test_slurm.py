"""The batch script and many ranks, in a Slurm of our own (see private_slurm.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from compare import assert_same_outputs
from mockrun import tiny_run
from private_slurm import find

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "jobs" / "process_run.sh"
OUTPUTS = (
    "events/r0050_events.h5",
    "powder/r0050_powder.h5",
    "saved_hits/r0050_hits.cxi",
    "emc/r0050.emc",
)

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """An experiment folder with the small runs 50 and 51."""
    folder = tmp_path_factory.mktemp("experiment")
    for run in (50, 51):
        tiny_run(folder, run=run)
    return folder


def into(prefix, output):
    """Options for outputs elsewhere; the batch job takes its geometry from the usual place."""
    return "--output", output, "--geometry", prefix / "scratch" / "det" / "agipd.geom"


@pytest.fixture(scope="module")
def one_rank(prefix, tmp_path_factory):
    """The outputs of run 50, processed by one process without MPI's launcher."""
    output = tmp_path_factory.mktemp("one_rank")
    command = [sys.executable, "-m", "xfelmpi", "50", "--prefix", prefix, *into(prefix, output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return output


@pytest.fixture
def submit_folder(tmp_path):
    """Where sbatch is called, neither the project nor the experiment folder."""
    folder = tmp_path / "submitted here"
    folder.mkdir()
    return folder


def submit(slurm, folder, prefix, *arguments, ranks=2):
    return slurm.submit(
        *arguments, cwd=folder, env={"EXP_PREFIX": str(prefix), "RANKS": str(ranks)}
    )


def all_text(*folders):
    paths = [p for f in folders for p in (*f.glob("*.log"), *f.glob("*.out"))]
    return "\n".join(f"--- {p}\n{p.read_text()}" for p in paths)


def test_batch_job_leaves_outputs_and_its_log(slurm, prefix, one_rank, submit_folder):
    job = submit(slurm, submit_folder, prefix, "-p", "upex", SCRIPT, "50")
    log_folder = prefix / "scratch" / "log"
    state = slurm.wait(job)
    assert state == ("COMPLETED", "0:0"), all_text(submit_folder, log_folder)
    log = log_folder / f"r0050_{job}.log"
    assert f"job {job}, run 50, 2 ranks" in log.read_text()
    assert not list(submit_folder.iterdir()), "Slurm's own output file should be gone"
    for name in OUTPUTS:
        assert (prefix / "scratch" / name).stat().st_size > 0
    assert_same_outputs(prefix / "scratch", one_rank)


def test_24_ranks_give_the_files_of_one(slurm, prefix, one_rank, tmp_path):
    """More ranks than the run has trains, modules and frames."""
    # nice: not to starve the tests beside it
    done = slurm.run(
        "srun", "--mpi=pmix", "-n", "24", "--kill-on-bad-exit=1", "nice", sys.executable, "-m",
        "xfelmpi", "50", "--prefix", prefix, *into(prefix, tmp_path), check=False,
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "EXTRA_NUM_THREADS": "1",
             **open_mpi_here()},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_outputs(tmp_path, one_rank)


def open_mpi_here():
    """What jobs/common.sh sets for more ranks than processors."""
    command = f'source "{ROOT}/jobs/common.sh"; SLURM_JOB_ID=1; prepare_mpi 24; env | grep ^OMPI_'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def test_array_job_has_a_run_per_task(slurm, prefix, submit_folder, tmp_path):
    output = tmp_path / "out"
    job = submit(slurm, submit_folder, prefix, "--array=50-51", SCRIPT, "--output", output)
    for run in (50, 51):
        state = slurm.wait(f"{job}_{run}")
        assert state == ("COMPLETED", "0:0"), all_text(submit_folder, output / "log")
        assert (output / "log" / f"r{run:04d}_{job}_{run}.log").stat().st_size > 0
        assert (output / "events" / f"r{run:04d}_events.h5").exists()


SLOW = """
import sys
import time

from xfelmpi.core import shutdown

shutdown.watch()
from xfelmpi.reduction import frame_loop

blocks = frame_loop.train_blocks


def slow_blocks(*args):
    for block in blocks(*args):
        yield block
        time.sleep(100)


frame_loop.train_blocks = slow_blocks
from xfelmpi.__main__ import main

sys.exit(main(sys.argv[1:]))
"""


def slow_project(folder):
    """Return a folder with the scripts, and a Python that is slow to read frames."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / "jobs").symlink_to(ROOT / "jobs")
    script, python = folder / "slow.py", folder / ".venv" / "bin" / "python"
    script.write_text(SLOW)
    python.write_text(
        f'#!/bin/sh\nif [ "$1" = -m ]; then shift 2; set -- "{script}" "$@"; fi\n'
        f'exec "{sys.executable}" "$@"\n'
    )
    python.chmod(0o755)
    return folder


def test_time_limit_leaves_a_checkpoint(slurm, prefix, one_rank, submit_folder, tmp_path):
    """Slurm looks at time limits every 30 s, and sends the signal up to 30 s early.

    So it comes 10 to 40 s after the job began, which by then reads frames.
    """
    project, output = slow_project(tmp_path / "project"), tmp_path / "out"
    env = {"EXP_PREFIX": str(prefix), "RANKS": "2", "XFELMPI_ROOT": str(project)}
    args = (SCRIPT, "50", *into(prefix, output))
    job = slurm.submit("--time=1", "--signal=TERM@20", *args, cwd=submit_folder, env=env)
    assert slurm.wait(job) == ("FAILED", "143:0"), all_text(submit_folder, output / "log")
    log = (output / "log" / f"r0050_{job}.log").read_text()
    assert log.count("xfelmpi: stopped by SIGTERM (time limit?) in stage photons after about") == 1
    assert f"xfelmpi: continue with: sbatch {project}/jobs/process_run.sh 50 " in log
    assert len(list((output / "checkpoint" / "r0050").glob("*.checkpoint"))) == 2
    assert not list(output.rglob("*.part"))
    job = submit(slurm, submit_folder, prefix, *args, "--resume")
    assert slurm.wait(job) == ("COMPLETED", "0:0"), all_text(submit_folder, output / "log")
    log = (output / "log" / f"r0050_{job}.log").read_text()
    assert "resume: 12 of 18 frames are done (2 checkpoint files" in log
    assert_same_outputs(output, one_rank)


def test_script_asks_for_the_signal_in_time():
    """Earlier than the ranks may take (see `xfelmpi.core.shutdown`), and to the ranks only."""
    assert "#SBATCH --signal=TERM@60\n" in SCRIPT.read_text()


def test_run_number_in_an_array_job_is_refused(slurm, prefix, submit_folder):
    job = submit(slurm, submit_folder, prefix, "--array=50-50", SCRIPT, "51")
    assert slurm.wait(f"{job}_50") == ("FAILED", "2:0")
    assert "found run 51 in an array job" in all_text(submit_folder)


def test_srun_without_pmix_is_explained(slurm, prefix, tmp_path):
    done = slurm.run(
        "srun", "--mpi=none", "-n", "2", sys.executable, "-m", "xfelmpi", "50", "--prefix", prefix,
        "--output", tmp_path / "out", check=False, env=open_mpi_here(),
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "srun --mpi=pmix" in done.stdout + done.stderr
    assert not list(tmp_path.rglob("*.*"))


def test_status_of_the_program_is_that_of_the_job(slurm, prefix, submit_folder):
    job = submit(slurm, submit_folder, prefix, SCRIPT, "77")
    assert slurm.wait(job) == ("FAILED", "2:0")
    log = prefix / "scratch" / "log" / f"r0077_{job}.log"
    assert "77" in log.read_text().split("\n", 1)[1]


def job_without_ranks(slurm, folder, prefix, *arguments, script="exit 0"):
    """Return state, exit code and text of a job whose srun is a script.

    By itself it does nothing, and says it went well.
    """
    srun = folder.parent / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(f"#!/bin/sh\n{script}\n")
    srun.chmod(0o755)
    path = f"{srun.parent}:{os.environ['PATH']}"
    env = {"EXP_PREFIX": str(prefix), "PATH": path, "RANKS": "1"}
    job = slurm.submit("--output=mine.txt", SCRIPT, "50", *arguments, cwd=folder, env=env)
    return *slurm.wait(job), (folder / "mine.txt").read_text()


@pytest.mark.parametrize("processed", [False, True])
def test_ranks_that_never_ran(slurm, prefix, one_rank, submit_folder, tmp_path, processed):
    """Also if there are the outputs of an earlier job."""
    output = one_rank if processed else tmp_path / "out"
    done = job_without_ranks(slurm, submit_folder, prefix, "--output", output)
    assert done[:2] == ("FAILED", "75:0")
    assert f"{output}/events/r0050_events.h5 was not written: the ranks never ran" in done[2]


NOT_YET = """
if mkdir "{folder}/asked" 2>/dev/null; then
    # what it says of a job that was put back into the queue, and whose step is not over
    echo "srun: error: Unable to create step for job 1" >&2
    exit "${{SLURM_EXIT_ERROR:-1}}"
fi
exec {srun} "$@"
"""


def test_ranks_that_slurm_starts_when_it_is_asked_again(slurm, prefix, submit_folder, tmp_path):
    script = NOT_YET.format(folder=tmp_path, srun=find("srun"))
    output = ("--output", tmp_path / "out", "--no-report", "--trains", "0:1")
    done = job_without_ranks(slurm, submit_folder, prefix, *output, script=script)
    assert done[:2] == ("COMPLETED", "0:0"), done
    assert "Slurm did not start the ranks; once more in 2 s" in done[2]


def test_status_by_which_slurm_tells_its_own_errors(slurm):
    """It is not one that the program could have."""
    done = slurm.run(
        "srun", "--partition=none", "true", check=False, env={"SLURM_EXIT_ERROR": "75"}
    )
    assert done.returncode == 75, done.stderr


@pytest.mark.parametrize("option", ["--help", "--dry-run"])
def test_nothing_that_would_be_written(slurm, prefix, one_rank, submit_folder, option):
    """Such a job leaves the events file as it is."""
    output = ("--output", one_rank, "--from-events", "--prefix", prefix)
    job = submit(slurm, submit_folder, prefix, "--output=mine.txt", SCRIPT, "50", option, *output)
    text = (submit_folder / "mine.txt").read_text() if slurm.wait(job)[1] == "0:0" else ""
    assert ("usage: xfelmpi" if option == "--help" else "hits") in text


def test_wrong_use_stays_where_slurm_puts_output(slurm, submit_folder, tmp_path):
    job = submit(slurm, submit_folder, tmp_path / "nowhere", SCRIPT, "50")
    assert slurm.wait(job) == ("FAILED", "2:0")
    assert "nowhere" in (submit_folder / f"slurm-{job}.out").read_text()
    assert not (tmp_path / "nowhere").exists()


def test_output_named_by_the_user_is_left_alone(slurm, prefix, submit_folder):
    job = submit(slurm, submit_folder, prefix, "--output=mine.txt", SCRIPT, "77")
    assert slurm.wait(job) == ("FAILED", "2:0")
    assert f"job {job}, run 77" in (submit_folder / "mine.txt").read_text()


def test_outside_slurm_mpirun_is_used(prefix, one_rank, tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "OMPI"))}
    environment |= {"EXP_PREFIX": str(prefix), "RANKS": "2"}
    command = ["bash", SCRIPT, "50", *into(prefix, tmp_path)]
    done = subprocess.run(
        command, cwd="/", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_outputs(tmp_path, one_rank)
