"""From a simulated run to a reconstruction by Dragonfly, compared with the truth.

    python tests/reconstruction/reconstruct.py FOLDER [--iterations 30] [--picture PNG]

FOLDER gets a simulated run of one particle without symmetry in random orientations (run 60, about
2200 hits), unless it has one; the run is processed with --bin 16 --roi-qmax 20 --dragonfly, and
dragonfly.emc is run as the folder stands, unless it has been. Prints how the radial average of
the reconstructed intensities correlates with that of the truth, as it is and of the logarithm, and
how the volumes do after turning one onto the other. Takes about 30 minutes on two cores.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
from scipy.ndimage import map_coordinates
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from xfelmpi.simulate.cluster import Cluster

RUN, SIZE_NM, HITS_FROM, PHOTONS = 60, 14, 20, 6000
INNER, OUTER = 2.5, 19.0
"""Voxels: within, the beam passes between the modules; beyond, the volume ends."""


def xfelmpi(*arguments, ranks=2):
    """Run the program."""
    command = ["mpirun", "-n", str(ranks), sys.executable, "-m", "xfelmpi", *map(str, arguments)]
    subprocess.run(command, check=True)


def prepare(folder: Path, recon: Path) -> None:
    """Simulate and process the run, with a folder for Dragonfly."""
    prefix = folder / "p007927"
    if not (prefix / "scratch" / "truth" / f"r{RUN:04d}_truth.h5").exists():
        options = ("--size-nm", SIZE_NM, SIZE_NM, "--hit-photons", PHOTONS, PHOTONS)
        options += ("--particle", "cluster", "--trains", HITS_FROM, "--hit-rate", 0.3)
        xfelmpi("simulate", RUN, "--prefix", prefix, "--background", 30, "--seed", 5, *options)
    options = ("--bin", 16, "--roi-qmax", 20, "--dragonfly", recon, "--no-vds")
    xfelmpi(RUN, "--prefix", prefix, *options)


def true_volume(recon: Path, edge: int) -> np.ndarray:
    """Return the particle's intensities on Dragonfly's grid, not turned, (edge, edge, edge)."""
    with h5py.File(recon / "data" / "detector.h5") as file:
        voxel = 2 * np.pi * file["voxel"][()]
    axis = (np.arange(edge) - edge // 2) * voxel
    q = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))
    cluster = Cluster(SIZE_NM * 1e-9)
    return cluster.intensity(q, cluster.amplitudes(np.linalg.norm(q, axis=0)), np.eye(3))


def radii(edge: int) -> np.ndarray:
    """Return the distance of every voxel from the middle."""
    axis = np.arange(edge) - edge // 2
    return np.sqrt(sum(part**2 for part in np.meshgrid(axis, axis, axis, indexing="ij")))


def radial_average(volume: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the mean of shells one voxel thick."""
    shell = np.rint(radii(len(volume))).astype(int).ravel()
    number = np.bincount(shell, weight.ravel())
    return np.bincount(shell, (volume * weight).ravel()) / np.maximum(number, 1)


