"""Deciding a finished run again, against what the full run needs to write.

    python tests/benchmarks/decide_again.py FOLDER [RANKS TRAINS REPEATS]

FOLDER gets a simulated run (run 91; 64 trains x 352 cells, 5 % hits) unless it has one, and a
made-up events file of 10^6 frames. Shows medians (of 5): seconds of the write stage of a full
run, of all stages of `--from-events` with another sigma, their ratio within each repetition, and of
a dry run with four sigmas on the made-up file, start-up included.
"""

import re
import sys
from pathlib import Path
from statistics import median

import h5py
import numpy as np
from bench import row, simulated, xfelmpi

from xfelmpi.core.config.options import Config
from xfelmpi.core.event_table import EventColumns
from xfelmpi.output.events import SUMS

RUN = 91
MANY = 1_000_000
CELLS = 352


def stages(said: str) -> dict[str, float]:
    """Return the seconds of every stage from the summary."""
    line = re.search(r"^time .* s: (.*)$", said, re.M)[1]
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
        about = {"masks_digest": "", "modules_in_run": 0xFFFF, "data": "proc", "detector": ""}
        about["proposal"] = ""
        file.attrs.update(about)
        file["problems"] = np.zeros(0, [(n, "S1") for n in "abcde"])
        for name, column in columns.items():
            file[name] = column
        for name in SUMS:
            file[f"sums/{name}"] = np.zeros(MANY, np.uint32)


def main() -> None:
    folder = Path(sys.argv[1])
    ranks, trains, repeats = map(int, sys.argv[2:] or (2, 64, 5))
    simulated(folder, RUN, trains)
    make_up_events(folder)
    write, again, dry = [], [], []
    for _ in range(repeats):
        said = xfelmpi(RUN, "--prefix", folder, "--sigma", 3, ranks=ranks).said
        write.append(stages(said)["write"])
        xfelmpi(RUN, "--prefix", folder, ranks=ranks)
        said = xfelmpi(RUN, "--prefix", folder, "--from-events", "--sigma", 3, ranks=ranks).said
        again.append(sum(stages(said).values()))
        many = ("--output", folder / "many", "--from-events", "--dry-run")
        dry.append(xfelmpi(RUN, "--prefix", folder, *many, "--sigma", 3, 4, 5, 6).wall)
    ratio = median(a / w for a, w in zip(again, write, strict=True))
    row(f"--from-events over the write stage of a full run, {trains} trains", ratio, "≤ 1.5")
    row(f"--dry-run with four sigmas, {MANY:,} frames", median(dry), "≤ 5", "s")


if __name__ == "__main__":
    main()
