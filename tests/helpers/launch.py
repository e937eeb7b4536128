"""The program as users start it: a process of its own, alone or under mpirun."""

import faulthandler
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from patience import patience


def limit(seconds: float = 30) -> float:
    """Return how long a job that takes up to `seconds` on a quiet machine may take now.

    Half a minute is what an error may take to end a job, and more than enough for the small runs
    of the tests.
    """
    return seconds * patience()


_FOR_TESTS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PYTHONWARNINGS": "error::RuntimeWarning",
}


_NO_PAGE = "the run report could not be made"


def run_xfelmpi(args, ranks: int = 0, *, seconds: float | None = None, **env):
    """Run ``python -m xfelmpi ARGS``; see `run_python`.

    A page that failed would only be a warning of the job.
    """
    done = run_python(["-m", "xfelmpi", *args], ranks, seconds=seconds, **env)
    assert _NO_PAGE not in done.stderr, done.stderr
    return done


crashes = sys.__stderr__
"""Where this process tells that it crashes (`conftest`)."""


def call_xfelmpi(args) -> subprocess.CompletedProcess:
    """Run the program within this process: a whole job, or what is refused, in half of the time.

    Only what is not about processes: signals, limits of memory, the environment, many ranks.

    Parameters
    ----------
    args : list
        Arguments; anything with a text form.
    """
    from xfelmpi.__main__ import main
    from xfelmpi.core import job, shutdown

    log = logging.getLogger("xfelmpi")
    before = log.handlers[:], log.propagate, log.level
    # and a plan of how it stops
    vars(shutdown.stop_plan).update(vars(type(shutdown.stop_plan)()))
    with (
        # every job has an id of its own
        patch.object(job, "_job", type(job._job)()),
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
        patch.dict(os.environ, _environment({}), clear=True),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            status = main(list(map(str, args)))
        except SystemExit as stop:
            status = stop.code
        finally:
            # the program sends both to what is standard error until here
            faulthandler.unregister(signal.SIGVTALRM)
            faulthandler.enable(crashes)
            log.handlers[:], log.propagate, level = before
            log.setLevel(level)
        out_text, err_text = (file.seek(0) or file.read() for file in (out, err))
    assert _NO_PAGE not in err_text, err_text
    return subprocess.CompletedProcess(args, status, out_text, err_text)


def run_job(args, ranks: int = 0) -> subprocess.CompletedProcess:
    """Run the program under mpirun, or without ranks in this process; see `call_xfelmpi`."""
    return run_xfelmpi(args, ranks) if ranks else call_xfelmpi(args)


def process(mock, output, *options, ranks: int = 0, status: int = 0, page: bool = False):
    """Run the main job on a simulated run, without ranks in this process; check how it ends.

    The page takes more time than all the rest of a small job, and half of that in this process.

    Parameters
    ----------
    mock : MockRun
        Whose geometry is taken if `options` name none.
    output : Path
        Folder of the outputs; has no masks to be found.
    *options
        Further arguments.
    ranks : int
        See `run_python`.
    status : int
        The exit status that is expected.
    page : bool
        Make the page, too, afterwards and in this process.
    """
    paths = ["--prefix", mock.options.prefix, "--output", output]
    if "--geometry" not in options:
        paths += ["--geometry", mock.paths.geometry]
    done = run_job([mock.options.run, *paths, "--no-report", *options], ranks)
    text = done.stdout + done.stderr
    assert done.returncode == status, text
    assert "Traceback" not in text, text
    if page:
        shown = call_xfelmpi(["report", mock.options.run, *paths[:4]])
        assert shown.returncode == 0, shown.stdout + shown.stderr
    return done


def run_python(args, ranks: int = 0, *, seconds: float | None = None, **env):
    """Run a Python of its own, under mpirun if `ranks` is not 0.

    Parameters
    ----------
    args : list
        Arguments; anything with a text form.
    ranks : int
        Number of MPI ranks; 0: without mpirun.
    seconds : float, optional
        When to give up (default: `limit`): `subprocess.TimeoutExpired`, with all ranks ended.
    **env
        Environment variables besides those of the tests; None removes one.

    Returns
    -------
    subprocess.CompletedProcess
        With the text of standard output and standard error.
    """
    command = [sys.executable, *map(str, args)]
    if ranks:
        mpirun = shutil.which("mpirun")
        assert mpirun, "no mpirun"
        command = [mpirun, "-n", str(ranks), *command]
    return run_program(command, seconds=seconds, **env)


def run_program(command: list, folder=None, *, seconds: float | None = None, **env):
    """Run any program in a folder; see `run_python`."""
    command = list(map(str, command))
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(env),
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=limit() if seconds is None else seconds)
    except subprocess.TimeoutExpired:
        # mpirun ends its ranks when it is asked to, not when it is killed
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _environment(changes) -> dict[str, str]:
    # a batch job around the tests, and whoever's experiment folder, must not leak in
    foreign = ("SLURM_", "OMPI_COMM_", "OMPI_UNIVERSE_", "PMIX_", "PMI_", "EXP_PREFIX")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    environment |= _FOR_TESTS
    for name, value in changes.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = str(value)
    return environment


def output_files(folder: Path) -> list[str]:
    """Return all files of a folder of outputs but what failed jobs leave: report, index, lock."""
    others = ("report/", "index/", "lock/")
    return [name for name in all_files(folder) if not name.startswith(others)]


def all_files(folder: Path) -> list[str]:
    """Return the names of all files below a folder, relative to it."""
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def write_script(path: Path, text: str) -> None:
    """Write a program of lines for bash."""
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
