"""The job against what people use today, on the same cores: EXtra-redu, and a script pipeline.

    python tests/benchmarks/peers.py FOLDER [REPEATS [TRAINS …]]

FOLDER gets simulated runs (8 and 64 trains x 352 cells, with masks, 5 % hits) unless it has them.
Shows rows of the table: medians (of 3) of ratios of wall times within one repetition.

EXtra-redu reads frames and masks of all 16 modules, though only four of them decide; it writes
scores and hits, no powder, CXI or EMC. With its masks and its rule: the job with ``--mask run`` and
``--decide window``. The script pipeline (`script_pipeline.py`) writes all of the job's files but
detector file and report.
"""

import sys
from pathlib import Path
from statistics import median

from bench import PYTHON, row, simulated, timed, xfelmpi
from whole_job import PROPOSAL, extra_redu

PROCESSES = 2
TARGETS = {64: {"redu": "≥ 40", "redu, its rule": "≥ 25", "script": "≥ 150", "masks": "≤ 1.2"}}


def compared(root: Path, prefix: Path, trains: int) -> dict[str, float]:
    """Return how many times as long as the job each of the others takes."""
    run = trains
    job = xfelmpi(run, "--prefix", prefix, ranks=PROCESSES)
    like_redu = ("--mask", "run", "--decide", "window")
    same_rule = xfelmpi(run, "--prefix", prefix, *like_redu, ranks=PROCESSES)
    masks = {
        mask: xfelmpi(run, "--prefix", prefix, "--mask", mask, "--no-report", ranks=PROCESSES)
        for mask in ("none", "run")
    }
    redu = extra_redu(root, run, root / "redu")
    program = Path(__file__).with_name("script_pipeline.py")
    folder = prefix / "proc" / f"r{run:04}"
    script = timed([PYTHON, program, folder, root / "script", PROCESSES])
    return {
        "redu": redu.wall / job.wall,
        "redu, its rule": redu.wall / same_rule.wall,
        "script": script.wall / job.wall,
        "masks": masks["run"].wall / masks["none"].wall,
    }


def main() -> None:
    root = Path(sys.argv[1]).absolute()
    repeats, *sizes = map(int, sys.argv[2:] or (3,))
    prefix = root / "SPB" / "202405" / f"p{PROPOSAL:06}"
    names = {
        "redu": "EXtra-redu / whole job",
        "redu, its rule": "EXtra-redu / whole job with its masks and rule",
        "script": "script pipeline / whole job",
        "masks": "--mask run / --mask none, whole job without the run report",
    }
    for trains in sizes or (8, 64):
        simulated(prefix, trains, trains, "--with-mask")
        ratios = [compared(root, prefix, trains) for _ in range(repeats)]
        for key, name in names.items():
            target = TARGETS.get(trains, {}).get(key, "")
            row(f"{name}, {trains} trains", median(r[key] for r in ratios), target)


if __name__ == "__main__":
    main()
