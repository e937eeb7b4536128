"""Bad pixels and cells told from sums: what is found, and how seldom a good one is."""

import numpy as np
import pytest

from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.workflows.mask.bad_pixels import (
    DEAD,
    HOT,
    NOISY,
    BadPixelCriteria,
    Counts,
    asic_edges,
    brightness,
    capped,
    dark,
    judge_by_neighbours,
    judge_cells,
    masked_median,
    mostly_bad,
    quartiles,
)

LIMITS = BadPixelCriteria()
FRAMES = 1000


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def good_counts(rng, expected, cells, pixels=2000, level=1.0):
    """Return counts of good pixels; `expected` photons in a cell, from frames of Poisson counts."""
    shape = (cells, pixels)
    level = np.broadcast_to(np.reshape(level, (-1, 1)), (cells, 1))
    photons = rng.poisson(expected * level, shape).astype(float)
    pairs = rng.poisson((expected * level) ** 2 / FRAMES / 2, shape).astype(float)
    return Counts(photons, pairs, np.full(shape, float(FRAMES)), level)


@pytest.mark.slow
@pytest.mark.parametrize("cells", [1, 2, 7, 8, 64, 352])
@pytest.mark.parametrize("expected", [0.0, 0.01, 0.5, 5, 14, 100, 1e4])
def test_good_pixels_are_good(rng, expected, cells):
    counts = good_counts(rng, expected, cells)
    kinds = judge_cells(counts, LIMITS)
    rate, pair_rate = (np.full(2000, n / FRAMES) for n in (expected, expected**2 / FRAMES / 2))
    kinds |= judge_by_neighbours(counts, rate, pair_rate, LIMITS)
    assert np.count_nonzero(kinds) <= 1e-3 * kinds.size
    assert np.count_nonzero(kinds & HOT) <= 1e-5 * kinds.size


def with_bad_cell(counts, cell=3, pixels=100, photons=None, pairs=None):
    """Return the counts with other ones in the first pixels of a cell."""
    changed = {n: getattr(counts, n).copy() for n in ("photons", "pairs")}
    for name, values in (("photons", photons), ("pairs", pairs)):
        if values is not None:
            changed[name][cell, :pixels] = values
    return Counts(changed["photons"], changed["pairs"], counts.frames, counts.level)


@pytest.mark.parametrize(("cells", "photons"), [(8, 80), (100, 45)])
def test_hot_cells(rng, cells, photons):
    """The quartiles of few cells are not well known."""
    kinds = judge_cells(with_bad_cell(good_counts(rng, 14, cells), photons=photons), LIMITS)
    assert (kinds[3, :100] == HOT).mean() > 0.97
    assert not kinds[:, 100:].any()


@pytest.mark.parametrize(("expected", "found"), [(5, False), (14, True), (300, True)])
def test_dead_cells_where_good_ones_had_light(rng, expected, found):
    counts = with_bad_cell(good_counts(rng, expected, 64), photons=0, pairs=0)
    kinds = judge_cells(counts, LIMITS)
    assert (kinds[3, :100] == DEAD).mean() == pytest.approx(float(found), abs=0.02)
    rate = np.full(2000, expected / FRAMES)
    assert dark(counts, rate, LIMITS).all() == (not found)


def test_few_photons_are_as_bad_as_none(rng):
    kinds = judge_cells(with_bad_cell(good_counts(rng, 300, 64), photons=100), LIMITS)
    assert (kinds[3, :100] == DEAD).all()


def test_flicker_that_the_sum_does_not_show(rng):
    """As many photons as in the other cells, but several of them in the same frames."""
    kinds = judge_cells(with_bad_cell(good_counts(rng, 100, 64), photons=110, pairs=60), LIMITS)
    assert (kinds[3, :100] == NOISY).all()
    assert np.count_nonzero(kinds) == 100


