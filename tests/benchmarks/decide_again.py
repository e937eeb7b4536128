"""Deciding a finished run again, against what the full run needs to write.

    python tests/benchmarks/decide_again.py FOLDER [RANKS TRAINS REPEATS]

FOLDER gets a simulated run (run 91; 64 trains x 352 cells, 5 % hits) unless it has one, and a
made-up events file of 10^6 frames. Prints medians (of 5): seconds of the write stage of a full
run, of all stages of `--from-events` with another sigma, their ratio within each repetition, and of
a dry run with four sigmas on the made-up file, start-up included.
"""

import re
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import monotonic

import h5py
import numpy as np

from xfelmpi.config import Config
from xfelmpi.records import EventColumns
from xfelmpi.write.events import SUMS

RUN = 91
MANY = 1_000_000
CELLS = 352


def xfelmpi(*arguments, ranks=1) -> str:
    """Run the program and return what it says."""
    command = ["mpirun", "-n", str(ranks), sys.executable, "-m", "xfelmpi", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def stages(said: str) -> dict[str, float]:
    """Return the seconds of every stage from the summary."""
    line = re.search(r"^time .* s +(.*)$", said, re.M)[1]
    return {name: float(s) for name, s in (part.split() for part in line.split(", "))}


def make_up_events(folder: Path) -> None:
    """Write an events file of 10^6 frames with the scores of a usual run, and nothing else."""
    rng = np.random.default_rng(1)
    n_trains = -(-MANY // CELLS)
    columns = {name: np.zeros(MANY) for name in EventColumns.__dataclass_fields__}
    del columns["gain_switched"]
    columns["trainId"] = np.repeat(np.arange(n_trains, dtype=np.uint64) + 10**9, CELLS)[:MANY]
    columns["cellId"] = np.tile(np.arange(CELLS, dtype=np.uint16), n_trains)[:MANY]
    columns["hitscore"] = rng.poisson(5000, MANY).astype(np.float32)
    columns["hitscore"][rng.random(MANY) < 0.05] *= 2
    columns["modules"] = np.full(MANY, 0xFFFF, np.uint16)
    columns["is_hit"] = columns["is_miss"] = np.zeros(MANY, bool)
    path = folder / "many" / "events" / f"r{RUN:04}_events.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs["configuration"] = Config(run=RUN).to_json()
        file.attrs["masks_digest"] = ""
        file["problems"] = np.zeros(0, [(n, "S1") for n in "abcde"])
        for name, column in columns.items():
            file[name] = column
        for name in SUMS:
            file[f"sums/{name}"] = np.zeros(MANY, np.uint32)


def main() -> None:
    folder = Path(sys.argv[1])
    ranks, trains, repeats = map(int, sys.argv[2:] or (2, 64, 5))
    if not (folder / "proc" / f"r{RUN:04}").exists():
        xfelmpi("simulate", RUN, "--prefix", folder, "--trains", trains, ranks=ranks)
    make_up_events(folder)
    write, again, dry = [], [], []
    for _ in range(repeats):
        write.append(stages(xfelmpi(RUN, "--prefix", folder, "--sigma", 3, ranks=ranks))["write"])
        xfelmpi(RUN, "--prefix", folder, ranks=ranks)
        said = xfelmpi(RUN, "--prefix", folder, "--from-events", "--sigma", 3, ranks=ranks)
        again.append(sum(stages(said).values()))
        start = monotonic()
        many = ("--output", folder / "many", "--from-events", "--dry-run")
        xfelmpi(RUN, "--prefix", folder, *many, "--sigma", 3, 4, 5, 6)
        dry.append(monotonic() - start)
    ratio = median(a / w for a, w in zip(again, write, strict=True))
    sys.stdout.write(
        f"{ranks} ranks: write stage of the full run {median(write):.2f} s, --from-events in all "
        f"{median(again):.2f} s, ratio {ratio:.2f} (aim: at most 1.5)\n"
        f"--dry-run of {MANY:,} frames with four sigmas: {median(dry):.2f} s (aim: below 5)\n"
    )


if __name__ == "__main__":
    main()
