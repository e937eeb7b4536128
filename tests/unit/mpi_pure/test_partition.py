"""Trains to ranks: plain arithmetic, so that one process tests any number of ranks."""

import numpy as np
import pytest

from xfelmpi.mpi.partition import split_trains

RANKS = (1, 2, 3, 5, 64, 384)
RNG = np.random.default_rng(1)

TRAINS = {
    "none": [],
    "one": [352],
    "one empty": [0],
    "all empty": [0] * 7,
    "even": [352] * 384,
    "one for most ranks": [352] * 383,
    "one more than ranks": [352] * 385,
    "two": [5, 7],
    "uneven": RNG.integers(1, 353, 1000).tolist(),
    "many without frames": (RNG.integers(1, 353, 500) * (RNG.random(500) < 0.3)).tolist(),
    "empty ones at both ends": [0, 0, 352, 1, 0, 20, 0, 0],
    "giant in the middle": [3] * 50 + [100_000] + [3] * 50,
    "giant first": [100_000] + [1] * 20,
    "giant last": [1] * 20 + [100_000],
    "a long run": [352] * 30_000,
}


@pytest.mark.parametrize("n_ranks", RANKS)
@pytest.mark.parametrize("name", TRAINS)
def test_split(name, n_ranks):
    """Every train exactly once, in order; no rank has more than its share and one train."""
    frames = np.array(TRAINS[name], np.int64)
    bounds = split_trains(frames, n_ranks)
    assert bounds.shape == (n_ranks + 1,)
    assert bounds.dtype == np.int64
    assert bounds[0] == 0
    assert bounds[-1] == len(frames)
    assert (np.diff(bounds) >= 0).all()
    before = np.concatenate([[0], np.cumsum(frames)])
    loads = np.diff(before[bounds])
    largest = frames.max(initial=0)
    share = frames.sum() / n_ranks
    assert loads.sum() == frames.sum()
    assert loads.max() <= share + largest
    assert loads.min() >= share - largest


@pytest.mark.parametrize("n_ranks", RANKS)
def test_equal_trains_are_dealt_evenly(n_ranks):
    counts = np.diff(split_trains(np.full(384, 352), n_ranks))
    assert counts.max() - counts.min() <= 1
    if 384 % n_ranks == 0:
        assert set(counts) == {384 // n_ranks}


def test_more_ranks_than_trains():
    """No rank gets two trains while others have none."""
    assert np.diff(split_trains(np.array([352] * 5), 64)).max() == 1


def test_by_hand():
    assert split_trains(np.array([4, 4, 4, 4]), 2).tolist() == [0, 2, 4]
    assert split_trains(np.array([1, 1, 1, 9]), 2).tolist() == [0, 3, 4]
    assert split_trains(np.array([9, 1, 1, 1]), 2).tolist() == [0, 1, 4]


@pytest.mark.parametrize("dtype", ["u2", "i4", "u8", "i8"])
def test_counts_of_any_integer_type(dtype):
    """Sums and products do not overflow the type of the counts."""
    frames = np.full(40_000, 352, dtype)
    bounds = split_trains(frames, 384)
    assert np.array_equal(bounds, split_trains(frames.tolist(), 384))
    counts = np.diff(bounds)
    assert counts.max() - counts.min() <= 1
