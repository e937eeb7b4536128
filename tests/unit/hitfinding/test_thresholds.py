"""Scores to hits and misses, against a reference that sorts and loops."""

import math

import numpy as np
import pytest
import reference

from xfelmpi.hitfinding import sampling, thresholds
from xfelmpi.hitfinding.thresholds import ThresholdRule

COLUMNS = ("is_hit", "median", "std", "threshold", "sigma")


def scores(rng, n, hits=0.1, mean=50):
    values = rng.poisson(mean, n).astype(np.float32)
    values[rng.random(n) < hits] += rng.integers(100, 5000)
    return values


def assert_decision(decision, rows):
    """Compare a decision with rows of the reference, to the precision of the file's float32."""
    for name, expected in zip(COLUMNS, zip(*rows, strict=True), strict=True):
        found = getattr(decision, name)
        if name == "is_hit":
            assert found.dtype == bool
            assert found.tolist() == list(expected)
        else:
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, np.array(expected), rtol=2e-7, equal_nan=True)
    assert (decision.decidable == ~np.isnan([row[1] for row in rows])).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 352])
@pytest.mark.parametrize("mean", [0, 0.5, 20, 3000])
def test_statistics(n, mean):
    values = scores(np.random.default_rng(n), n, mean=mean)
    found = thresholds.score_statistics(values)
    assert all(type(v) in (float, np.float64) for v in found)
    assert found == pytest.approx(reference.statistics(values), rel=1e-12)


@pytest.mark.parametrize(
    ("values", "median", "std"),
    [
        ([], math.nan, math.nan),
        ([0, 0, 0], 0, 1),
        ([0.25], 0.25, 1),
        ([100, 100, 100], 100, 10),
        ([0, 100, 100, 100, 100], 100, 10),
        ([0, 50, 100, 5000, 9000], 100, 1.4826 * 50),
        ([1, 2, 3, 4], 2.5, math.sqrt(2.5)),
        ([0, 0, 40, 40], 20, 1.4826 * 20),
    ],
    ids=str,
)
def test_statistics_by_hand(values, median, std):
    """The lower quartile, not the spread of hits; never below the shot noise, nor 1."""
    found = thresholds.score_statistics(np.array(values, np.float32))
    assert found == pytest.approx((median, std), nan_ok=True)


def test_statistics_do_not_depend_on_the_order():
    values = scores(np.random.default_rng(1), 352)
    found = {
        thresholds.score_statistics(np.random.default_rng(i).permutation(values)) for i in range(9)
    }
    assert len(found) == 1


@pytest.mark.parametrize("n_sigma", [4.0, 0.5, 0.0, -1.0])
def test_by_train(n_sigma):
    """Trains of different lengths, some frames incomplete, one train without a complete frame."""
    rng = np.random.default_rng(2)
    lengths = [1, 40, 2, 17, 30]
    train = np.repeat(10_000 + np.array([0, 1, 3, 4, 9], np.uint64), lengths)
    score = scores(rng, len(train)) + 300 * (train % np.uint64(3)).astype(np.float32)
    complete = rng.random(len(train)) < 0.8
    complete[train == 10_004] = False
    score[~complete] = 9e6
    decision = thresholds.decide_by_train(score, complete, train, ThresholdRule(n_sigma))
    assert_decision(decision, reference.decide(score, complete, train, n_sigma))
    assert not decision.is_hit[~complete].any()
    assert not decision.decidable[~complete].any()
    assert decision.is_hit.any()


def test_trains_are_decided_alone():
    """Any split between trains gives the same decision: as on any number of ranks."""
    rng = np.random.default_rng(3)
    train = np.repeat(np.arange(500, 508, dtype=np.uint64), 25)
    score, complete = scores(rng, 200), rng.random(200) < 0.9
    whole = thresholds.decide_by_train(score, complete, train, ThresholdRule(4.0))
    for at in (0, 25, 100, 200):
        parts = [
            thresholds.decide_by_train(score[s], complete[s], train[s], ThresholdRule(4.0))
            for s in (slice(0, at), slice(at, None))
        ]
        for name in (*COLUMNS, "decidable"):
            joined = np.concatenate([getattr(part, name) for part in parts])
            assert np.array_equal(joined, getattr(whole, name), equal_nan=name in COLUMNS[1:])


