"""Picks the command, and makes sure that a failure anywhere ends the whole job.

Under mpirun, srun or alone: ``xfelmpi RUN …`` is ``xfelmpi process RUN …``.
"""

import gc
import importlib
import os
import platform
import sys
import traceback

from xfelmpi import __version__
from xfelmpi._commit import COMMIT
from xfelmpi.core import shutdown
from xfelmpi.core.errors import (
    EXIT_BUG,
    EXIT_COMPLETE,
    EXIT_UNUSABLE,
    LostLockError,
    UsageError,
    XfelmpiError,
    as_user_error,
)
from xfelmpi.core.hdf5_locks import open_without_locks
from xfelmpi.core.job import agree_on_process_id
from xfelmpi.core.log import allow_any_text, shortened, start_logging
from xfelmpi.core.streams import secure_streams
from xfelmpi.core.text import printable

COMMANDS = {
    "process": "process a run: write events, powder, CXI and EMC (also: xfelmpi RUN)",
    "merge": "merge the hits of processed runs into one CXI, EMC and detector file",
    "patch": "change geometry, distance or mask in finished files, without the run",
    "size": "measure the hits of processed runs again, without the run",
    "classes": "add the classes that Dragonfly found to the files of processed runs",
    "geometry": "find the beam centre and the quadrants from the hits of processed runs",
    "darks": "make calibration constants for raw data from dark runs",
    "mask": "make a mask for every memory cell from a run",
    "simulate": "write a simulated run with known ground truth",
    "vds": "write the virtual dataset of a run",
    "verify": "check that the outputs of a run are intact, and agree with the run",
    "report": "write run report and run overview again, from the output files",
    "watch": "process every run of a beamtime as soon as it is complete",
    "submit": "submit several runs to Slurm",
    "comment": "add a comment on a run to the run overview",
    "damnit-context": "print the context file for DAMNIT",
    "show": "show a processed run, or one hit, in the terminal",
}

_OF_ONE_PROCESS = ("watch", "submit", "comment", "damnit-context")
"""Commands without ranks: they start without MPI, and can start jobs that have it."""

_TOP_HELP = """\
usage: xfelmpi RUN [options]
       xfelmpi COMMAND [arguments]

{about}

commands:
{commands}

  help           show this, or the options of a command: xfelmpi help show

options:
  -h, --help  show this
  --version   show the version, and the commit of the sources

The options of a command: xfelmpi COMMAND --help. On several ranks: mpirun -n 8 xfelmpi 50,
or srun --mpi=pmix -n 64 xfelmpi 50.
"""


def _is_run(text: str) -> bool:
    """Whether a word means a run, also in a form that is refused later: 50, r0050, 50-53."""
    return text.lstrip("rR")[:1].isdecimal()


