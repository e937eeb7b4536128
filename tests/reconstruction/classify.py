"""From simulated runs to classes of hits by Dragonfly, and to single particles by a rule.

    python tests/reconstruction/classify.py FOLDER [--seeds 1 2 3]

FOLDER gets a simulated run for each seed: spheroids with axis ratios from 1 (spheres) to 2, and
three of ten hits two spheres in one pulse. The run is processed with --size spheroid
--dragonfly --recon 2d, dragonfly.emc is run as the folder stands but with its fixed random seed,
and xfelmpi classes takes its result. Prints the share of single particles among all hits and among
those that a rule keeps which does not know the truth, and which share of all single particles that
is. Takes a few minutes on one core.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

ITERATIONS, SINGLE = 15, 1
"""Iterations as `config.ini` suggests; what the truth calls a single particle."""

MOST_DEVIANCE, LEAST_WEIGHT = 1.5, 0.5
"""The rule keeps classes whose hits have a lower and a higher median than these."""


def xfelmpi(*arguments):
    """Run the program."""
    subprocess.run([sys.executable, "-m", "xfelmpi", *map(str, arguments)], check=True)


def classify(folder: Path, run: int, seed: int, trains: int) -> Path:
    """Simulate a run, process it and take Dragonfly's classes; return the scratch folder."""
    prefix, recon = folder / "p007927", folder / f"recon_{seed}"
    options = ("--particle", "spheroid", "--axis-ratio", 1, 2, "--pairs", 0.3)
    options += ("--size-nm", 40, 60, "--hit-photons", 5000, 20000, "--background", 30)
    options += ("--trains", trains, "--hit-rate", 0.3, "--seed", seed)
    xfelmpi("simulate", run, "--prefix", prefix, *options)
    options = ("--size", "spheroid", "--no-vds", "--no-report")
    xfelmpi(run, "--prefix", prefix, *options, "--dragonfly", recon, "--recon", "2d")
    with (recon / "config.ini").open("a") as config:
        config.write("fixed_seed = 1\n")
    program = Path(sys.executable).with_name("dragonfly.emc")
    command = [program, "-t", "1", str(ITERATIONS)]
    subprocess.run(command, check=True, cwd=recon, stdout=subprocess.DEVNULL)
    xfelmpi("classes", run, "--prefix", prefix, "--from", recon)
    return prefix / "scratch"


def read(scratch: Path, run: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return which hits are single particles, bool (hit,), and the columns of the hits."""
    with h5py.File(scratch / "events" / f"r{run:04d}_events.h5") as file:
        is_hit = file["is_hit"][:]
        names = ("trainId", "cellId", "class", "class_weight", "size_deviance")
        hits = {name: file[name][:][is_hit] for name in names}
    with h5py.File(scratch / "truth" / f"r{run:04d}_truth.h5") as file:
        ids = zip(file["trainId"][:].tolist(), file["cellId"][:].tolist(), strict=True)
        kind = dict(zip(ids, file["particle_kind"][:].tolist(), strict=True))
    ids = zip(hits["trainId"].tolist(), hits["cellId"].tolist(), strict=True)
    return np.array([kind[pair] == SINGLE for pair in ids]), hits


def kept_by_classes(hits: dict[str, np.ndarray]) -> tuple[np.ndarray, int]:
    """Return which hits the rule keeps, bool (hit,), and how many classes they are."""
    kept, classes = np.zeros(len(hits["class"]), bool), 0
    for number in np.unique(hits["class"][hits["class"] >= 0]):
        own = hits["class"] == number
        deviance, weight = (np.nanmedian(hits[n][own]) for n in ("size_deviance", "class_weight"))
        if deviance < MOST_DEVIANCE and weight > LEAST_WEIGHT:
            kept |= own
            classes += 1
    return kept, classes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--trains", type=int, default=2)
    given = parser.parse_args()
    lines = []
    for seed in given.seeds:
        run = 70 + seed
        scratch = classify(given.folder, run, seed, given.trains)
        single, hits = read(scratch, run)
        kept, classes = kept_by_classes(hits)
        alone = hits["size_deviance"] < MOST_DEVIANCE
        found = len(np.unique(hits["class"]))
        cells = [f"{seed}", f"{len(single)}", f"{single.mean():.3f}", f"{classes} of {found}"]
        for keep in (kept, alone):
            purity = single[keep].mean() if keep.any() else np.nan
            cells += [f"{purity:.3f}", f"{keep[single].mean():.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    print(
        "\n| seed | hits | purity | classes kept | purity | kept | deviance alone: purity | kept |"
    )
    print("\n".join(["|---" * 8 + "|", *lines]))


if __name__ == "__main__":
    main()