def test_train_ids_of_any_size():
    """Neighbouring trains far beyond the precision of a float are two groups."""
    train = np.array([2**60, 2**60, 2**60 + 1, 2**60 + 1], np.uint64)
    score = np.array([10, 20, 1000, 3000], np.float32)
    decision = thresholds.decide_by_train(score, np.ones(4, bool), train, ThresholdRule(4.0))
    assert decision.median.tolist() == [15, 15, 2000, 2000]


def test_by_run_uses_the_scores_of_the_run():
    rng = np.random.default_rng(4)
    run, own = scores(rng, 400, hits=0), scores(rng, 30, hits=0.3)
    complete = rng.random(30) < 0.8
    decision = thresholds.decide_by_run(own, complete, run, ThresholdRule(3.0))
    median, std = reference.statistics(run)
    rows = [
        (bool(s > median + 3 * std), median, std, median + 3 * std, (s - median) / std)
        if c
        else (False, *[math.nan] * 4)
        for s, c in zip(own.astype(float), complete, strict=True)
    ]
    assert_decision(decision, rows)
    assert decision.is_hit.any()


def test_by_run_without_a_complete_frame():
    decision = thresholds.decide_by_run(
        np.ones(3, np.float32), np.zeros(3, bool), np.empty(0, np.float32), ThresholdRule(4.0)
    )
    assert_decision(decision, [(False, *[math.nan] * 4)] * 3)


def test_fixed_threshold():
    """Above, not at it; there are no statistics; incomplete frames are undecided."""
    score = np.array([99, 100, 101, 5000], np.float32)
    decision = thresholds.decide_fixed(score, np.array([True, True, True, False]), 100.0)
    assert decision.is_hit.tolist() == [False, False, True, False]
    assert decision.decidable.tolist() == [True, True, True, False]
    np.testing.assert_array_equal(decision.threshold, np.float32([100, 100, 100, np.nan]))
    for name in ("median", "std", "sigma"):
        assert np.isnan(getattr(decision, name)).all()
        assert getattr(decision, name).dtype == np.float32


def test_score_at_the_threshold_is_no_hit():
    """Median 100, width 10, 4 sigma: 140 is none, 141 is one."""
    score = np.array([100] * 9 + [140, 141], np.float32)
    decision = thresholds.decide_by_train(
        score, np.ones(11, bool), np.full(11, 7, np.uint64), ThresholdRule(4.0)
    )
    assert np.flatnonzero(decision.is_hit).tolist() == [10]
    assert decision.threshold[0] == 140
    assert decision.sigma[9] == 4


@pytest.mark.parametrize(
    "decide",
    [
        lambda s, c: thresholds.decide_by_train(s, c, np.empty(0, np.uint64), ThresholdRule(4.0)),
        lambda s, c: thresholds.decide_by_run(s, c, np.ones(9, np.float32), ThresholdRule(4.0)),
        lambda s, c: thresholds.decide_by_run(s, c, s, ThresholdRule(4.0)),
        lambda s, c: thresholds.decide_fixed(s, c, 3.0),
    ],
)
def test_no_frames(decide):
    decision = decide(np.empty(0, np.float32), np.empty(0, bool))
    assert all(len(getattr(decision, name)) == 0 for name in (*COLUMNS, "decidable"))


# which non-hits are sampled

TRAINS = np.array([0, 1, 10_000, 1_500_000_000, 2**40], np.uint64)


def test_sampling_keys():
    train, cell = (a.reshape(-1) for a in np.meshgrid(TRAINS, np.arange(352, dtype=np.uint16)))
    numbers = sampling.sampling_key(train, cell)
    assert numbers.dtype == np.uint64
    assert numbers.tolist() == [
        reference.sampling_key(int(t), int(c)) for t, c in zip(train, cell, strict=True)
    ]


