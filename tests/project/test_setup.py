"""``jobs/setup.sh`` with MPI compilers that tell what they are in different ways, or not at all."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REFUSED = "echo \"gcc: error: unrecognized command-line option '$1'\" >&2; exit 1"
SAYS = {
    "Open MPI": ("--showme:version", "mpicc: Open MPI 4.1.4 (Language: C)", 0),
    # the compiler behind it has nothing to link then
    "MPICH": ("-v", "mpicc for MPICH version 4.0.2", 1),
    "Intel MPI": ("-v", "mpiicc for the Intel(R) MPI Library 2021.9 for Linux*", 0),
    "another": ("--version", "cc (SomeOS 12.2.0) 12.2.0", 0),
}


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def compiler(folder, option, answer, status):
    """Write an MPI compiler that answers one option, and else does what the real one does."""
    answered = f'if [ "$1" = "{option}" ]; then echo "{answer}"; echo more; exit {status}; fi'
    asked = f'case "$1" in --showme:version|-v|--version) {REFUSED};; esac'
    folder.mkdir(exist_ok=True)
    script(folder / "mpirun", "exit 1")
    return script(folder / "mpicc", f'{answered}\n{asked}\nexec {shutil.which("mpicc")} "$@"')


def bash(*args, **env):
    return subprocess.run(
        ["bash", *map(str, args)],
        env=os.environ | {name: str(value) for name, value in env.items()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("which", SAYS)
def test_version_of_any_mpi(tmp_path, which):
    mpicc = compiler(tmp_path / "bin", *SAYS[which])
    asked = f"set -Eeuo pipefail; source {ROOT}/jobs/common.sh; mpi_version"
    done = bash("-c", asked, MPICC=mpicc)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{SAYS[which][1]}\n", "")


@pytest.fixture
def copied(tmp_path):
    """The scripts in a project of their own, which has no .venv yet."""
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path / "jobs" / "setup.sh"


def test_compiler_that_does_not_say_what_it_is(copied, tmp_path):
    mpicc = compiler(tmp_path / "bin", "--nothing", "", 0)
    done = bash(copied, MPICC=mpicc)
    assert done.returncode == 2, done.stderr
    assert f"'{mpicc}' does not say what it is" in done.stderr
    assert "unrecognized command-line option '--version'" in done.stderr
    assert not (tmp_path / ".venv" / "bin").exists()


def test_step_that_fails_is_named(copied, tmp_path):
    python = script(
        tmp_path / "python",
        f'if [ "$1" = -m ]; then echo "no room"; exit 3; fi\nexec {shutil.which("python3")} "$@"',
    )
    # MPICH's compiler gets that far, too
    done = bash(copied, MPICC=compiler(tmp_path / "bin", *SAYS["MPICH"]), PYTHON=python)
    assert done.returncode == 1
    assert f"setup.sh: failed: making {tmp_path}/.venv" in done.stderr
    assert "no room" in done.stdout


def test_command_that_fails_outside_a_step_is_named(copied, tmp_path):
    python = script(
        tmp_path / "python",
        f"""if [ "$1" = -VV ]; then exit 7; fi
if [ "$2" = venv ]; then
    {shutil.which("python3")} -m venv --without-pip "$3" && mkdir "$3/lib/pip" && rm "$3/bin/python"
    cp "$0" "$3/bin/python"
    exit
fi
exec {shutil.which("python3")} "$@" """,
    )
    done = bash(copied, MPICC=compiler(tmp_path / "bin", *SAYS["MPICH"]), PYTHON=python)
    assert done.returncode == 7
    assert "setup.sh: failed (status 7) in line" in done.stderr
    assert 'python_version=$("$PY" -VV)' in done.stderr


def test_demo_starts_the_launcher_of_its_mpi(copied, tmp_path):
    """Debian has two side by side: ranks that mpirun of the other MPI starts are each alone."""
    script(copied, "exit 0")
    folder, venv = tmp_path / "bin", tmp_path / ".venv" / "bin"
    for place in (folder, venv):
        place.mkdir(parents=True)
    script(venv / "python", "exit 0")
    script(folder / "mpirun", "exit 9")
    script(folder / "mpirun.mpich", 'echo "started: $*"')
    done = bash(tmp_path / "jobs" / "demo.sh", MPICC=script(folder / "mpicc.mpich", "exit 0"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("started: -n 2 python -m xfelmpi ") == 2
    assert f"Processing it: {folder}/mpirun.mpich -n 2" in done.stdout
