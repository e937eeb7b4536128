"""What the benchmark programs share: whole commands timed, rows of the table of targets.

    python tests/benchmarks/bench.py benchmark.csv

shows the table that was collected in a file.
"""

import csv
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

PYTHON = sys.executable


@dataclass(frozen=True)
class Spent:
    """What a command took: seconds of the clock, CPU seconds of it and its children, what it said.

    Its peak memory is that of the largest single process, in MB.
    """

    wall: float
    cpu: float
    memory: float
    said: str


def timed(command, **env) -> Spent:
    """Run a command to its end.

    Raises
    ------
    RuntimeError
        If it fails, with what it said; 3, complete but some input was excluded, is no failure.
    """
    start = monotonic()
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **env},
    )
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    wall = monotonic() - start
    if os.waitstatus_to_exitcode(status) not in (0, 3):
        raise RuntimeError(f"{' '.join(map(str, command))}\n{said}")
    return Spent(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6, said)


def xfelmpi(*arguments, ranks: int = 0) -> Spent:
    """Run the program, alone or on ranks: under srun inside a Slurm job, else under mpirun."""
    start = ["mpirun", "-n"]
    if "SLURM_JOB_ID" in os.environ:
        start = ["srun", "--mpi=pmix", "--kill-on-bad-exit=1", "--ntasks"]
    return timed([*([*start, ranks] if ranks else []), PYTHON, "-m", "xfelmpi", *arguments])


def simulated(folder: Path, run: int, trains: int, *options) -> Path:
    """Return an experiment folder that has this simulated run; it is made unless it is there."""
    if not any((folder / kind / f"r{run:04}").exists() for kind in ("proc", "raw")):
        xfelmpi("simulate", run, "--prefix", folder, "--trains", trains, *options, ranks=2)
    return folder


def row(what: str, value: float, target: str, unit: str = "") -> None:
    """Show one row of the table, and append it to the CSV file that ``BENCHMARK_CSV`` names."""
    shown = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    _show(what, shown, unit, target)
    if path := os.environ.get("BENCHMARK_CSV"):
        with open(path, "a", newline="") as file:
            csv.writer(file).writerow([what, shown, unit, target])


def _show(what: str, value: str, unit: str, target: str) -> None:
    sys.stdout.write(f"{what:64} {value:>8} {unit:4} {target}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    with open(sys.argv[1], newline="") as table:
        for line in csv.reader(table):
            _show(*line)