def _as_run_folder(text: str) -> str:
    """Return the command for the folder of a run, e.g. ``p007927/proc/r0050/``; else nothing."""
    kind, run = ["", "", *text.rstrip("/").split("/")][-2:]
    if kind not in ("proc", "raw") or run[:1] not in ("r", "R") or not run[1:].isdecimal():
        return ""
    prefix = text.rstrip("/").removesuffix(f"{kind}/{run}").rstrip("/") or "."
    return f"xfelmpi {int(run[1:])} --prefix {prefix}"


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit status: 0 complete, 1 bug, 2 unusable, 3 partial.

    As a program of its own (without `argv`) it also takes care of SIGTERM, SIGINT, SIGHUP and
    SIGUSR1, which end it with 128 + the signal's number.
    """
    if "_ARGCOMPLETE" in os.environ and argv is None:
        from xfelmpi.cli.completion import complete

        complete(COMMANDS, _is_run)
    if argv is None:
        secure_streams()
        shutdown.watch()
    allow_any_text()
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_help())
        return EXIT_COMPLETE if argv else EXIT_UNUSABLE
    if argv[0] == "--version":
        sys.stdout.write(f"xfelmpi {__version__} (commit {COMMIT})\n")
        return EXIT_COMPLETE
    if argv[0] == "help":
        argv = [*(word for word in argv[1:2] if word != "help"), "--help"]
        if len(argv) == 1:
            return main(argv)
    command = "process" if _is_run(argv[0]) or argv[0].startswith("-") else argv[0]
    if command == argv[0]:
        argv = argv[1:]
    if command not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(command, [*COMMANDS, "help"], 1)
        meant = _as_run_folder(command) or (near[0] if near else "")
        hint = f"; did you mean {printable(meant)}?" if meant else ""
        sys.stderr.write(f"xfelmpi: no command {printable(repr(command))}{hint}\n\n{_help()}")
        return EXIT_UNUSABLE
    if {"-h", "--help"} & set(argv):
        # no need to start MPI for a help text
        try:
            return load(command).main(argv, None)
        except XfelmpiError as error:
            sys.stderr.write(f"xfelmpi: error: {error}\n")
            return error.exit_status
    return _run_alone(command, argv) if command in _OF_ONE_PROCESS else _run(command, argv)


def _help() -> str:
    import xfelmpi

    commands = "\n".join(f"  {name:14} {line}" for name, line in COMMANDS.items())
    return _TOP_HELP.format(about=xfelmpi.__doc__, commands=commands)


def load(command: str):
    """Return the module of a command."""
    # what modules define stays: looking for garbage in it takes a tenth of the start
    gc.disable()
    module = importlib.import_module(f"xfelmpi.cli.{command.replace('-', '_')}")
    gc.freeze()
    gc.enable()
    return module


def _run_alone(command: str, argv: list[str]) -> int:
    from xfelmpi.mpi.launch import leave_mpi_alone, started_processes
    from xfelmpi.mpi.one_process import OneProcess

    try:
        if started_processes() not in (None, 1):
            raise UsageError(f"{command} is a command of one process: start it without MPI")
        _prepare()
        # MPI would leave things in the environment that jobs started from here must not have
        leave_mpi_alone()
        start_logging(0)
        return load(command).main(argv, None)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_BUG
    except BaseException as error:
        return _fail(OneProcess(), error)


def _prepare() -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "EXTRA_NUM_THREADS"):
        os.environ.setdefault(name, os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    open_without_locks()
    # h5py asks for the machine, and is told the processor with it, for which Python would start
    # the program uname: a fork on every rank, after MPI has started
    vars(platform.uname())["processor"] = platform.machine()


def _run(command: str, argv: list[str]) -> int:
    _prepare()
    from xfelmpi.mpi import all_ranks

    try:
        comm = all_ranks()
    except UsageError as error:
        if not getattr(error, "told_elsewhere", False):
            sys.stderr.write(f"xfelmpi: error: {printable(error)}\n")
        return error.exit_status
    from xfelmpi.io.input_file import end_with_traceback

    end_with_traceback()
    agree_on_process_id(comm)
    start_logging(comm.rank)
    try:
        return load(command).main(argv, comm)
    except SystemExit as stop:
        # whoever leaves in the middle of a job fails, whatever the status: the others wait for it
        return _leave(comm, stop.code if isinstance(stop.code, int) and stop.code else EXIT_BUG)
    except BaseException as error:
        # mpirun sends SIGTERM to the ranks that are left when one has failed
        shutdown.stop_plan.speaks = False
        return _fail(comm, error)


def _fail(comm, error: BaseException) -> int:
    """Say what happened, once, and end the job on all ranks."""
    # rank 0 gives the lock back when the job is stopped, perhaps before this rank knows of it
    shutdown.wait_for_end(2.0 if isinstance(error, LostLockError) else 0.0)
    error = as_user_error(error)
    status = getattr(error, "exit_status", EXIT_BUG)
    if not getattr(error, "told_elsewhere", False):
        where = f" (rank {comm.rank})" if comm.size > 1 else ""
        if isinstance(error, XfelmpiError):
            sys.stderr.write(f"xfelmpi: error{where}: {shortened(printable(error))}\n")
        else:
            trace = printable(traceback.format_exc(), keep="\n")
            sys.stderr.write(f"xfelmpi: failed{where}:\n{trace}")
        sys.stderr.flush()
    return status if getattr(error, "agreed", False) else _leave(comm, status)


def _leave(comm, status: int) -> int:
    """End all ranks at once; they may be waiting for this one."""
    sys.stdout.flush()
    if comm.size > 1 and status:
        comm.Abort(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
