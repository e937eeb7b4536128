"""Jobs on files that nobody has read lately, against reading the same files; how they are read.

    python tests/benchmarks/cold_cache.py FOLDER [TRAINS [TIMES [REPEATS]]]

Needs root: before each job, the system forgets all files. FOLDER gets the run of `long_run.py` with
TIMES (45) files of each source (15 GB), and for as long as they are needed two runs of TRAINS (16)
x 88 cells that are not packed: corrected (f4) and raw, 6 GB each. "Reading" is two processes,
each of which reads every other file from its beginning to its end, 1 MiB at a time. Medians (of 2).
With strace, also shows how the passes read: bytes of a read, and how many bytes are in reads of
128 KiB or more, or follow those that the same process has read before.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from time import monotonic

from bench import PYTHON, Spent, row, simulated, xfelmpi
from long_run import RUN, long_run
from rethreshold import stages

LARGE = 128 << 10
"""Bytes of a large read."""

NEAR = 64 << 10
"""Bytes that are passed over at most by a read that goes on where others have ended."""

_READ = re.compile(r"^(\d+) +pread64\((\d+), .*, (\d+), (\d+)\) += (\d+)$")


def forget() -> None:
    """Have the system forget what is in files, but for the program itself."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    xfelmpi("--version", ranks=2)
    subprocess.run([PYTHON, "-c", "import xfelmpi.workflows.process, extra_data"], check=True)


def cold(repeats: int, *arguments) -> list[Spent]:
    """Run a job some times, each time on files that the system has forgotten."""
    done = []
    for _ in range(repeats):
        forget()
        done.append(xfelmpi(*arguments, ranks=2))
    return done


def _read_file(path: Path) -> int:
    total, buffer = 0, bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while n := file.readinto(buffer):
            total += n
    return total


def read_all(files: list[Path]) -> tuple[int, float]:
    """Return the bytes of files, and in how many seconds two processes read them."""
    forget()
    with ProcessPoolExecutor(2) as pool:
        start = monotonic()
        return sum(pool.map(_read_file, files)), monotonic() - start


def how_it_reads(folder: Path, run: int) -> None:
    """Show sizes and order of the reads of a job on one rank, by strace."""
    trace = folder / "trace.txt"
    command = ["strace", "-f", "-qq", "-e", "trace=pread64", "-s", "0", "-o", trace]
    command += [PYTHON, "-m", "xfelmpi", run, "--prefix", folder, "--no-report"]
    subprocess.run(list(map(str, command)), capture_output=True, check=True)
    sizes, large, on, end = [], 0, 0, defaultdict(set)
    for line in trace.read_text().splitlines():
        if not (match := _READ.match(line)):
            continue
        process, file, _, place, n = map(int, match.groups())
        sizes.append(n)
        large += n * (n >= LARGE)
        ends = end[process, file]
        if known := [e for e in ends if e <= place <= e + NEAR]:
            on += n
            ends.difference_update(known)
        ends.add(place + n)
    trace.unlink()
    row(f"run {run}: bytes of a read, median", median(sizes), "")
    row(
        f"run {run}: bytes in reads of {LARGE >> 10} KiB or more", 100 * large / sum(sizes), "", "%"
    )
    row(f"run {run}: bytes that follow what was read before", 100 * on / sum(sizes), "", "%")


def against_reading(folder: Path, run: int, what: str, repeats: int) -> None:
    """Show the pass of a job on forgotten files, and over reading these."""
    files = sorted(p for k in ("proc", "raw") for p in folder.glob(f"{k}/r{run:04}/*AGIPD*.h5"))
    n_bytes, seconds = zip(*(read_all(files) for _ in range(repeats)), strict=True)
    done = cold(repeats, run, "--prefix", folder, "--no-report")
    photons = median(stages(job.said)["photons"] for job in done)
    row(f"{what}, forgotten: reading", n_bytes[0] / median(seconds) / 1e9, "", "GB/s")
    row(f"{what}, forgotten: pass", n_bytes[0] / photons / 1e9, "", "GB/s")
    row(f"{what}, forgotten: pass over reading", photons / median(seconds), "")
    row(f"{what}, forgotten: whole job", median(job.wall for job in done), "", "s")


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    trains, times, repeats = map(int, [*sys.argv[2:], *("16", "45", "2")[len(sys.argv) - 2 :]])
    long = long_run(folder / "long", times)
    where = (RUN, "--prefix", long, "--no-report")
    shutil.rmtree(long / "scratch" / "index", ignore_errors=True)
    (first,) = cold(1, *where)
    row("u1, forgotten: index, first time", stages(first.said)["index"], "", "s")
    against_reading(long, RUN, "u1", repeats)
    again = cold(repeats, *where, "--from-events", "--sigma", 4.5)
    row("u1, forgotten: --from-events, whole command", median(job.wall for job in again), "", "s")
    for run, what, options in (
        (901, "f4", ("--dtype", "f4", "--compression", "none")),
        (902, "raw", ("--kind", "raw")),
    ):
        simulated(folder / what, run, trains, "--cells", 88, *options)
        against_reading(folder / what, run, what, repeats)
        shutil.rmtree(folder / what)
    if shutil.which("strace"):
        for run, options in ((903, ()), (904, ("--dtype", "f4", "--compression", "none"))):
            simulated(folder / "small", run, 2, *options)
            how_it_reads(folder / "small", run)
        simulated(folder / "small-raw", 905, 2, "--kind", "raw")
        how_it_reads(folder / "small-raw", 905)


if __name__ == "__main__":
    main()
