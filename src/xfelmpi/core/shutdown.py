"""Signals: a job that is stopped says so once, and leaves nothing unfinished behind.

Python runs the handler of a signal in the main thread, between two of its instructions; a rank that
waits inside MPI for one that has left would never come to that. So all threads block them,
which also keeps system calls from being interrupted, and a thread of its own waits for them. It
communicates with nobody: it saves a checkpoint of what this rank has, removes unfinished files on
rank 0, and ends the process. What must not be seen half done is inside `defer_shutdown`, for which
that thread waits.
"""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep

from xfelmpi.core.errors import EXIT_SIGNAL
from xfelmpi.core.streams import launchers_terminal
from xfelmpi.core.text import printable

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""Time limit and end of a job, Ctrl-C, a terminal that closes, and what batch scripts ask for."""

STUCK_SECONDS = 10
"""What the main thread may take to give back the interpreter's lock, which HDF5's calls hold."""

PATIENCE = 25
"""Seconds that a block of frames, or giving files their names, may take to be finished.

Slurm sends the signal 60 s or more before the time limit (jobs/process_run.sh), and ends the other
ranks 30 s (KillWait) after the first has left.
"""

LATE = 0.6
"""Seconds after which rank 0 no longer waits for its checkpoint, if mpirun kills it after 1 s."""


@dataclass
class StopPlan:
    """What is said and done when the job is stopped.

    Parameters
    ----------
    speaks : bool
        Whether this is the rank that tells, and removes what is unfinished.
    stage, advice : callable
        Return the stage of the job, and what to do next, for the message; may be empty.
    progress : callable
        Returns how far the stage is, likewise.
    save : callable
        Saves a checkpoint of what this rank has done, without communication.
    record : callable
        Called with what was said, to keep it; only on the rank that tells.
    releases : list of callable
        Called last, by the rank that tells: each lets other jobs have some outputs. May be called
        twice.
    resumable : bool
        Whether there may be something to continue from.
    unfinished : set of Path
        Files that are being written.
    """

    speaks: bool = True
    stage: Callable[[], str] = str
    advice: Callable[[], str] = str
    progress: Callable[[], str] = str
    save: Callable[[], None] = lambda: None
    record: Callable[[str], None] = lambda _text: None
    releases: list[Callable[[], None]] = field(default_factory=list)
    resumable: bool = False
    unfinished: set[Path] = field(default_factory=set)


stop_plan = StopPlan()
"""Of this process: signals are, too."""

_busy = threading.Lock()
_naming = threading.Lock()
_stopped = threading.Event()


def watch() -> None:
    """Take care of `SIGNALS` from now on; before any other thread is started.

    One that whoever started the program wants ignored (``nohup``) stays ignored.
    """
    wanted = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    names = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")
    stop_plan.speaks = next((os.environ[n] for n in names if n in os.environ), "0") == "0"
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    threading.Thread(target=_wait_and_stop, args=(wanted,), daemon=True).start()


@contextmanager
def defer_shutdown():
    """Let a block end before this rank's work is saved, if the job is stopped; not to be nested."""
    while _stopped.is_set():
        sleep(1)
    with _busy:
        yield


@contextmanager
def publishing():
    """Let all outputs get their names, and none be removed, if the job is stopped meanwhile."""
    with _naming:
        yield


def wait_for_end(seconds: float = 0.0) -> None:
    """Wait for the end of the process if the job is stopped, or will be so within some seconds.

    An error that follows from the end of another rank is not to be told, and not to be the status.
    """
    if _stopped.wait(seconds):
        while True:
            sleep(1)


