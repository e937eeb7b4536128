"""What a stopped job tells its user, and leaves to others."""

import os
import subprocess
import sys

import pytest

from xfelmpi.core.shutdown import launched_as


@pytest.mark.parametrize(
    ("launcher", "said"),
    [
        ("sbatch jobs/process_run.sh", "sbatch jobs/process_run.sh 50 --resume"),
        # whatever it says, the job must end as it should
        ("a 'b", "'a '\"'\"'b' 50 --resume"),
        ("a\\", "'a\\' 50 --resume"),
    ],
)
def test_how_to_go_on(launcher, said, monkeypatch):
    monkeypatch.setenv("XFELMPI_LAUNCHER", launcher)
    assert launched_as(["50", "--resume"], 1) == said


SLOW_CHECKPOINT = """
import os, signal, sys, time
from xfelmpi.core import shutdown

shutdown.watch()
shutdown.stop_plan.save = lambda: time.sleep(100)
shutdown.stop_plan.releases.append(lambda: (print("released", flush=True), os.close(1)))
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(100)
"""


@pytest.mark.parametrize(
    ("environment", "released"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_odls_base_sigkill_timeout": "30"}, False),
        # no mpirun, or mpiexec of another MPI
        ({}, False),
    ],
    ids=["mpirun", "mpirun that waits", "alone"],
)
def test_a_lock_does_not_wait_for_a_checkpoint_that_mpirun_would_cut_off(environment, released):
    """mpirun kills what is left a second after Ctrl-C; the lock is gone before."""
    names = ("OMPI_", "PRTE_", "PMIX_", "SLURM_")
    clean = {name: text for name, text in os.environ.items() if not name.startswith(names)}
    command = [sys.executable, "-c", SLOW_CHECKPOINT]
    job = subprocess.Popen(
        command, env=clean | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        if released:
            # while the checkpoint is still being saved
            assert job.stdout.readline() == "released\n"
            assert job.poll() is None
        else:
            assert "stopped by SIGTERM" in job.stderr.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                job.wait(1.0)
    finally:
        job.kill()
        said = job.communicate()[0]
    assert not said