def turned(volume: np.ndarray, turn: Rotation, where: np.ndarray) -> np.ndarray:
    """Return the turned volume at some positions (3, voxel) from the middle."""
    return map_coordinates(volume, turn.apply(where.T).T + len(volume) // 2, order=1)


def best_turn(truth: np.ndarray, found: np.ndarray, outer: float = 14) -> tuple[Rotation, float]:
    """Return the rotation of the truth that is most like the reconstruction, and how much.

    Up to a radius of `outer` voxels.

    Compared is the square root, less its mean at every radius: what falls off with the radius is
    alike in all orientations.
    """
    radius = radii(len(truth))
    inside = (radius > INNER) & (radius < outer)
    where = np.array(np.nonzero(inside)) - len(truth) // 2
    shell = np.rint(radius[inside]).astype(int)
    number = np.maximum(np.bincount(shell), 1)

    def flat(values):
        values = np.sqrt(np.maximum(values, 0))
        mean = np.bincount(shell, values) / number
        spread = np.sqrt(np.bincount(shell, (values - mean[shell]) ** 2) / number)
        return (values - mean[shell]) / np.maximum(spread[shell], 1e-30)

    right = flat(found[inside])

    def unlike(vector):
        return -np.corrcoef(flat(turned(truth, Rotation.from_rotvec(vector), where)), right)[0, 1]

    starts = Rotation.random(3000, rng=np.random.default_rng(1)).as_rotvec()
    starts = starts[np.argsort([unlike(start) for start in starts])[:30]]
    ends = [minimize(unlike, start, method="Nelder-Mead") for start in starts]
    best = min(ends, key=lambda end: end.fun)
    return Rotation.from_rotvec(best.x), -best.fun


def draw(path: Path, truth, found, averages, turn: Rotation, text: str) -> None:
    """Draw slices through both volumes, and the radial averages."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    edge = len(truth)
    axis = np.arange(edge) - edge // 2
    figure = Figure((11, 7), layout="constrained")
    plots = figure.subplots(2, 4, width_ratios=(1, 1, 1, 1.3))
    where = np.stack(np.meshgrid(axis, axis, axis, indexing="ij")).reshape(3, -1)
    truth = turned(truth, turn, where).reshape(found.shape)
    outside = radii(edge) > OUTER + 1
    for row, (name, volume) in enumerate((("truth, turned", truth), ("Dragonfly", found))):
        shown = np.where(outside, np.nan, volume)
        top = np.nanmax(np.where(radii(edge) > INNER, shown, np.nan))
        for i in range(3):
            plots[row, i].imshow(shown.take(edge // 2, i), norm=LogNorm(top * 1e-4, top))
            plots[row, i].set_title(f"{name}, {'xyz'[i]} = 0", fontsize=9)
            plots[row, i].set_axis_off()
    shells = np.arange(len(averages[0])) + np.ceil(INNER)
    for name, average in zip(("truth", "Dragonfly"), averages, strict=True):
        plots[0, 3].semilogy(shells, average / averages[0].mean(), label=name)
    plots[0, 3].set_xlabel("|q| / voxels")
    plots[0, 3].set_title("radial average", fontsize=9)
    plots[0, 3].legend()
    plots[1, 3].set_axis_off()
    plots[1, 3].text(0, 0.5, text, fontsize=9, va="center")
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    recon = given.folder / "recon"
    output = recon / "data" / f"output_{given.iterations:03d}.h5"
    if not output.exists():
        prepare(given.folder, recon)
        program = Path(sys.executable).with_name("dragonfly.emc")
        command = [program, "-t", str(given.threads), str(given.iterations)]
        subprocess.run(command, check=True, cwd=recon, stdout=subprocess.DEVNULL)
    with h5py.File(output) as file:
        found = file["intens"][:].reshape(file["intens"].shape[-3:])
        weight = file["inter_weight"][:].reshape(found.shape)
        n_hits = len(file["orientations"])
    seen = (weight > 0).astype(float)
    truth = true_volume(recon, len(found))
    shells = slice(int(np.ceil(INNER)), int(OUTER))
    averages = [radial_average(volume, seen)[shells] for volume in (truth, found)]
    averages[1] *= averages[0].sum() / averages[1].sum()
    plain = np.corrcoef(*averages)[0, 1]
    logarithm = np.corrcoef(*np.log(averages))[0, 1]
    turn, alike = best_turn(truth, found)
    lines = (
        f"{n_hits} hits, {given.iterations} iterations",
        f"radial average: correlation {plain:.4f},",
        f"of the logarithm {logarithm:.4f}",
        "volumes, turned, root less the mean",
        f"of each shell: correlation {alike:.3f}",
    )
    print("\n".join(lines))
    if given.picture:
        draw(given.picture, truth, found, averages, turn, "\n".join(lines))


if __name__ == "__main__":
    main()
