"""What the ways to decide find, and find wrongly, on scores with known ground truth.

    python tests/benchmarks/background_estimate.py [FRAMES]     (default: 2,000,000; half an hour)

Prints a table for docs/hit-finding.md: for trains of 8, 32 and 352 frames and several hit rates,
the bias of level and width in true widths, the share found of the particles that stand 6 widths
out, and the false hits at 4 sigma over those that a normal distribution predicts.
"""

import math
import sys
from dataclasses import dataclass

import numpy as np

from xfelmpi import mpi
from xfelmpi.core.config.options import Config
from xfelmpi.hitfinding import hit_finder
from xfelmpi.hitfinding.scores import ScoredFrames

SIGMA, FAR = 4.0, 6.0
TAIL = math.erfc(SIGMA / math.sqrt(2)) / 2
MODES = ("auto", "train", "window", "run")
TRAIN_LENGTHS, HIT_RATES = (8, 32, 352), (0.001, 0.05, 0.3, 0.6)


@dataclass(frozen=True)
class Background:
    """Scores without a particle: counts whose mean varies.

    Parameters
    ----------
    name : str
    mean : float
    jitter : float
        Standard deviation of the mean from frame to frame, relative.
    brightness : float
        Mean score of a particle in widths; how bright they are follows an exponential.
    alike : bool
        All particles are as bright, instead.
    drift : float
        Of the mean to both sides, relative, twice in a run.
    """

    name: str
    mean: float
    jitter: float = 0.0
    brightness: float = 30.0
    alike: bool = False
    drift: float = 0.3


BACKGROUNDS = (
    Background("800 ± shot noise", 800),
    Background("800, 15 % jitter", 800, jitter=0.15),
    Background("100, equal hits at 9 σ", 100, brightness=9, alike=True),
    Background("10", 10),
    Background("3", 3),
)


@dataclass(frozen=True)
class Simulated:
    """Frames, and what is true of them."""

    frames: ScoredFrames
    is_particle: np.ndarray
    level: np.ndarray
    width: np.ndarray


def simulate(
    rng: np.random.Generator, kind: Background, n_frames: int, per_train: int, hit_rate: float
) -> Simulated:
    """Return scores of a run whose background drifts."""
    n_trains = n_frames // per_train
    drift = 1 + kind.drift * np.sin(np.arange(n_trains) / n_trains * 4 * np.pi)
    level = np.repeat(kind.mean * drift, per_train)
    n = len(level)
    width = np.sqrt(level + (kind.jitter * level) ** 2)
    mean = np.maximum(level * (1 + kind.jitter * rng.standard_normal(n)), 0)
    score = rng.poisson(mean).astype(np.float32)
    is_particle = rng.random(n) < hit_rate
    bright = kind.brightness * width * (1 if kind.alike else rng.standard_exponential(n))
    score[is_particle] += rng.poisson(bright[is_particle])
    train = np.repeat(np.arange(n_trains, dtype=np.uint64), per_train)
    cell = np.tile(np.arange(per_train, dtype=np.uint16), n_trains)
    return Simulated(ScoredFrames(train, cell, score, np.ones(n, bool)), is_particle, level, width)


def measure(run: Simulated, mode: str) -> tuple[float, float, float, float]:
    """Return bias of level and width in true widths, share found, and false hits over expected."""
    decision = hit_finder.decide_run(mpi.alone(), Config(1, decide=mode, sigma=SIGMA), run.frames)
    far = run.is_particle & (run.frames.score >= run.level + FAR * run.width)
    found = float(decision.is_hit[far].mean()) if far.any() else math.nan
    empty = ~run.is_particle
    false = decision.is_hit[empty].sum() / (empty.sum() * TAIL)
    level = float(np.mean((decision.median - run.level) / run.width))
    return level, float(np.mean(decision.std / run.width)) - 1, found, float(false)


def main(n_frames: int) -> None:
    """Print the table."""
    rng = np.random.default_rng(14)
    columns = "".join(f" {mode} |" for mode in MODES)
    print(f"| background | frames per train | hits |{columns}\n|{'---|' * (3 + len(MODES))}")
    for kind in BACKGROUNDS:
        for per_train in TRAIN_LENGTHS:
            for hit_rate in HIT_RATES:
                run = simulate(rng, kind, n_frames, per_train, hit_rate)
                row = f"| {kind.name} | {per_train} | {100 * hit_rate:g} % |"
                for mode in MODES:
                    level, width, found, false = measure(run, mode)
                    row += f" {level:+.2f} {width:+.2f}, {100 * found:.1f} %, {false:.1f} |"
                print(row, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000)
