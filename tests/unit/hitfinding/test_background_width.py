"""The background that ``--decide auto`` takes thresholds from, whatever the hit rate."""

import sys
from pathlib import Path

import numpy as np
import pytest
import reference

from xfelmpi import mpi
from xfelmpi.core.config.options import Config
from xfelmpi.hitfinding import background, hit_finder
from xfelmpi.hitfinding.scores import ScoredFrames

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import background_estimate as estimate


@pytest.mark.slow
@pytest.mark.parametrize("hit_rate", estimate.HIT_RATES)
@pytest.mark.parametrize("per_train", estimate.TRAIN_LENGTHS)
@pytest.mark.parametrize("kind", estimate.BACKGROUNDS[:3:2], ids=lambda kind: kind.name)
def test_finds_particles_and_little_else(kind, per_train, hit_rate):
    """≥ 99 % of what stands 6 sigma out; false hits at most twice those of a normal tail."""
    rng = np.random.default_rng(per_train)
    run = estimate.simulate(rng, kind, 120_000, per_train, hit_rate)
    level, width, found, false = estimate.measure(run, "auto")
    assert found >= 0.99
    # few are expected: 4 standard deviations of their number
    expected = (~run.is_particle).sum() * estimate.TAIL
    assert false * expected <= 2 * expected + 4 * np.sqrt(2 * expected)
    assert abs(level) < 0.15
    assert abs(width) < 0.05


def test_short_trains_with_many_hits():
    """300 trains of 8 cells with 30 % hits, of which the trains alone miss many."""
    kind = estimate.Background("steady", 800, drift=0.02)
    run = estimate.simulate(np.random.default_rng(1), kind, 2400, 8, 0.3)
    assert estimate.measure(run, "auto")[2] >= 0.99
    assert estimate.measure(run, "train")[2] < 0.9
    decision = hit_finder.decide_run(mpi.alone(), Config(1), run.frames)
    assert "trains around it" in decision.note
    assert "a train has 8 frames" in decision.note


def test_no_note_for_long_trains():
    run = estimate.simulate(np.random.default_rng(2), estimate.BACKGROUNDS[0], 3520, 352, 0.05)
    assert hit_finder.decide_run(mpi.alone(), Config(1), run.frames).note == ""


def test_a_tiny_run_says_that_it_is_uncertain():
    run = estimate.simulate(np.random.default_rng(3), estimate.BACKGROUNDS[0], 40, 8, 0.0)
    note = hit_finder.decide_run(mpi.alone(), Config(1), run.frames).note
    assert "fewer than the 200" in note


@pytest.mark.parametrize("n", [1, 2, 3, 7, 40, 301])
@pytest.mark.parametrize("mean", [0, 0.5, 4, 700])
@pytest.mark.parametrize("floor", [True, False])
def test_statistics_equal_the_reference(n, mean, floor):
    rng = np.random.default_rng(n)
    lengths = rng.integers(0, 9, n)
    scores = rng.poisson(mean, lengths.sum()).astype(np.float32)
    scores[rng.random(len(scores)) < 0.3] += rng.integers(1, 3000)
    if not floor:
        scores *= np.float32(1.1)
    train = np.repeat(np.arange(n, dtype=np.uint64), lengths)
    usable = rng.random(len(scores)) < 0.9
    config = Config(1, min_scores=20, sigma_floor="poisson" if floor else "none")
    frames = ScoredFrames(train, np.zeros(len(train), np.uint16), scores, usable)
    found = hit_finder.decide_run(mpi.alone(), config, frames)
    names = np.unique(train)
    groups = [scores[usable & (train == name)].tolist() for name in names]
    right = dict(zip(names, reference.background(groups, 20, floor=floor), strict=True))
    level, width = np.array([right[t] for t in train]).reshape(-1, 2).T
    threshold = [
        reference.skewed_threshold(m, s, 4.0, floor=floor)
        for m, s in zip(level, width, strict=True)
    ]
    columns = {"median": level, "std": width, "threshold": threshold}
    for name, values in columns.items():
        expected = np.where(usable, values, np.nan)
        np.testing.assert_allclose(getattr(found, name), expected, 1e-5, 1e-5, err_msg=name)


def test_low_outliers_do_not_matter():
    """Frames without a beam score next to nothing."""
    rng = np.random.default_rng(4)
    scores = rng.poisson(800, 3520).astype(np.float32)
    scores[rng.random(3520) < 0.05] = 2
    train = np.repeat(np.arange(10, dtype=np.uint64), 352)
    frames = ScoredFrames(train, np.zeros(3520, np.uint16), scores, np.ones(3520, bool))
    found = hit_finder.decide_run(mpi.alone(), Config(1), frames)
    assert abs(found.median / 800 - 1).max() < 0.02
    assert abs(found.std / np.sqrt(800) - 1).max() < 0.06


@pytest.mark.parametrize("mean", [3, 10, 100, 1000])
def test_threshold_of_counts(mean):
    """As rare as 4 sigma of a normal distribution, within what one count more would change."""
    level, width = np.array([float(mean)]), np.array([np.sqrt(mean)])
    threshold = background.tail_threshold(level, width, 4.0)[0]
    k = np.arange(1, 20 * mean + 100)
    log_tail = k * np.log(mean) - mean - np.cumsum(np.log(k))

    def tail(least):
        return np.exp(log_tail[k >= least]).sum()

    above = np.floor(threshold) + 1
    assert tail(above) < 2 * estimate.TAIL
    assert tail(above - 2 - 0.2 * width[0]) > estimate.TAIL
    plain = np.floor(mean + 4 * width[0]) + 1
    assert tail(plain) >= tail(above)


def test_sigma_below_one_is_as_it_is():
    level, width = np.array([9.0]), np.array([3.0])
    for sigma in (-100.0, -1.0, 0.0, 1.0):
        assert background.tail_threshold(level, width, sigma) == level + sigma * width