def test_known_numbers_of_splitmix64():
    """The generator with seed 0 gives these first."""
    step = 0x9E3779B97F4A7C15
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    found = [reference.sampling_key(0, i * step) for i in range(3)]
    assert found == expected


def test_sampling_keys_are_even_and_without_ties():
    train = np.repeat(np.arange(1_234_000, 1_234_200, dtype=np.uint64), 352)
    cell = np.tile(np.arange(352, dtype=np.uint16), 200)
    numbers = sampling.sampling_key(train, cell)
    assert len(np.unique(numbers)) == len(numbers)
    expected = len(numbers) / 16
    counts = np.bincount((numbers >> np.uint64(60)).astype(int), minlength=16)
    assert abs(counts - expected).max() < 6 * math.sqrt(expected)
    # neither a cell nor a train is preferred
    low = numbers < np.uint64(1 << 60)
    assert np.bincount(cell[low], minlength=352).max() < 200 / 16 + 6 * math.sqrt(200 / 16)


def test_sampling_keys_have_no_ties_with_any_number_of_cells():
    """512 and more cells of a train are no cells of the trains after it."""
    trains = [0, 1, 2, 127, 128, 1_500_000_000, 1_500_000_001, 2**47 - 2, 2**47 - 1]
    cells = np.unique([*range(1100), *(2**n + i for n in range(11, 16) for i in (-1, 0, 1)), 65535])
    train, cell = (a.reshape(-1) for a in np.meshgrid(np.array(trains, np.uint64), cells))
    numbers = sampling.sampling_key(train, cell.astype(np.uint16))
    assert len(np.unique(numbers)) == len(trains) * len(cells)


@pytest.mark.parametrize("n", [0, 1, 5, 100])
@pytest.mark.parametrize("wanted", [0, 1, 3, 99, 100, 1000])
def test_as_many_win_as_are_wanted(n, wanted):
    """Exactly, or all; the lowest numbers; and nobody who does not take part."""
    rng = np.random.default_rng(n)
    takes_part = np.zeros(3 * n, bool)
    takes_part[rng.permutation(3 * n)[:n]] = True
    numbers = sampling.sampling_key(np.full(3 * n, 5, np.uint64), np.arange(3 * n))
    limit = sampling.sampling_cutoff(numbers[takes_part], wanted)
    won = sampling.sampled(numbers, takes_part, limit)
    assert won.dtype == bool
    assert won.sum() == min(n, wanted)
    assert not won[~takes_part].any()
    assert sorted(numbers[won]) == sorted(numbers[takes_part])[:wanted]


def test_draw_is_the_same_in_any_split():
    numbers = sampling.sampling_key(np.full(60, 9, np.uint64), np.arange(60))
    takes_part = np.arange(60) % 3 != 0
    limit = sampling.sampling_cutoff(numbers[takes_part], 13)
    shuffled = np.random.default_rng(5).permutation(numbers[takes_part])
    assert sampling.sampling_cutoff(shuffled, 13) == limit
    # each rank sends only its lowest ones
    for first in (0, 5, 13, 30):
        sent = [sampling.lowest_keys(part, 13) for part in np.split(shuffled, [first])]
        assert max(map(len, sent)) <= 13
        assert sampling.sampling_cutoff(np.concatenate(sent), 13) == limit
    parts = [
        sampling.sampled(numbers[s], takes_part[s], limit) for s in (slice(0, 7), slice(7, None))
    ]
    assert np.array_equal(np.concatenate(parts), sampling.sampled(numbers, takes_part, limit))


def test_limit_beyond_63_bits():
    numbers = np.array([2**64 - 1, 2**63 + 1, 2**63], np.uint64)
    assert sampling.sampling_cutoff(numbers, 3) == 2**64 - 1
    limit = sampling.sampling_cutoff(numbers, 2)
    assert limit == 2**63 + 1
    assert sampling.sampled(numbers, np.ones(3, bool), limit).tolist() == [False, True, True]
