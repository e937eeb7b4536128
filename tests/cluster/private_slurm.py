"""A Slurm of its own for tests: munged, slurmctld and slurmd with everything in one folder.

One node, this machine, with 64 configured CPUs however many it has; partition ``upex``, whose jobs
those of ``urgent`` put back into the queue.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

CPUS = 64
DAEMONS = ("munged", "slurmctld", "slurmd")
START_SECONDS = 60

CONFIG = """\
ClusterName=private
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
AuthType=auth/munge
# short, so that a job that is put back into the queue need not wait for two minutes
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=pmix
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
ReturnToService=2
KillWait=5
MinJobAge=3600
FirstJobId={first_job}
SlurmctldTimeout=60
SlurmdTimeout=60
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=20000 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=upex Nodes=localhost Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO \
PriorityTier=1
PartitionName=urgent Nodes=localhost MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=10 \
PreemptMode=OFF
"""


class SlurmError(RuntimeError):
    """A daemon did not start, or a job did not end."""


def why_unavailable() -> str:
    """Return why a private Slurm cannot run here; empty if it can."""
    lacking = [program for program in (*DAEMONS, "sbatch", "srun") if not find(program)]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    if os.geteuid() != 0:
        return "needs root"
    return ""


def find(program: str) -> str | None:
    """Return the path of a program, also of one that is not on a user's PATH."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def free_ports(n: int) -> list[int]:
    """Return `n` different ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class PrivateSlurm:
    """Starts the daemons; a context manager that stops them, also if the start failed.

    Parameters
    ----------
    folder : Path
        Empty folder for all of it. Munge's socket lies in it, whose path has at most 107 bytes.
    """

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.config = self.folder / "slurm.conf"

    def __enter__(self):
        try:
            self._write_files()
            self._start()
            self._wait_until_idle()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which Slurm's commands talk to this Slurm."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM", "SBATCH", "SRUN", "OMPI_", "PMIX_", "PMI_"))
        }
        return {**kept, "SLURM_CONF": str(self.config)}

    def _write_files(self):
        # munged refuses a key that others may read and a folder that others may write.
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        ctld_port, slurmd_port = free_ports(2)
        # PMIx names its files by job: those of another private Slurm must be others, or a step is
        # not launched, and srun ends with 0.
        self.config.write_text(
            CONFIG.format(
                folder=self.folder, ctld_port=ctld_port, slurmd_port=slurmd_port, cpus=CPUS,
                first_job=100 * ctld_port,
            )
        )  # fmt: skip

    def _start(self):
        path = str(self.folder)
        # --force: above the folder there may be one that all may write to, such as /tmp.
        self._daemon(
            "munged", "--force", f"--key-file={path}/munge.key", f"--socket={path}/munge.socket",
            f"--pid-file={path}/munged.pid", f"--log-file={path}/munged.log",
            f"--seed-file={path}/munge.seed",
        )  # fmt: skip
        self._wait_for((self.folder / "munge.socket").exists, "munged made no socket")
        self._daemon("slurmctld", "-f", str(self.config))
        self._start_node()

    def _start_node(self):
        self._daemon("slurmd", "-f", str(self.config), "-N", "localhost")

    def crash_node(self):
        """Kill slurmd and all processes of jobs, as if the node had lost its power; start it again.

        What they were working on is not told to anybody.
        """
        listed = self.run("scontrol", "listpids", check=False).stdout.splitlines()[1:]
        pids = [int(line.split()[0]) for line in listed if line.split()[:1]]
        slurmd = int((self.folder / "slurmd.pid").read_text())
        for pid in (slurmd, *(pid for pid in pids if pid > 1)):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self._wait_for(lambda: not _alive(slurmd), "slurmd did not end")
        self._start_node()

    def _daemon(self, program: str, *arguments: str):
        with open(self.folder / f"{program}.start", "wb") as output:
            status = subprocess.run(
                [find(program), *arguments], stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, env=self.environment, timeout=START_SECONDS, check=False,
            ).returncode  # fmt: skip
        if status:
            raise SlurmError(f"{program}: status {status}\n{self.logs()}")

    def _wait_for(self, condition, message: str, seconds: float = START_SECONDS):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise SlurmError(f"{message} within {seconds} s\n{self.logs()}")
            time.sleep(0.25)  # asking Slurm takes time of the CPU

    def _wait_until_idle(self):
        def idle():
            done = self.run("sinfo", "--noheader", "--format=%T", check=False)
            return done.stdout.strip() == "idle"

        self._wait_for(idle, "the node was not ready")

    def _end_jobs(self):
        self.run("scancel", "--state=PENDING", "--me")
        self.run("scancel", "--me")
        self.wait_for_all(15)
        # The keeper of a step outlives it a little; it has a socket here until it ends.
        self._wait_for(
            lambda: not any(self.folder.glob("spool/localhost_*.*")), "steps did not end", 15
        )

    def stop(self):
        """Cancel what still runs, stop the daemons by their process ids, wait for their end."""
        if (self.folder / "slurmd.pid").exists():
            with contextlib.suppress(SlurmError, subprocess.TimeoutExpired):
                self._end_jobs()
        pids = {}
        for program in reversed(DAEMONS):
            try:
                pid = int((self.folder / f"{program}.pid").read_text())
                os.kill(pid, signal.SIGTERM)
            except (OSError, ValueError):
                continue
            pids[program] = pid
        end = time.monotonic() + 20
        for pid in pids.values():
            while _alive(pid):
                if time.monotonic() > end:
                    os.kill(pid, signal.SIGKILL)
                    break
                time.sleep(0.05)

    def logs(self) -> str:
        """Return the end of every daemon's log."""
        paths = sorted((*self.folder.glob("*.start"), *self.folder.glob("*.log")))
        return "\n".join(f"--- {p.name}\n{p.read_text(errors='replace')[-2000:]}" for p in paths)

    def run(self, *command, check=True, timeout=600, **options) -> subprocess.CompletedProcess:
        """Run one command in this Slurm; output is captured. Options are those of `subprocess`."""
        environment = {**self.environment, **options.pop("env", {})}
        done = subprocess.run(
            [find(command[0]) or command[0], *map(str, command[1:])], text=True, timeout=timeout,
            capture_output=True, env=environment, check=False, **options,
        )  # fmt: skip
        if check and done.returncode:
            raise SlurmError(f"{command}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def submit(self, *arguments, **options) -> int:
        """Submit a job with ``sbatch``; return its number."""
        done = self.run("sbatch", "--parsable", *arguments, **options)
        return int(done.stdout.strip().split(";")[0])

    def job(self, job_id) -> dict[str, str]:
        """Return what ``scontrol show job`` says of one job or array task, such as ``12_50``."""
        text = self.run("scontrol", "--oneliner", "show", "job", job_id).stdout
        pairs = (word.split("=", 1) for word in text.split() if "=" in word)
        return dict(pairs)

    def wait(self, job_id, seconds: float = 600) -> tuple[str, str]:
        """Wait for the end of a job or array task; return (state, exit code ``status:signal``)."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
        self._wait_for(
            lambda: self.job(job_id).get("JobState") in over, f"job {job_id} did not end", seconds
        )
        job = self.job(job_id)
        return job["JobState"], job["ExitCode"]

    def wait_for_all(self, seconds: float = 600) -> None:
        """Wait for the end of all jobs."""
        self._wait_for(
            lambda: not self.run("squeue", "--noheader").stdout.strip(), "jobs did not end", seconds
        )


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"
