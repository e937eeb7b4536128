"""The main job as users start it: against EXtra-redu, 2 ranks against 1, 16 ranks, memory.

    python tests/benchmarks/whole_job.py FOLDER [REPEATS [TRAINS …]]

FOLDER gets simulated runs (16 and 64 trains x 352 cells) unless it has them. Shows rows of the
table: medians (of 5) of ratios within one repetition.
"""

import shutil
import sys
from pathlib import Path
from statistics import median

from bench import row, simulated, timed, xfelmpi

PROPOSAL = 7927
DETECTOR = "SPB_DET_AGIPD1M-1"
TARGETS = {16: "≥ 20", 64: "≥ 40"}


def extra_redu(root: Path, run: int, output: Path):
    """Run the facility's hit finder on 2 processes, as its users do."""
    program = shutil.which("extra-redu-spi-hitfinding")
    output.mkdir(exist_ok=True)
    what = ("-p", PROPOSAL, "-r", run, "-d", DETECTOR)
    how = ("-n", 2, "-o", output, "--no-progress-bar")
    return timed([program, *what, *how], EXTRA_DATA_DATA_ROOT=str(root))


def start_up(prefix: Path, repeats: int) -> None:
    """Measure what a job with almost nothing to do takes, and how CPU time grows with the ranks."""
    simulated(prefix, 1, 1, "--cells", "0,1")

    def jobs(run, *ranks):
        return {
            n: [xfelmpi(run, "--prefix", prefix, ranks=n) for _ in range(repeats)] for n in ranks
        }

    tiny = jobs(1, 0, 1, 16)
    row("start-up of one rank, job of 2 frames", median(t.wall for t in tiny[0]), "≤ 1", "s")
    row("start-up, CPU of each of 16 ranks", median(t.cpu for t in tiny[16]) / 16, "≤ 1", "s")
    whole = jobs(16, 1, 16)
    pairs = {n: [w.cpu - t.cpu for w, t in zip(whole[n], tiny[n], strict=True)] for n in (1, 16)}
    ratio = median(b / a for a, b in zip(pairs[1], pairs[16], strict=True))
    row("CPU of 16 ranks on 2 cores over 1 rank, 16 trains", ratio, "≤ 1.2")


def main() -> None:
    root = Path(sys.argv[1]).absolute()
    repeats, *sizes = map(int, sys.argv[2:] or (5,))
    prefix = root / "SPB" / "202405" / f"p{PROPOSAL:06}"
    for trains in sizes or TARGETS:
        run = trains
        simulated(prefix, run, trains, "--with-mask")
        runs = [
            {
                "redu": extra_redu(root, run, root / "redu"),
                **{n: xfelmpi(run, "--prefix", prefix, ranks=n) for n in (1, 2)},
            }
            for _ in range(repeats)
        ]
        ratio = median(r["redu"].wall / r[2].wall for r in runs)
        row(f"EXtra-redu / whole job, {trains} trains, 2 processes", ratio, TARGETS.get(trains, ""))
        row(
            f"2 ranks against 1, {trains} trains",
            median(r[1].wall / r[2].wall for r in runs),
            "≥ 1.85",
        )
        row(f"memory of a rank, {trains} trains", max(r[1].memory for r in runs), "≤ 400", "MB")
    start_up(prefix, repeats)


if __name__ == "__main__":
    main()
