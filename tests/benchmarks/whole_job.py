"""The main job as users start it: against EXtra-redu, 2 ranks against 1, 16 ranks, memory.

    python tests/benchmarks/whole_job.py FOLDER [REPEATS [TRAINS …]]

FOLDER gets simulated runs (16, 64 and 256 trains x 352 cells) unless it has them. Shows rows of the
table: medians (of 5) of ratios within one repetition. EXtra-redu takes more than a second a train,
and is left out where there is no target for it.
"""

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
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


def against_redu(root: Path, prefix: Path, run: int) -> dict:
    """Run EXtra-redu, and what it is compared with besides the whole job."""
    return {
        "redu": extra_redu(root, run, root / "redu"),
        "no page": xfelmpi(run, "--prefix", prefix, "--no-report", ranks=2),
    }


def together(prefix: Path, run: int) -> float:
    """Return the speed-up that this machine gives two jobs that know nothing of each other."""
    one = xfelmpi(run, "--prefix", prefix, "--output", prefix / "one", "--no-report")
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(xfelmpi, run, "--prefix", prefix, "--output", prefix / name, "--no-report")
            for name in ("one", "two")
        ]
        return 2 * one.wall / max(job.result().wall for job in both)


def start_up(prefix: Path, run: int, repeats: int) -> None:
    """Measure what a job with almost nothing to do takes, and how CPU time grows with the ranks."""
    simulated(prefix, 1, 1, "--cells", "0,1")

    def jobs(run, *ranks):
        return {
            n: [xfelmpi(run, "--prefix", prefix, ranks=n) for _ in range(repeats)] for n in ranks
        }

    tiny = jobs(1, 0, 1, 16)
    row("start-up of one rank, job of 2 frames", median(t.wall for t in tiny[0]), "≤ 1", "s")
    row("start-up, CPU of each of 16 ranks", median(t.cpu for t in tiny[16]) / 16, "≤ 1", "s")
    whole = jobs(run, 1, 16)
    pairs = {n: [w.cpu - t.cpu for w, t in zip(whole[n], tiny[n], strict=True)] for n in (1, 16)}
    ratio = median(b / a for a, b in zip(pairs[1], pairs[16], strict=True))
    row(f"CPU of 16 ranks on 2 cores over 1 rank, {run} trains", ratio, "≤ 1.2")


def main() -> None:
    root = Path(sys.argv[1]).absolute()
    repeats, *sizes = map(int, sys.argv[2:] or (5,))
    sizes = sizes or [*TARGETS, 256]
    prefix = root / "SPB" / "202405" / f"p{PROPOSAL:06}"
    for trains in sizes:
        run = trains
        simulated(prefix, run, trains, "--with-mask")
        runs = [
            {
                **(against_redu(root, prefix, run) if trains in TARGETS else {}),
                **{n: xfelmpi(run, "--prefix", prefix, ranks=n) for n in (1, 2)},
                "limit": together(prefix, run),
            }
            for _ in range(repeats)
        ]

        def show(what, a, b, target, trains=trains, runs=runs):
            row(f"{what}, {trains} trains", median(r[a].wall / r[b].wall for r in runs), target)

        if trains in TARGETS:
            show("EXtra-redu / whole job, 2 processes", "redu", 2, TARGETS[trains])
            show("EXtra-redu / whole job without the run report", "redu", "no page", "")
        show("2 ranks against 1", 1, 2, "≥ 1.85")
        limit = median(r["limit"] for r in runs)
        row(f"two jobs at once against one after the other, {trains} trains", limit, "")
        row(f"memory of a rank, {trains} trains", max(r[1].memory for r in runs), "≤ 400", "MB")
    start_up(prefix, sizes[-1], repeats)


if __name__ == "__main__":
    main()
