"""A job that takes the facility's hits against one that looks for its own in all frames.

    python tests/benchmarks/facility_hits.py FOLDER [TRAINS [REPEATS]]

FOLDER gets a simulated run of TRAINS (16) x 352 frames unless it has it, and the file that
EXtra-redu's hit finder writes of it. Shows rows of the table: medians of REPEATS (3).
"""

import shutil
import sys
from pathlib import Path
from statistics import median

from bench import row, simulated, timed, xfelmpi

PROPOSAL, DETECTOR = 7927, "SPB_DET_AGIPD1M-1"


def find_hits(root: Path, run: int, folder: Path) -> None:
    """Have EXtra-redu write its hits beside the corrected files, unless they are there."""
    if any(folder.glob("*REDU*")):
        return
    program = shutil.which("extra-redu-spi-hitfinding")
    made = root / "redu"
    made.mkdir(exist_ok=True)
    what = ("-p", PROPOSAL, "-r", run, "-d", DETECTOR)
    how = ("-n", 2, "-o", made, "--no-progress-bar")
    timed([program, *what, *how], EXTRA_DATA_DATA_ROOT=str(root))
    for path in made.glob("*REDU*"):
        shutil.move(path, folder)


def main() -> None:
    root = Path(sys.argv[1]).absolute()
    trains, repeats = (*map(int, sys.argv[2:]), *(16, 3)[len(sys.argv) - 2 :])
    prefix = root / "SPB" / "202405" / f"p{PROPOSAL:06}"
    simulated(prefix, 50, trains, "--with-mask")
    find_hits(root, 50, prefix / "proc" / "r0050")
    where = ("--prefix", prefix, "--no-report", "--mask", "run")
    runs = [
        {
            name: xfelmpi(50, *where, *options)
            for name, options in (("pass", ()), ("facility", ("--hits", "facility")))
        }
        for _ in range(repeats)
    ]
    for key, unit in (("wall", "s"), ("cpu", "s")):
        for name in ("pass", "facility"):
            value = median(getattr(r[name], key) for r in runs)
            row(f"{name}, 1 rank, {trains} trains, {key}", value, "", unit)
    ratio = median(r["facility"].cpu / r["pass"].cpu for r in runs)
    row(f"--hits facility over the pass, CPU of the whole job, {trains} trains", ratio, "")


if __name__ == "__main__":
    main()