def describe_job(rank: int, n_ranks: int, argv: list[str], stages) -> None:
    """Prepare what is said if the job is stopped.

    Parameters
    ----------
    rank, n_ranks : int
    argv : list of str
        The command line, without the program's name.
    stages : Stages
    """

    def advice() -> str:
        if "write" in stages.seconds:
            return "all outputs are complete; only the run report may be missing"
        if stop_plan.resumable and "--resume" not in argv:
            return f"continue with: {launched_as([*argv, '--resume'], n_ranks)}"
        what = "continue" if "--resume" in argv else "start again"
        return f"{what} with: {launched_as(argv, n_ranks)}"

    stop_plan.speaks = rank == 0
    stop_plan.stage = lambda: stages.now
    stop_plan.advice = advice


def launched_as(argv: list[str], n_ranks: int) -> str:
    """Return the command line of this job as a user would type it.

    ``XFELMPI_LAUNCHER`` says how the script that started it was called.
    """
    command = ["xfelmpi"]
    if launcher := os.environ.get("XFELMPI_LAUNCHER"):
        try:
            command = shlex.split(launcher)
        except ValueError:  # a quotation mark too many: one word, then
            command = [launcher]
    elif n_ranks > 1 and "SLURM_STEP_ID" in os.environ:
        command = ["srun", "--mpi=pmix", "-n", str(n_ranks), *command]
    elif n_ranks > 1:
        command = ["mpirun", "-n", str(n_ranks), *command]
    return shlex.join([*command, *argv])


def _wait_and_stop(wanted: list[int]) -> None:
    from xfelmpi._kernels import _signals

    number = _signals.wait(wanted, STUCK_SECONDS)
    # the lock was given back; from here on it takes as long as what is held, and saving
    signal.alarm(2 * PATIENCE)
    _stopped.set()
    try:
        _stop(number)
    finally:
        os._exit(EXIT_SIGNAL + number)


def _stop(number: int) -> None:
    speaks = stop_plan.speaks
    told = ""
    if speaks:
        # whatever it says, what follows must be done
        with suppress(Exception):
            told = _tell(number)
        # before anything that takes time: mpirun kills all ranks a second after the first has left
        _remove_unfinished()
        if _killed_soon():
            # the lock must not outlive the job; a checkpoint that takes longer is lost anyway
            late = threading.Timer(LATE, _release)
            late.daemon = True
            late.start()
    if _busy.acquire(timeout=PATIENCE):
        with suppress(Exception):
            stop_plan.save()
    if speaks:
        _remove_unfinished()
        with suppress(Exception):
            stop_plan.record(told)
        _release()


def _release() -> None:
    for release in stop_plan.releases:
        with suppress(Exception):
            release()


def _killed_soon() -> bool:
    """Whether mpirun kills this process a second after the signal, as it does unless told."""
    names = ("OMPI_MCA_odls_base_sigkill_timeout", "PRTE_MCA_odls_base_sigkill_timeout")
    told = any(os.environ.get(name, "1") not in ("", "0", "1") for name in names)
    return "OMPI_COMM_WORLD_SIZE" in os.environ and not told


def _remove_unfinished() -> None:
    if not _naming.acquire(timeout=PATIENCE):
        return
    with suppress(RuntimeError):  # another file was begun meanwhile
        for path in stop_plan.unfinished:
            with suppress(OSError):
                path.unlink(missing_ok=True)
    _naming.release()


def _tell(number: int) -> str:
    limit = ""
    if number == signal.SIGTERM:
        # mpirun takes Ctrl-C for itself, and ends its ranks by SIGTERM
        limit = " (Ctrl-C?)" if launchers_terminal() else limit
        limit = " (time limit?)" if "SLURM_JOB_ID" in os.environ else limit
    # where a progress bar may stand
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    what = f"stopped by {signal.Signals(number).name}{limit}"
    if stop_plan.stage():
        what += f" in stage {stop_plan.stage()} {stop_plan.progress()}".rstrip()
    advice = stop_plan.advice()
    lines = [printable(line) for line in (what, advice) if line]
    sys.stderr.write(clear + "".join(f"xfelmpi: {line}\n" for line in lines))
    sys.stderr.flush()
    return "; ".join(lines)
