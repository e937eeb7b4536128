"""The background of the hits, against dense sums and by hand."""

import numpy as np
import pytest
import reference

from xfelmpi.reduction import background


def test_mean_background_of_dense_frames():
    rng = np.random.default_rng(1)
    frames = rng.poisson(0.8, (30, 4, 50))
    good = rng.random(frames.shape) < 0.5
    good[:, 0, 0] = False
    is_hit = rng.random(30) < 0.3
    good[~is_hit, 0, 1] = False
    good[is_hit, 0, 1] = True
    good[is_hit, 0, 2] = False

    def sums(which):
        photons = np.where(good, frames, 0)[which].sum(axis=0)
        return photons.astype(np.uint64), good[which].sum(axis=0).astype(np.uint32)

    found = background.mean_background(sums(slice(None)), sums(is_hit))
    expected = reference.mean_background(frames, good, is_hit)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, equal_nan=True)
    assert np.isnan(found[0, :2]).all(), "never good in a non-hit"
    assert np.isfinite(found[0, 2])


@pytest.mark.parametrize("photons", [2**53 + 2, 2**62])
def test_mean_background_of_large_sums(photons):
    """The difference is taken before anything is rounded to a float."""
    found = background.mean_background(
        (np.array([photons + 6], np.uint64), np.array([5], np.uint32)),
        (np.array([photons], np.uint64), np.array([3], np.uint32)),
    )
    assert found.tolist() == [3.0]


def test_only_hits_have_no_background():
    whole = np.array([7, 0], np.uint64), np.array([3, 0], np.uint32)
    assert np.isnan(background.mean_background(whole, whole)).all()


def test_background_without_dark_frames():
    whole, hits, dark = ((np.array([n], np.uint64), np.array([n], np.uint32)) for n in (9, 3, 2))
    found = background.mean_background(whole, hits, (dark[0] * 0, dark[1]))
    assert found.tolist() == [1.5]


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("energy", "mean_energy", "train", "run", "expected"),
    [
        ([2.0, 1.0, 0.0], 1.0, [10.0, 30.0, 20.0], 20.0, [1.0, 1.5, 0.0]),
        ([3.0, 1.0], 2.0, [5.0, 5.0], 5.0, [1.5, 0.5]),
        ([NAN, 4.0], 2.0, [10.0, NAN], 20.0, [0.5, 2.0]),
        ([1.0, 2.0], NAN, [10.0, 20.0], 20.0, [0.5, 1.0]),
        ([1.0, 0.0], 0.0, [10.0, 20.0], 20.0, [0.5, 1.0]),
        ([2.0, 2.0], 1.0, [0.0, 5.0], 0.0, [2.0, 2.0]),
        ([NAN], NAN, [NAN], NAN, [1.0]),
        ([INF, 1.0], INF, [1.0, 1.0], 1.0, [1.0, 0.0]),
        ([], 1.0, [], 1.0, []),
    ],
)
def test_weighting(energy, mean_energy, train, run, expected):
    """What is unknown, or a division by 0, is a factor of 1; the other factor stays."""
    found = background.background_weighting(np.array(energy), mean_energy, np.array(train), run)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)


def test_mean_by_train():
    train = np.array([7, 7, 7, 9, 9, 2**60, 2**60 + 1], np.uint64)
    photons = np.array([10, 20, 1000, 5, 6, 2**40, 3], np.uint64)
    counts = np.array([True, True, False, False, False, True, True])
    found = background.mean_by_train(train, photons, counts)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [15, 15, 15, NAN, NAN, 2**40, 3])


def test_mean_by_train_of_nothing():
    empty = np.empty(0, np.uint64)
    assert background.mean_by_train(empty, empty, np.empty(0, bool)).shape == (0,)
