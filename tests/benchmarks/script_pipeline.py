"""A hit-finding pipeline as scripts do it: h5py and numpy, dense frames, a pool over the modules.

    python tests/benchmarks/script_pipeline.py RUN_FOLDER OUTPUT [PROCESSES]

What `peers.py` compares the job with. Every stage is what a careful script does, no more: it reads
through h5py in batches, works on whole modules at a time, and passes results on in files. Stages:

1. events: each module's process reads all of its frames, counts lit pixels and photons per frame;
   the parent adds the modules and calls hits what is above median + 5 σ of its train.
2. powder: each module's process reads its frames again, and sums all of them, and the hits.
3. CXI: hits and as many non-hits, frame by frame: 16 modules read, stacked, written with gzip 1.
4. EMC: hits read from the CXI, their pixels with one and with more photons written as Dragonfly has
   them.

Corrected data (u1) that are complete: scripts that join modules by ID are slower.
"""

import sys
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from time import monotonic

import h5py
import numpy as np

MODULES = 16
BATCH = 64
SIGMA = 5
IMAGE = "INSTRUMENT/SPB_DET_AGIPD1M-1/CORR/{}CH0:output/image/data"
SHAPE = (MODULES, 512, 128)


def module_files(run: Path, module: int) -> list[Path]:
    """Return the files of a module, in order."""
    return sorted(run.glob(f"CORR-R*-AGIPD{module:02}-S*.h5"))


def batches(run: Path, module: int):
    """Yield (first frame, dense frames) of a module."""
    first = 0
    for path in module_files(run, module):
        with h5py.File(path) as file:
            data = file[IMAGE.format(module)]
            for a in range(0, len(data), BATCH):
                frames = data[a : a + BATCH]
                yield first, frames
                first += len(frames)


def score_module(run: Path, module: int) -> np.ndarray:
    """Return lit pixels and photons of every frame, int64 (2, frame)."""
    parts = [
        np.stack([np.count_nonzero(f, axis=(1, 2)), f.sum(axis=(1, 2), dtype=np.int64)])
        for _, f in batches(run, module)
    ]
    return np.concatenate(parts, axis=1)


def sum_module(run: Path, is_hit: np.ndarray, module: int) -> np.ndarray:
    """Return the sums over all frames and over the hits, int64 (2, 512, 128)."""
    total = np.zeros((2, *SHAPE[1:]), np.int64)
    for first, frames in batches(run, module):
        total[0] += frames.sum(axis=0, dtype=np.int64)
        total[1] += frames[is_hit[first : first + len(frames)]].sum(axis=0, dtype=np.int64)
    return total


def find_events(run: Path, output: Path, pool) -> np.ndarray:
    """Write the events file; return which frames are hits, bool (frame,)."""
    lit, photons = sum(pool.map(partial(score_module, run), range(MODULES)))
    trains = []
    for path in module_files(run, 0):
        with h5py.File(path) as file:
            trains.append(file[IMAGE.format(0).replace("/data", "/trainId")][:])
    train = np.concatenate(trains)
    threshold = np.zeros(len(lit))
    for t in np.unique(train):
        own = train == t
        low, middle = np.percentile(lit[own], (25, 50))
        threshold[own] = middle + SIGMA * 2 * (middle - low) / 1.349
    with h5py.File(output / "events.h5", "w") as file:
        file["trainId"], file["litpixels"], file["photons"] = train, lit, photons
        file["is_hit"] = is_hit = lit > threshold
    return is_hit


def write_powder(run: Path, output: Path, pool, is_hit: np.ndarray) -> None:
    """Write the powder file."""
    sums = np.stack(pool.map(partial(sum_module, run, is_hit), range(MODULES)))
    with h5py.File(output / "powder.h5", "w") as file:
        file["powder"], file["powder_hits"] = sums[:, 0], sums[:, 1]


def write_cxi(run: Path, output: Path, is_hit: np.ndarray) -> None:
    """Write hits and as many non-hits as dense frames."""
    hits, others = np.flatnonzero(is_hit), np.flatnonzero(~is_hit)
    misses = np.sort(np.random.default_rng(1).choice(others, len(hits), replace=False))
    files = [[h5py.File(path) for path in module_files(run, m)] for m in range(MODULES)]
    data = [[f[IMAGE.format(m)] for f in files[m]] for m in range(MODULES)]
    ends = np.cumsum([len(d) for d in data[0]])
    with h5py.File(output / "hits.cxi", "w") as file:
        for entry, rows in enumerate((hits, misses), 1):
            shape, chunk = (len(rows), *SHAPE), (1, *SHAPE)
            packed = {"chunks": chunk, "compression": "gzip", "compression_opts": 1}
            stack = file.create_dataset(f"entry_{entry}/data", shape, "u1", **packed)
            for i, row in enumerate(rows):
                number = int(np.searchsorted(ends, row, side="right"))
                at = row - (ends[number - 1] if number else 0)
                stack[i] = np.stack([data[m][number][at] for m in range(MODULES)])


def write_emc(output: Path) -> None:
    """Write the hits of the CXI for Dragonfly."""
    ones, multi, counts = [], [], []
    with h5py.File(output / "hits.cxi") as file:
        data = file["entry_1/data"]
        for i in range(len(data)):
            frame = data[i].ravel()
            ones.append(np.flatnonzero(frame == 1))
            multi.append(np.flatnonzero(frame > 1))
            counts.append(frame[multi[-1]])
    header = np.zeros(256, np.int32)
    header[:2] = len(ones), np.prod(SHAPE)
    lengths = ([len(part) for part in parts] for parts in (ones, multi))
    with open(output / "hits.emc", "wb") as file:
        for part in (header, *lengths, *ones, *multi, *counts):
            np.asarray(part, np.int32).tofile(file)


def main() -> None:
    run, output = Path(sys.argv[1]), Path(sys.argv[2])
    output.mkdir(parents=True, exist_ok=True)
    begin = monotonic()

    def done(stage: str) -> None:
        sys.stdout.write(f"{stage} {monotonic() - begin:.1f} s\n")

    with Pool(int(sys.argv[3]) if len(sys.argv) > 3 else None) as pool:
        is_hit = find_events(run, output, pool)
        done(f"events ({is_hit.sum()} hits)")
        write_powder(run, output, pool, is_hit)
        done("powder")
    write_cxi(run, output, is_hit)
    done("CXI")
    write_emc(output)
    done("EMC")


if __name__ == "__main__":
    main()
