"""``jobs/process_run.sh`` without Slurm; tests/cluster has it under Slurm."""

import os
import subprocess
from pathlib import Path

import pytest
from arrivingruns import quick_project

ROOT = Path(__file__).parents[2]


def process(project, *options, **env):
    command = ["bash", project / "jobs" / "process_run.sh", "50", *options]
    environment = {**os.environ, "XFELMPI_ROOT": str(project), **env}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not (ROOT / ".venv").exists(), reason="the script starts what setup.sh made")
@pytest.mark.slow
def test_only_our_message_follows_an_error(tmp_path):
    """Open MPI would add twelve lines about the status; the status is ours."""
    done = process(ROOT, "--prefix", tmp_path / "nowhere", RANKS="2")
    assert done.returncode == 2
    (told,) = (line for line in done.stderr.splitlines() if not line.startswith("indexing"))
    assert told.startswith("xfelmpi: error (rank 0): ")


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (0, ""),
        (3, ""),
        (143, ""),
        (137, "process_run.sh: a rank was killed by SIGKILL, status 137\n"),
        (139, "process_run.sh: a rank was killed by SIGSEGV, status 139\n"),
        (1, "process_run.sh: status 1; OMPI_MCA_orte_execute_quiet=0 shows what mpirun says\n"),
    ],
)
def test_what_a_quiet_mpirun_does_not_say(tmp_path, status, told):
    project = quick_project(tmp_path)
    (project / ".venv" / "bin" / "status").write_text(str(status))
    done = process(project)
    assert (done.returncode, done.stderr) == (status, told)