def test_one_frame_is_no_flicker(rng):
    """Four photons count as 6 pairs, and so do more."""
    kinds = judge_cells(with_bad_cell(good_counts(rng, 5, 64), pairs=6), LIMITS)
    assert not kinds.any()


def test_cells_that_vary_are_measured_by_their_quartiles(rng):
    counts = good_counts(rng, rng.normal(5000, 400, (64, 2000)).clip(1), 64)
    assert np.count_nonzero(judge_cells(counts, LIMITS) & (HOT | DEAD)) < 1e-4 * 64 * 2000


def test_brightness_of_cells(rng):
    level = np.linspace(0.5, 1.5, 64)
    counts = good_counts(rng, 400, 64, level=level)
    assert not (judge_cells(counts, LIMITS) & (HOT | DEAD)).any()
    photons = with_bad_cell(counts, photons=1e6).photons.astype(np.uint32)
    frames = np.full((1, 64), FRAMES * 2000)
    found = brightness(capped(photons).sum(axis=1)[None], frames)
    # 5 % of the pixels of a faint cell are hot: 10000 times as bright, but for the cap
    np.testing.assert_allclose(found[0], level, rtol=0.2)
    # a few photons say nothing
    np.testing.assert_allclose(brightness(np.array([[3, 0]]), np.full((1, 2), 9)), 1, rtol=0.03)


def test_what_has_no_frames_is_not_judged(rng):
    counts = good_counts(rng, 50, 64)
    counts.frames[3] = 0
    counts = with_bad_cell(counts, photons=0)
    counts.photons[5, 7] = 1e6
    kinds = judge_cells(counts, LIMITS)
    kinds |= judge_by_neighbours(counts, np.full(2000, 0.05), np.full(2000, 0.001), LIMITS)
    assert not kinds[3].any()
    assert kinds[5, 7] & HOT


@pytest.mark.parametrize(
    ("photons", "pairs", "kind"),
    [(100, 5, 0), (250, 31, 0), (400, 40, HOT), (5, 0, DEAD), (120, 90, NOISY), (40, 1, 0)],
)
def test_neighbours(photons, pairs, kind):
    """Twice as bright is no fault; three times is, if it is more than shot noise."""
    one = np.ones((1, 1))
    counts = Counts(one * photons, one * pairs, one * FRAMES, one)
    assert judge_by_neighbours(counts, np.array([0.1]), np.array([0.005]), LIMITS) == kind
    assert not judge_by_neighbours(counts, np.zeros(1), np.zeros(1), BadPixelCriteria(1e6))


def test_pixels_that_are_mostly_bad():
    kinds = np.array([[1, 1, 0], [2, 0, 0], [0, 0, 4]], np.uint8)
    judged = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 0]], bool)
    np.testing.assert_array_equal(mostly_bad(kinds, judged), [[3, 0, 4], [3, 0, 0], [3, 0, 0]])


@pytest.mark.filterwarnings("ignore:All-NaN")
def test_quartiles_and_medians_are_those_of_numpy(rng):
    values = rng.random((17, 300))
    values[rng.random(values.shape) < rng.random(300)] = np.nan
    expected = np.nan_to_num(np.nanpercentile(values, (25, 50, 75), axis=0))
    np.testing.assert_allclose(quartiles(values), expected, rtol=1e-12)
    image = rng.random((64, 64))
    image[rng.random((64, 64)) < 0.2] = np.nan
    image[:9, :9] = np.nan
    found = masked_median(image)
    for ss, fs in [(0, 0), (4, 4), (63, 0), (30, 31), (20, 62)]:
        window = image[max(ss - 3, 0) : ss + 4, max(fs - 3, 0) : fs + 4]
        assert found[ss, fs] == np.nan_to_num(np.nanmedian(window))


def test_asic_edges():
    edges = asic_edges(AGIPD_1M)
    assert edges.shape == (512, 128)
    assert edges.sum() == 16 * (4 * 64 - 4)
    assert edges[63, 5]
    assert edges[5, 64]
    assert not edges[1, 62]
