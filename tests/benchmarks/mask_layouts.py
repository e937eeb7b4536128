"""The main job with a mask per cell in other chunks, over the same mask in chunks of one frame.

    python tests/benchmarks/mask_layouts.py FOLDER [REPEATS [TRAINS]]

FOLDER gets a simulated run (8 trains x 352 cells) and masks of (352, 16, 512, 128) unless it has
them: in chunks of one module-frame, as h5py guesses, and of one frame. Shows medians (of 5) of
ratios of CPU time and of time within one repetition; two ranks share the work.
"""

import sys
from pathlib import Path
from statistics import median

import h5py
import numpy as np
from bench import row, simulated, xfelmpi

RUN = 95
SHAPE = (352, 16, 512, 128)
LAYOUTS = {"fine": (1, 1, 512, 128), "guessed": True, "frames": (1, 16, 512, 128)}


def write_mask(path: Path, chunks) -> None:
    """Write a mask with 3 % of bad pixels in all cells, and 0.1 % in each, packed by gzip."""
    rng = np.random.default_rng(1)
    always = rng.random(SHAPE[1:], np.float32) < 0.97
    with h5py.File(path, "w") as file:
        good = file.create_dataset("entry_1/good_pixels", SHAPE, bool, chunks=chunks, compression=1)
        file["entry_1/cellIds"] = np.arange(len(good))
        step = good.chunks[0]
        for a in range(0, len(good), step):
            n = min(step, len(good) - a)
            good[a : a + n] = always & (rng.random((n, *SHAPE[1:]), np.float32) < 0.999)


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    given = list(map(int, sys.argv[2:]))
    repeats, trains = given + [5, 8][len(given) :]
    prefix = simulated(folder / "p007927", RUN, trains)
    masks = {name: folder / f"mask_{name}.h5" for name in LAYOUTS}
    for name, path in masks.items():
        if not path.exists():
            write_mask(path, LAYOUTS[name])
    taken = [
        {
            name: xfelmpi(RUN, "--prefix", prefix, "--cell-mask", path, "--no-report", ranks=2)
            for name, path in masks.items()
        }
        for _ in range(repeats)
    ]
    for name in ("guessed", "frames"):
        with h5py.File(masks[name]) as file:
            chunks = file["entry_1/good_pixels"].chunks
        for what in ("cpu", "wall"):
            ratio = median(getattr(t[name], what) / getattr(t["fine"], what) for t in taken)
            row(f"mask in chunks {chunks} over (1, 1, 512, 128), {what}", ratio, "≤ 1.1")
    row("job with the mask in fine chunks", median(t["fine"].wall for t in taken), "", "s")


if __name__ == "__main__":
    main()
