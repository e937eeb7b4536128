"""Sizes of simulated particles against what they are, and how long that takes.

    python tests/benchmarks/sizes.py [HITS [spheres|others|spheroids|speed …]]

Prints the tables of docs/analysis.md. Particles are drawn pixel by pixel from the formulas of
`xfelmpi.simulate.particles`, on the nominal AGIPD-1M at 0.7 m and 6 keV.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import process_time

import numpy as np

from xfelmpi.analysis.hit_analysis import SIZES, AnalysedHits, AnalysedRun
from xfelmpi.calibration.geometry import load_geometry
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.config.options import Config
from xfelmpi.core.config.parts import AnalysisSettings
from xfelmpi.core.plugins import load_object
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.detectors.scattering import ewald_vectors, polarisation, solid_angle
from xfelmpi.simulate.particles import (
    ICE,
    OTHERS,
    PAIR,
    RING,
    seen_axes,
    sphere_amplitude,
    spheroid,
)

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
        self.geometry, _ = load_geometry(None, AGIPD_1M, DISTANCE)
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
            Config(size=size).part(AnalysisSettings),
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


def spheroid_row(bench: Bench, n: int, background: float) -> str:
    """Return a row of the table of spheroids."""
    lists, truth = bench.hits(n, ratio=(1.0, 2.0), background=background)
    found, _ = bench.fit("spheroid", lists, truth)
    row = f"| {background:g} |"
    for i, name in enumerate(("short_axis", "long_axis")):
        true = truth.seen[:, i]
        off = np.abs(found[f"{name}_diameter"] / true - 1)
        pull = np.abs(found[f"{name}_diameter"] - true) / found[f"{name}_error"]
        row += f" {100 * np.median(off):.2f} % | {100 * (off < 0.05).mean():.1f} % |"
        row += f" {100 * (pull < 1).mean():.0f} % |"
    return f"{row} {np.median(found['size_deviance']):.3f} |"


def brute_force_seconds(bench: Bench, lists: SparseFrames) -> float:
    """Return CPU seconds per hit of the established script's method, from a 64th of its grid.

    Σ (√K / ‖√K‖ − template)² over 64 × 64 pairs of axes at 64 angles, in bins of 4 × 4 pixels
    within 2 cm of the beam, without background; every hit against every template. Here with one
    of the 64 short axes; making the templates is not counted.
    """
    x, y, _ = bench.geometry.xyz
    n_ss, n_fs = AGIPD_1M.module_shape
    blocks = (AGIPD_1M.n_modules, n_ss // 4, 4, n_fs // 4, 4)
    near = np.hypot(x, y).reshape(blocks).mean(axis=(2, 4)) < 0.02
    qx, qy = (part.reshape(blocks).mean(axis=(2, 4))[near] for part in bench.q[:2])
    axes = np.geomspace(10e-9, 100e-9, 64)
    angles = np.arange(64) * np.pi / 64
    along = np.cos(angles)[:, None] * qx + np.sin(angles)[:, None] * qy
    across = np.cos(angles)[:, None] * qy - np.sin(angles)[:, None] * qx
    templates = np.empty((64, 64, near.sum()), np.float32)
    for i, axis in enumerate(axes):
        h = np.sqrt((axis / 2 * along) ** 2 + (30e-9 / 2 * across) ** 2)
        templates[i] = np.abs(sphere_amplitude(h))
    templates /= np.linalg.norm(templates, axis=2, keepdims=True)
    start = process_time()
    for hit in range(len(lists)):
        image = np.zeros(AGIPD_1M.frame_pixels)
        part = slice(*lists.indptr[hit : hit + 2])
        image[lists.pixel[part]] = lists.count[part]
        root = np.sqrt(image.reshape(blocks).sum(axis=(2, 4))[near]).astype(np.float32)
        root /= max(np.linalg.norm(root), 1e-9)
        for template in templates:
            ((root - template) ** 2).sum(axis=1).argmin()
    return 64 * (process_time() - start) / len(lists)


def speed_rows(bench: Bench, n: int, n_slow: int = 4):
    """Yield rows of the table of speed of 64 × 64 × 64 spheroids."""
    lists, truth = bench.hits(64, ratio=(1.0, 2.0), background=0.2)
    again = np.arange(n) % len(lists)
    many = Truth(truth.seen[again], truth.weighting[again])
    _, ours = bench.fit("spheroid", lists.take(again), many)
    slow = brute_force_seconds(bench, lists.take(np.arange(n_slow)))
    yield f"| xfelmpi, {n} hits, all included | {ours:.1f} s | {1e3 * ours / n:.2f} ms | |"
    ratio = slow * n / ours
    yield f"| brute force | {slow * n:.0f} s | {1e3 * slow:.0f} ms | {ratio:.0f} times as long |"


_SPHERES = (
    "| background / particle | median error | bias | within 5 % | within one error bar | "
    "deviance | CPU ms per hit |\n|---|---|---|---|---|---|---|"
)
_OTHERS = "| hits | median deviance | AUC against single spheres |\n|---|---|---|"
_SPHEROIDS = (
    "| background / particle | short axis: median error | within 5 % | within one error bar | "
    "long axis: median error | within 5 % | within one error bar | deviance |\n"
    "|---|---|---|---|---|---|---|---|"
)
_SPEED = "| 64 × 64 × 64 spheroids | CPU | per hit | |\n|---|---|---|---|"

BACKGROUNDS = (0.0, 0.3, 1.0)

TABLES: dict[str, tuple[str, Callable[[Bench, int], Iterator[str]]]] = {
    "spheres": (_SPHERES, lambda bench, n: (sphere_row(bench, n, b) for b in BACKGROUNDS)),
    "others": (_OTHERS, purity_rows),
    "spheroids": (_SPHEROIDS, lambda bench, n: (spheroid_row(bench, n, b) for b in BACKGROUNDS)),
    "speed": (_SPEED, lambda bench, _: speed_rows(bench, 4000)),
}


def main() -> None:
    """Print all tables, or those that are named."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    bench = Bench()
    for name in sys.argv[2:] or TABLES:
        head, rows = TABLES[name]
        print(head)
        for row in rows(bench, n):
            print(row, flush=True)
        print()


if __name__ == "__main__":
    main()
