"""The same thresholds and hits as the facility's hit finder, EXtra-redu, on the same scores."""

import numpy as np
import pytest

from xfelmpi.core.config.options import Config
from xfelmpi.hitfinding import hit_finder
from xfelmpi.hitfinding.scores import ScoredFrames, windows
from xfelmpi.hitfinding.thresholds import decide_by_window

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def simulated(name, seed):
    """Return train, score, usable, and how many scores a window shall have."""
    rng = np.random.default_rng(seed)
    if name == "full trains":
        lengths, mean, min_scores = np.full(20, 352), 800, 100
    elif name == "short trains":
        lengths, mean, min_scores = np.full(90, 24), 60, 100
    else:
        lengths, mean, min_scores = rng.integers(20, 40, 60), 9, 301
    train = np.repeat(5000 + np.arange(len(lengths), dtype=np.uint64), lengths)
    # the jet drifts; some frames hold a particle
    drift = 1 + 0.3 * np.sin(train.astype(float) / 7)
    score = rng.poisson(mean * drift)
    score[rng.random(len(train)) < 0.08] += rng.integers(mean, 20 * mean)
    usable = np.ones(len(train), bool)
    if name == "uneven trains, energies unknown":
        usable = rng.random(len(train)) < 0.8
    return train, lengths, score, usable, min_scores


@pytest.mark.parametrize("name", ["full trains", "short trains", "uneven trains, energies unknown"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("width", ["lower", "iqr"])
@pytest.mark.parametrize("sigma", [4.0, 1.3])
def test_adaptive_spi_hitfinder(name, seed, width, sigma):
    hitfinder = pytest.importorskip("extra_redu.spi.hitfinder").SpiHitfinder
    train, lengths, score, usable, min_scores = simulated(name, seed)
    redu = hitfinder([3, 4, 8, 15], "adaptive", sigma, min_scores, lqr=width == "lower")
    redu.count, redu.first = lengths, np.cumsum(lengths) - lengths
    redu.num_trains, redu.hitscore, redu.good_mask = len(lengths), score, usable
    redu._compute_threshold()
    redu._select_hits()

    options = {"decide": "window", "min_scores": min_scores, "sigma_floor": "none"}
    config = Config(1, width=width, sigma=sigma, **options)
    scores = ScoredFrames(train, train, score.astype(np.float32), usable)
    around = windows(train, usable, 0, int(usable.sum()), min_scores)
    run_scores = scores.score[usable]
    found = decide_by_window(scores.score, usable, around, run_scores, hit_finder.rule_of(config))
    statistics = {"threshold": redu.threshold, "median": redu.mu, "std": redu.sig}
    for column, right in statistics.items():
        right = np.where(usable, np.repeat(right, lengths), np.nan).astype(np.float32)
        np.testing.assert_array_equal(getattr(found, column), right, column)
    np.testing.assert_array_equal(found.is_hit, redu.hit_mask)
    assert 0 < found.is_hit.sum() < len(train)
