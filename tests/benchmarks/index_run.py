"""Indexing a run of many files: 16 modules x 100 sequence files, two frames in each.

    python tests/benchmarks/index_run.py FOLDER [REPEATS [RANKS]]

FOLDER gets the simulated run unless it has it. Shows rows of the table: medians (of 5) of the
index stage as the summary of the main job states it: the first time, on one rank and on RANKS
(16), and the second time.
"""

import re
import shutil
import sys
from pathlib import Path
from statistics import median

from bench import row, simulated, xfelmpi

RUN = 93


def main() -> None:
    prefix = Path(sys.argv[1]).absolute()
    given = list(map(int, sys.argv[2:]))
    repeats, ranks = given + [5, 16][len(given) :]
    simulated(prefix, RUN, 100, "--cells", "0,1", "--sequence-length", 1)
    seconds = {"first": [], "second": [], "on ranks": []}
    for _ in range(repeats):
        for which, times in seconds.items():
            if which != "second":
                shutil.rmtree(prefix / "scratch" / "index", ignore_errors=True)
            said = xfelmpi(RUN, "--prefix", prefix, ranks=ranks * (which == "on ranks")).said
            times.append(float(re.search(r"index ([\d.]+)", said)[1]))
    row("indexing 1600 files", median(seconds["first"]), "≤ 5", "s")
    row(f"indexing 1600 files, {ranks} ranks", median(seconds["on ranks"]), "≤ 0.6", "s")
    row("indexing 1600 files the second time", median(seconds["second"]), "≤ 0.5", "s")


if __name__ == "__main__":
    main()
