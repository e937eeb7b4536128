"""Beam centre and quadrants of simulated powders against what they are.

    python tests/benchmarks/centre.py [POWDERS]

Prints the table of docs/analysis.md: powders of 500 hits (spheres of 30 to 70 nm, 5000 to 50 000
photons each, and 0.3 times as many of the background), seen with a geometry whose detector, or
whose quadrants each, are moved by up to 5 pixels.
"""

import sys
from time import process_time

import numpy as np
from sizes import Bench

from xfelmpi.analysis.centre_fit import PowderPixels, Shifts, fit_shifts
from xfelmpi.simulate.particles import spheroid

N_HITS = 500
LARGEST = 5.0
PIXEL = 2e-4
NEAR = 0.025
ROUND = np.array([0.0, 0.0, 1.0])
"""Axis of revolution of a sphere: any."""


class Powder:
    """A powder of hits on the nominal detector, near the beam.

    Parameters
    ----------
    bench : Bench
    n_hits : int
    background : float
        Photons of the background over those of the particles.
    """

    def __init__(self, bench: Bench, n_hits: int = N_HITS, background: float = 0.3):
        xyz = bench.geometry.xyz.reshape(3, -1)
        # room for geometries that are off
        some = np.flatnonzero(np.hypot(xyz[0], xyz[1]) < NEAR + 4 * LARGEST * PIXEL)
        self.geometry, self.pixel = bench.geometry, some
        self.xyz, self.light = xyz[:, some], bench.light[some]
        self.quadrant = some // (xyz.shape[1] // 4)
        q, rng = bench.q[:, some], bench.rng
        expected = np.zeros(len(some))
        # hits of some sizes: their sum has many more photons than any
        sizes = rng.uniform(30e-9, 70e-9, 25)
        for diameter in sizes:
            of_size = spheroid(q, (diameter / 2, diameter / 2), ROUND) * self.light
            photons = np.exp(rng.uniform(*np.log((5e3, 5e4)), n_hits // len(sizes))).sum()
            expected += of_size * photons / of_size.sum()
        ground = bench.background[some].astype(np.float64)
        self.background = ground * background * expected.sum() / ground.sum()
        self.photons = rng.poisson(expected + self.background).astype(np.float64)
        self.n_hits = n_hits

    def fit(self, off: np.ndarray) -> Shifts:
        """Return the shifts found with a geometry that is off by so many pixels, (part, 2)."""
        part = self.quadrant if len(off) > 1 else np.zeros_like(self.quadrant)
        xyz = self.xyz.copy()
        xyz[:2] -= off[part].T * PIXEL
        near = np.hypot(xyz[0], xyz[1]) < NEAR
        sums = (self.photons, self.n_hits * self.light, self.background)
        found = (values[near] for values in sums)
        return fit_shifts(PowderPixels(xyz[:, near], part[near], *found, PIXEL, len(off)))


def row(bench: Bench, parts: int, n: int) -> str:
    """Return a row of the table: n powders, each seen with another geometry."""
    off, within, spent = [], [], 0.0
    for _ in range(n):
        powder = Powder(bench)
        true = bench.rng.uniform(-LARGEST, LARGEST, (parts, 2))
        start = process_time()
        found = powder.fit(true)
        spent += process_time() - start
        off.append(np.abs(found.shift / PIXEL - true))
        within.append(off[-1] < found.error / PIXEL)
    off, within = np.array(off), np.array(within)
    what = "centre" if parts == 1 else "quadrants"
    return (
        f"| {what} | {np.median(off):.4f} | {off.max():.4f} | {100 * within.mean():.0f} % | "
        f"{spent / n:.2f} s |"
    )


def main() -> None:
    """Print the table."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    bench = Bench(seed=7)
    print(
        "| moved by up to 5 pixels | median error, pixels | largest | within one error bar | CPU |"
    )
    print("|---|---|---|---|---|")
    for parts in (1, 4):
        print(row(bench, parts, n), flush=True)


if __name__ == "__main__":
    main()
