"""A reconstruction with background as strong as the particle, with and without it in the model.

    python tests/reconstruction/background.py FOLDER [--seeds 1] [--hits 1000]

FOLDER gets, for each seed, hits of the particle of `reconstruct.py` on the nominal AGIPD-1M in
blocks of 16 x 16 pixels, of brightness 1 to 3, with as many photons of background as of the
particle, and a folder of `write_folder` with them. dragonfly.emc runs its config.ini, then
background.ini, and for comparison as many iterations without background from the same model. Prints
how each correlates with the truth. Takes a few minutes for a seed on one core.
"""

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from mpi4py import MPI
from reconstruct import (
    INNER,
    SIZE_NM,
    best_turn,
    radial_average,
    radii,
    true_volume,
    turned,
)

from xfelmpi.calibration.geometry import load_geometry
from xfelmpi.core.config.options import Config
from xfelmpi.core.config.parts import OutputSettings
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.io.publish import give_names
from xfelmpi.output.dragonfly.detector import USE, DragonflyDetector, make_detector
from xfelmpi.output.dragonfly.folder import write_detector, write_folder
from xfelmpi.output.dragonfly.hit_list import HitList
from xfelmpi.output.dragonfly.scale import fixed_scale
from xfelmpi.output.dragonfly.settings import background_config, volume_config
from xfelmpi.output.emc import EmcWriter
from xfelmpi.simulate.cluster import Cluster, rotation

WAVELENGTH, DISTANCE, QMAX = 2.0664e-10, 0.7, 10.0
PHOTONS = 3000, 9000
FIRST, MORE = 20, 10
"""Iterations without background, and then with and without it."""

COMPARED = 9.5
"""Voxels up to which volumes are compared; beyond, few pixels lie."""


def simulate(folder: Path, seed: int, n: int) -> None:
    """Make a folder for Dragonfly with n hits, half of whose photons are background."""
    rng, geometry = np.random.default_rng(seed), load_geometry(None, AGIPD_1M, DISTANCE)[0]
    settings = Config(bin=16, roi_qmax=(QMAX, "")).part(OutputSettings)
    detector = make_detector(settings, geometry, WAVELENGTH)
    use, cluster = detector.mask == USE, Cluster(SIZE_NM * 1e-9)
    q = 2 * np.pi * detector.voxel * detector.q[:, use]
    light, length = detector.corr[use], np.linalg.norm(q, axis=0)
    amplitudes = cluster.amplitudes(length)
    mean = (cluster.mean_intensity(length) * light).sum()
    photons = rng.uniform(*PHOTONS, n)
    ground = 0.6 + np.exp(-np.hypot(*detector.q[:2, use]) / 15)
    ground *= photons.mean() / ground.sum()
    expected = (
        of_hit * cluster.intensity(q, amplitudes, rotation(rng.standard_normal(4))) * light / mean
        for of_hit in photons
    )
    counts = rng.poisson(np.array([particle + ground for particle in expected]))
    background = np.zeros(len(use))
    background[use] = ground
    detector = replace(detector, background=background, weighting=np.ones(n))
    emc, pixels = (folder / "emc" / name for name in ("hits.emc", "hits_det.h5"))
    emc.parent.mkdir(parents=True)
    write_emc(emc, detector, counts)
    write_detector(pixels, {}, detector)
    give_names([emc, pixels])
    hits = HitList.of(np.ones(n), np.arange(n), np.zeros(n), emc)
    scale = fixed_scale(emc, pixels, background=True)
    write_folder(folder, emc, pixels, volume_config, hits, scale, background_config)


def write_emc(path: Path, detector: DragonflyDetector, counts: np.ndarray) -> None:
    """Write photons on the pixels in use, int64 (hit, pixel), under the temporary name."""
    hit, place = np.nonzero(counts)
    indptr = np.searchsorted(hit, np.arange(len(counts) + 1))
    pixel = np.flatnonzero(detector.mask == USE)[place].astype(np.uint32)
    frames = SparseFrames(indptr, pixel, counts[hit, place].astype(np.uint32))
    ones, multi = (counts == 1).sum(axis=1), (counts > 1).sum(axis=1)
    writer = EmcWriter(MPI.COMM_SELF, path, ones, multi, len(detector.mask))
    writer.write(frames)
    writer.close()


def configure(folder: Path) -> None:
    """Make the configurations those of a smaller problem, with a fixed seed; add the comparison."""
    plain = (folder / "config.ini").read_text().replace("num_div = 6", "num_div = 3")
    plain = plain.replace("beta_schedule = 2.0 10", "beta_schedule = 2.0 2")
    with_background = (folder / "background.ini").read_text().replace("num_div = 6", "num_div = 3")
    with_background = with_background.replace("output_010", f"output_{FIRST:03d}")
    without = [
        line
        # without background in the model, more of the likelihood does better
        for line in with_background.replace("background/", "without/")
        .replace("beta = 0.1", "beta = 0.5")
        .splitlines()
        if not line.startswith(("background_file", "bgscale_file", "scale_file", "update_scale"))
    ]
    (folder / "without").mkdir()
    texts = {"config": plain, "background": with_background, "without": "\n".join(without)}
    for name, text in texts.items():
        (folder / f"{name}.ini").write_text(f"{text}\nfixed_seed = 1\n")


def compare(folder: Path, output: Path) -> str:
    """Return the cells of the table: how a volume correlates with the truth, and its error.

    The error is Σ |k · found − truth| / Σ truth, with the k of least squares.
    """
    with h5py.File(output) as file:
        found = file["intens"][:].reshape(file["intens"].shape[-3:])
        seen = file["inter_weight"][:].reshape(found.shape) > 0
    truth, radius = true_volume(folder, len(found)), radii(len(found))
    shells = slice(int(np.ceil(INNER)), int(COMPARED))
    averages = [radial_average(volume, seen.astype(float))[shells] for volume in (truth, found)]
    turn, alike = best_turn(truth, found, COMPARED)
    inside = (radius > INNER) & (radius < COMPARED) & seen
    where = np.array(np.nonzero(inside)) - len(found) // 2
    right, ours = turned(truth, turn, where), np.maximum(found[inside], 0)
    scale = (right @ ours) / (ours @ ours)
    values = (
        *(np.corrcoef(*averages)[0, 1], np.corrcoef(*np.log(averages))[0, 1], alike),
        *(np.corrcoef(right, ours)[0, 1], np.corrcoef(*np.sqrt((right, ours)))[0, 1]),
        np.abs(scale * ours - right).sum() / right.sum(),
    )
    return " | ".join(f"{value:.4f}" for value in values)


def main() -> None:
    """Print a row for each seed and model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--hits", type=int, default=1000)
    given = parser.parse_args()
    print("| seed | background in the model | radial average | its logarithm | shells | ", end="")
    print("intensities | their roots | error |\n|---|---|---|---|---|---|---|---|")
    program = Path(sys.executable).with_name("dragonfly.emc")
    for seed in given.seeds:
        folder = (given.folder / f"seed_{seed}").absolute()
        simulate(folder, seed, given.hits)
        configure(folder)
        runs = {"config": FIRST, "without": MORE, "background": MORE}
        for name, iterations in runs.items():
            command = [program, "-c", f"{name}.ini", "-t", "1", str(iterations)]
            with (folder / "logs" / f"{name}.txt").open("w") as log:
                subprocess.run(command, check=True, cwd=folder, stdout=log, stderr=log)
        for name, words in (("without", "no"), ("background", "yes")):
            cells = compare(folder, folder / name / f"output_{MORE:03d}.h5")
            print(f"| {seed} | {words} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
