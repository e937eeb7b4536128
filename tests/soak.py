"""Random small runs with random damage on random numbers of ranks: no hang, no wrong value.

    python tests/soak.py 200                  what must be clean before a release; an hour or two
    python tests/soak.py 10 --seed 7          other runs
    python tests/soak.py 1 --first 43         one of them again
    python tests/soak.py 30 --detector DSSC-1M    of another detector

Every frame that is not damaged is compared with the truth of its simulation, every file with that
of another number of ranks. Folders of runs that failed are kept, with the message. The exit status
is 1 if there are any.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).parent / "helpers"))

from randomruns import RandomRun, check, random_run

SECONDS = 120
"""When a job counts as hanging; it takes a few."""


def one(run: RandomRun, folder: Path) -> str:
    """Return how a run went; the folder of one that failed has the reason in ``failure.txt``."""
    try:
        check(run, folder, SECONDS)
    except Exception as error:
        (folder / "failure.txt").write_text(f"{run}\n\n{run!r}\n\n{traceback.format_exc()}")
        if isinstance(error, subprocess.TimeoutExpired):
            return "HANGS"
        return "WRONG" if isinstance(error, AssertionError) else "ERROR"
    shutil.rmtree(folder)
    return "ok"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=int, help="how many runs")
    parser.add_argument("--seed", type=int, default=1, help="other runs (default: 1)")
    parser.add_argument("--first", type=int, default=1, help="number of the first run (default: 1)")
    parser.add_argument("--detector", default="AGIPD-1M", help="of the runs (default: AGIPD-1M)")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="xfelmpi-soak-"))
    found = Counter()
    for number in range(options.first, options.first + options.runs):
        start = monotonic()
        run = random_run(random.Random(f"{options.seed} {number}"), options.detector)
        here = folder / f"{options.seed}-{number}"
        here.mkdir(parents=True)
        outcome = one(run, here)
        found[outcome] += 1
        print(f"{number:4} {outcome:5} {monotonic() - start:5.1f} s  {run}", flush=True)
        if outcome != "ok":
            print(f"     see {here}/failure.txt", flush=True)
    print(f"{found.total()} runs: " + ", ".join(f"{n} {name}" for name, n in found.items()))
    if found.keys() <= {"ok"}:
        shutil.rmtree(folder)
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
