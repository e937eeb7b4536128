"""Where jobs run: in Slurm, or on this machine. Both run ``jobs/process_run.sh``.

A job is found again by its name: in Slurm as the job's comment, here by its process, and everywhere
by its result file, in which the script says that it has begun, and how it ended. The script makes
that file only if it is not there: of two jobs of the same name, one does nothing.
"""

import os
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from xfelmpi.core.errors import OutputError, UsageError
from xfelmpi.core.paths import WatchFiles
from xfelmpi.core.regular_file import open_regular, open_to_append
from xfelmpi.core.text import one_line
from xfelmpi.io.output_file import cannot_write, make_folder
from xfelmpi.output.watch_state import WatchedJob

PATIENCE = 60.0
"""Seconds that a command of Slurm may take."""

PENDING, ALIVE = "pending", "running"

_LARGEST = 1 << 20
"""Bytes of a result file that are read."""

_WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED")
"""States of jobs that do not run, but will."""


@dataclass(frozen=True)
class Result:
    """What a job says itself.

    Parameters
    ----------
    owner : str
        Number of the job, or process and host; empty if it has not begun.
    status : int or None
        Exit status, None if it has not ended.
    """

    owner: str = ""
    status: int | None = None


def read_result(path: Path) -> Result:
    """Return what a job has written into its result file."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            lines = file.read(_LARGEST).decode(errors="replace").split("\n")
    except OSError:
        return Result()
    result = Result()
    for line in lines[:1000]:
        word, _, rest = line.partition(" ")
        if word == "job":
            result = Result(rest)
        elif word == "end" and rest.isdecimal():
            result = Result(result.owner, int(rest))
    return result


def find_script() -> Path:
    """Return the batch script of the project that this program is installed in.

    Raises
    ------
    UsageError
        If it is not there.
    """
    folders = [Path(sys.prefix).parent]
    if os.environ.get("XFELMPI_ROOT"):
        folders.insert(0, Path(os.environ["XFELMPI_ROOT"]))
    for folder in folders:
        script = folder / "jobs" / "process_run.sh"
        if script.is_file():
            return script.absolute()
    raise UsageError(
        f"no jobs/process_run.sh in {folders[0]}; name the project's folder with XFELMPI_ROOT"
    )


def job_environment() -> dict[str, str]:
    """Return an environment for jobs: without what belongs to this process as a job or rank."""
    foreign = ("SLURM_", "OMPI_COMM_", "OMPI_UNIVERSE_", "PMIX_", "PMI_", "XFELMPI_RESULT")
    # where Slurm itself is configured must stay
    return {k: v for k, v in os.environ.items() if k == "SLURM_CONF" or not k.startswith(foreign)}


def _environment_of(script: Path, result: Path) -> dict[str, str]:
    """Return the environment of a job that says in a file how it ended."""
    project = {"XFELMPI_RESULT": str(result.absolute()), "XFELMPI_ROOT": str(script.parent.parent)}
    return {**job_environment(), **project}


@dataclass
class SlurmQueue:
    """Submits jobs with ``sbatch`` and asks ``squeue`` for them.

    Parameters
    ----------
    files : WatchFiles
    script : Path
    options : tuple of str
        For ``sbatch``.
    cluster : str
        Another one than the machine's, or empty.
    most : int
        Jobs at the same time.
    where : str
        What the log calls it.
    """

    files: WatchFiles
    script: Path
    options: tuple[str, ...] = ()
    cluster: str = ""
    most: int = 1000
    where: str = "Slurm"

    def __post_init__(self):
        for program in ("sbatch", "squeue"):
            if not shutil.which(program):
                raise UsageError(f"no {program} on this machine; run the jobs here with --local")

    def comment(self, name: str) -> str:
        """Return what Slurm keeps with a job of a name."""
        folder = str(self.files.folder.resolve())
        return f"xfelmpi:{blake2b(folder.encode(), digest_size=6).hexdigest()}:{name}"

    def submit(self, name: str, words: list[str], extra: list[str]) -> str:
        """Submit a job and return its number.

        Parameters
        ----------
        name : str
        words : list of str
            Arguments of the script.
        extra : list of str
            Further options for ``sbatch``.

        Raises
        ------
        OutputError
            If Slurm does not take it, or does not say whether it did.
        """
        result = self.files.result(name)
        make_folder(result.parent)
        environment = _environment_of(self.script, result)
        command = ["sbatch", "--parsable", f"--job-name=xfelmpi-{name}", *self.options, *extra]
        # not into the folder of whoever watches; of this form the script knows it as Slurm's own
        logs = self.files.log(name).parent.absolute()
        make_folder(logs)
        command += [f"--comment={self.comment(name)}", f"--output={logs}/slurm-%j.out"]
        said = ask_slurm([*command, str(self.script), *words], environment)
        lines = said.split()
        number, _, cluster = lines[-1].partition(";") if lines else ("", "", "")
        if not number.isdecimal():
            raise OutputError(f"sbatch: found {said[:200]!r}, expected the number of a job")
        return f"{number};{cluster}" if cluster else number

    def alive(self, _jobs: list[WatchedJob]) -> dict[str, tuple[str, str]] | None:
        """Return (state, number) of jobs in the queue by name; None if Slurm does not answer."""
        cluster = [f"--clusters={self.cluster}"] if self.cluster else []
        command = ["squeue", "--me", "--noheader", *cluster, "--format=%A|%T|%k"]
        try:
            said = ask_slurm(command, job_environment())
        except OutputError:
            return None
        found = {}
        for line in said.splitlines():
            number, _, rest = line.strip().partition("|")
            state, _, comment = rest.partition("|")
            if comment.startswith(self.comment("")):
                about = PENDING if state in _WAITING else ALIVE
                suffix = f";{self.cluster}" if self.cluster else ""
                found[comment.removeprefix(self.comment(""))] = (about, number + suffix)
        return found


@dataclass
class LocalQueue:
    """Runs jobs on this machine, each a session of its own that outlives this process.

    Parameters
    ----------
    files : WatchFiles
    script : Path
    most : int
        Jobs at the same time.
    where : str
        What the log calls it.
    """

    files: WatchFiles
    script: Path
    most: int = 1
    where: str = "this machine"
    _started: dict[str, subprocess.Popen] = field(default_factory=dict)

    def submit(self, name: str, words: list[str], _extra: list[str]) -> str:
        """Start a job and return an empty text: it has no number.

        Raises
        ------
        OutputError
            If it cannot be started.
        """
        result, log = self.files.result(name), self.files.log(name)
        make_folder(result.parent)
        make_folder(log.parent)
        environment = _environment_of(self.script, result)
        try:
            with os.fdopen(open_to_append(log), "ab") as output:
                self._started[name] = subprocess.Popen(
                    ["bash", str(self.script), *words],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    start_new_session=True,
                    preexec_fn=_unblock_signals,
                )
        except OSError as error:
            if error.filename == str(log):
                raise cannot_write(log, error) from None
            raise OutputError(f"{self.script}: cannot be started ({error.strerror})") from None
        return ""

    def alive(self, jobs: list[WatchedJob]) -> dict[str, tuple[str, str]] | None:
        """Return (state, number) of the jobs that run here by name."""
        found = {}
        for job in jobs:
            child = self._started.get(job.name)
            if child is not None:
                if child.poll() is None:
                    found[job.name] = (ALIVE, "")
                continue
            owner = read_result(self.files.result(job.name)).owner
            if owner and self._runs(job.name, owner):
                found[job.name] = (ALIVE, "")
        return found

    def _runs(self, name: str, owner: str) -> bool:
        """Return whether a process is that of a job, of an earlier watch; elsewhere it may be."""
        pid, _, host = owner.partition(" ")
        if host != os.uname().nodename:
            return True
        wanted = f"XFELMPI_RESULT={self.files.result(name).absolute()}".encode()
        with suppress(OSError):
            return wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return False


def _unblock_signals() -> None:
    import signal

    # this process has them blocked (`shutdown.watch`), which a child would inherit
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def ask_slurm(command: list[str], environment: dict[str, str]) -> str:
    """Run a command of Slurm and return what it says.

    Raises
    ------
    OutputError
        If it fails, or takes too long.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            env=environment,
            check=False,
            preexec_fn=_unblock_signals,
        )
    except subprocess.TimeoutExpired:
        raise OutputError(f"{command[0]}: no answer within {PATIENCE:.0f} s") from None
    except OSError as error:
        raise OutputError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        said = one_line(done.stderr)[:300]
        raise OutputError(f"{shlex.join(command[:1])}: status {done.returncode}: {said}")
    return done.stdout
