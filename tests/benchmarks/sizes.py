"""Sizes of simulated particles against what they are, and how long that takes.

    python tests/benchmarks/sizes.py [HITS]

Prints the tables of docs/analysis.md. Particles are drawn pixel by pixel from the formulas of
`xfelmpi.simulate.particles`, on the nominal AGIPD-1M at 0.7 m and 6 keV.
"""

import sys
from dataclasses import dataclass, replace
from time import process_time

import numpy as np

from xfelmpi.analysis.hit_analysis import SIZES, AnalysedHits, AnalysedRun
from xfelmpi.calibration.geometry import load_geometry
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.config.options import Config
from xfelmpi.core.plugins import load_object
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.detectors.scattering import ewald_vectors, polarisation, solid_angle
from xfelmpi.simulate.particles import ICE, OTHERS, PAIR, RING, seen_axes, spheroid

WAVELENGTH, DISTANCE = 2.0664e-10, 0.7
BLOCK = 32


@dataclass(frozen=True)
class Truth:
    """What was simulated: short and long diameter and angle as seen (hit, 3), background / hit."""

    seen: np.ndarray
    weighting: np.ndarray


class Bench:
    """A detector, and hits on it.

    Parameters
    ----------
    seed : int
    """

    def __init__(self, seed: int = 1):
        self.geometry, _ = load_geometry(None, DISTANCE)
        self.rng = np.random.default_rng(seed)
        xyz = self.geometry.xyz
        self.q = 2 * np.pi * ewald_vectors(xyz.reshape(3, -1), 1 / WAVELENGTH)
        light = [
            solid_angle(xyz[:, m], AGIPD_1M.asic_shape) * polarisation(xyz[:, m], "x")
            for m in range(AGIPD_1M.n_modules)
        ]
        self.light = np.concatenate([part.reshape(-1) for part in light])
        shape = 0.6 + np.exp(-np.hypot(xyz[0], xyz[1]).reshape(-1) / 0.06)
        self.background = (shape / shape.sum()).astype(np.float32)

    def intensity(self, kind: int, diameter: float, axis_ratio: float):
        """Return the intensity of a particle on every pixel, and its axes as seen."""
        rng = self.rng
        if kind in OTHERS:
            seen = (diameter, diameter, 0.0)
            return OTHERS[kind](self.q, diameter, rng.random(4)), seen
        across = diameter / 2 / np.cbrt(axis_ratio)
        # in the plane of the detector, where its size can be seen
        turn = rng.uniform(0, np.pi)
        axis = np.array([np.cos(turn), np.sin(turn), 0.0])
        semi_axes = (across, across * axis_ratio)
        return spheroid(self.q, semi_axes, axis), seen_axes(semi_axes, axis)

    def hits(self, n: int, *, kind=1, ratio=(1.0, 1.0), background=0.0, sizes=(30e-9, 70e-9)):
        """Return n hits with 5000 to 50 000 photons, and the truth.

        Parameters
        ----------
        n : int
        kind : int
            Of `xfelmpi.simulate.particles`.
        ratio : (float, float)
            Range of the axis ratio.
        background : float
            Photons of the background over those of the particle.
        sizes : (float, float)
            Range of diameters in m.
        """
        frames, seen, weighting = [], [], []
        for _ in range(n):
            diameter = self.rng.uniform(*sizes)
            photons = np.exp(self.rng.uniform(*np.log((5e3, 5e4))))
            intensity, axes = self.intensity(kind, diameter, self.rng.uniform(*ratio))
            expected = intensity * self.light
            expected *= photons / expected.sum()
            weighting.append(background * photons)
            ends = np.cumsum(expected + weighting[-1] * self.background)
            place = self.rng.random(self.rng.poisson(ends[-1])) * ends[-1]
            pixel, counts = np.unique(np.searchsorted(ends, place, "right"), return_counts=True)
            frames.append((pixel, np.minimum(counts, 65535)))
            seen.append(axes)
        indptr = np.cumsum([0, *(len(pixel) for pixel, _ in frames)])
        pixel, count = (np.concatenate(part) for part in zip(*frames, strict=True))
        lists = SparseFrames(indptr, pixel.astype(np.uint32), count.astype(np.uint16))
        return lists, Truth(np.array(seen), np.array(weighting))

    def fit(self, size: str, lists: SparseFrames, truth: Truth) -> tuple[dict, float]:
        """Return the columns of the sizes by name, and CPU seconds."""
        run = AnalysedRun(
            replace(Config(), size=size),
            self.geometry,
            WAVELENGTH,
            self.background,
            Masks.all_good(AGIPD_1M),
            0xFFFF,
        )
        start = process_time()
        analysis = load_object(SIZES[size])(run)
        parts = []
        for a in range(0, len(lists), BLOCK):
            rows = np.arange(a, min(a + BLOCK, len(lists)))
            cells = np.zeros(len(rows), np.int64)
            wavelength = np.full(len(rows), WAVELENGTH)
            block = AnalysedHits(lists.take(rows), cells, truth.weighting[rows], wavelength)
            parts.append(analysis.process(block))
        spent = process_time() - start
        values = [np.concatenate(column) for column in zip(*parts, strict=True)]
        names = [column.name for column in analysis.columns]
        return dict(zip(names, values, strict=True)), spent


def area_under_curve(low: np.ndarray, high: np.ndarray) -> float:
    """Return the chance that a value of `high` is above one of `low` (Mann-Whitney)."""
    order = np.argsort(np.concatenate([low, high]), kind="stable")
    rank = np.empty(len(order))
    rank[order] = np.arange(1, len(order) + 1)
    return (rank[len(low) :].sum() - len(high) * (len(high) + 1) / 2) / (len(low) * len(high))


def sphere_row(bench: Bench, n: int, background: float) -> str:
    """Return a row of the table of spheres."""
    lists, truth = bench.hits(n, background=background)
    found, spent = bench.fit("sphere", lists, truth)
    true = truth.seen[:, 0]
    off = found["diameter"] / true - 1
    pull = (found["diameter"] - true) / found["diameter_error"]
    middle = f"{100 * np.median(np.abs(off)):.3f} % | {100 * np.median(off):+.3f} %"
    within = f"{100 * (np.abs(off) < 0.05).mean():.1f} % | {100 * (np.abs(pull) < 1).mean():.0f} %"
    return (
        f"| {background:g} | {middle} | {within} | "
        f"{np.median(found['size_deviance']):.3f} | {1e3 * spent / n:.2f} |"
    )


def purity_rows(bench: Bench, n: int, background: float = 0.2):
    """Yield rows of the table of what is no single particle."""
    single, truth = bench.hits(n, background=background)
    alone = bench.fit("sphere", single, truth)[0]["size_deviance"]
    for name, kind in (("two spheres", PAIR), ("ice", ICE), ("ring of stray light", RING)):
        others = bench.hits(n, kind=kind, background=background)
        fit = bench.fit("sphere", *others)[0]["size_deviance"]
        yield f"| {name} | {np.median(fit):.2f} | {area_under_curve(alone, fit):.3f} |"


def main() -> None:
    """Print all tables."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    bench = Bench()
    print(
        "| background / particle | median error | bias | within 5 % | within one error bar | "
        "deviance | CPU ms per hit |\n|---|---|---|---|---|---|---|"
    )
    for background in (0.0, 0.3, 1.0):
        print(sphere_row(bench, n, background), flush=True)
    print("\n| hits | median deviance | AUC against single spheres |\n|---|---|---|")
    for row in purity_rows(bench, n):
        print(row, flush=True)


if __name__ == "__main__":
    main()
