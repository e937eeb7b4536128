"""Deciding a finished run again, against what the full run needs to write.

    python tests/benchmarks/rethreshold.py FOLDER [RANKS TRAINS REPEATS]

FOLDER gets a simulated run (run 91; 64 trains x 352 cells, 5 % hits) unless it has one, and its
events file with 10^6 frames. Shows medians (of 5): seconds of the write stage of a full
run, of all stages of `--from-events` with another sigma, their ratio within each repetition, and of
a dry run with four sigmas on that file, start-up included.
"""

import re
import sys
from pathlib import Path
from statistics import median

import h5py
import numpy as np
from bench import row, simulated, xfelmpi

RUN = 91
MANY = 1_000_000
CELLS = 352


def stages(said: str) -> dict[str, float]:
    """Return the seconds of every stage from the summary."""
    line = re.search(r"^time .* s: (.*)$", said, re.M)[1]
    return {name: float(s) for name, s in (part.rsplit(maxsplit=1) for part in line.split(", "))}


def lengthen_events(folder: Path) -> None:
    """Write the events file of the run again with 10^6 frames: its rows over and over."""
    path = folder / "many" / "events" / f"r{RUN:04}_events.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        h5py.File(folder / "scratch" / "events" / path.name) as run,
        h5py.File(path, "w") as file,
    ):
        n = len(run["trainId"])

        def lengthen(name, item):
            if isinstance(item, h5py.Dataset):
                values = item[()]
                is_column = item.shape[:1] == (n,)
                file[name] = np.resize(values, (MANY, *item.shape[1:])) if is_column else values
                file[name].attrs.update(item.attrs)

        run.visititems(lengthen)
        file.attrs.update(run.attrs)
        n_trains = -(-MANY // CELLS)
        trains = np.arange(n_trains, dtype=np.uint64) + run["trainId"][0]
        file["trainId"][:] = np.repeat(trains, CELLS)[:MANY]
        file["cellId"][:] = np.tile(np.arange(CELLS, dtype=file["cellId"].dtype), n_trains)[:MANY]


def main() -> None:
    folder = Path(sys.argv[1])
    ranks, trains, repeats = map(int, sys.argv[2:] or (2, 64, 5))
    simulated(folder, RUN, trains)
    xfelmpi(RUN, "--prefix", folder, ranks=ranks)
    lengthen_events(folder)
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
