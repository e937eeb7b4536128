"""What the start of a rank costs, until it reads its first frame; and its libraries alone.

    python tests/benchmarks/start.py FOLDER [REPEATS [RANKS]]

FOLDER gets a simulated run of two frames unless it has it. Shows rows of the table, with medians
(of 5): seconds of one process that was started without MPI, CPU seconds of each of RANKS (16), and
the calls of the file system that name a file, of one process and of rank 1 of 2, by ``strace``. The
index is kept from an earlier job. Libraries alone: the same after ``import mpi4py.MPI, numpy,
h5py``, which no rank can do without.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import time

from bench import PYTHON, row, simulated, timed, xfelmpi
from first_frame import FOLDER, MARK

RUN = 1
PROGRAM = Path(__file__).with_name("first_frame.py")
LIBRARIES = "--libraries"


def main() -> None:
    prefix = Path(sys.argv[1]).absolute()
    given = list(map(int, sys.argv[2:]))
    repeats, ranks = given + [5, 16][len(given) :]
    simulated(prefix, RUN, 1, "--cells", "0,1")
    job = ["--rank", RUN, "--prefix", prefix, "--no-report"]
    xfelmpi(*job[1:])
    alone = [first_frames(job) for _ in range(repeats)]
    seconds = median(wall for [(wall, _)] in alone)
    row("start of one rank to its first frame", seconds, "≤ 0.3", "s")
    for what, words, target in (("", job, "≤ 0.15"), ("libraries alone: ", [LIBRARIES], "")):
        cpu = median(mean_cpu(first_frames(words, ranks)) for _ in range(repeats))
        row(f"{what}CPU of each of {ranks} ranks until its first frame", cpu, target, "s")
    if not shutil.which("strace"):
        sys.stdout.write("no strace: calls of the file system are not counted\n")
        return
    for what, words, target in (("", job, "≤ 400"), ("libraries alone: ", [LIBRARIES], "")):
        for n, who in ((1, "one process"), (2, "rank 1 of 2")):
            row(f"{what}calls that name a file, start of {who}", calls(words, n), target)


def first_frames(words: list, ranks: int = 0) -> list[tuple[float, float]]:
    """Return seconds and CPU seconds of every process until its first frame."""
    launcher = ["mpirun", "-n", ranks] if ranks else []
    with tempfile.TemporaryDirectory() as folder:
        start = time()
        timed([*launcher, PYTHON, PROGRAM, *words], **{FOLDER: folder})
        told = [tuple(map(float, path.read_text().split())) for path in Path(folder).iterdir()]
    if len(told) != max(1, ranks):
        raise RuntimeError(f"{len(told)} of {max(1, ranks)} processes have read a frame")
    return [(when - start, cpu) for when, cpu in told]


def mean_cpu(told: list[tuple[float, float]]) -> float:
    """Return the CPU seconds of a rank."""
    return sum(cpu for _, cpu in told) / len(told)


def calls(words: list, ranks: int) -> int:
    """Return how many calls the last of the ranks makes with the name of a file."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace"
        program = [PYTHON, PROGRAM, *words]
        traced = ["strace", "-f", "-o", trace, "-e", "trace=%file", *program]
        if ranks > 1:
            traced = ["mpirun", "-n", ranks - 1, *program, ":", "-n", 1, *traced]
        marks = Path(folder) / "marks"
        marks.mkdir()
        timed(traced, **{FOLDER: str(marks)})
        lines = trace.read_text(errors="replace").splitlines()
    end = next(i for i, line in enumerate(lines) if f'"{MARK}"' in line)
    # asking for the size of an open file needs no look-up
    return sum('"' in line and '""' not in line for line in lines[:end])


if __name__ == "__main__":
    main()
