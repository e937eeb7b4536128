"""Diameters of simulated spheres: exact, with honest error bars, alone whatever the block."""

import sys
from pathlib import Path

import numpy as np
import pytest

from xfelmpi.analysis.form_factor import sphere_amplitude
from xfelmpi.analysis.hit_analysis import size_analysis
from xfelmpi.analysis.poisson import deviance, expected_deviance
from xfelmpi.analysis.polar_bins import make_bins, pixel_step, ring_edges
from xfelmpi.analysis.spheroid_fit import N_ANGLES, SpheroidFit
from xfelmpi.core.config.options import Config
from xfelmpi.core.config.parts import AnalysisSettings
from xfelmpi.core.errors import InputError
from xfelmpi.simulate.particles import PAIR, spheroid

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import sizes as bench

N = 10


@pytest.fixture(scope="module")
def detector():
    return bench.Bench(seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("background", [0.0, 1.0])
def test_diameters(detector, background):
    """The median is good to 1 %, nothing is off by 5 %, most are within an error bar or two."""
    found, _ = detector.fit("sphere", *(made := detector.hits(N, background=background)))
    true = made[1].seen[:, 0]
    off = np.abs(found["diameter"] / true - 1)
    assert np.median(off) < 0.002
    assert off.max() < 0.02
    pull = np.abs(found["diameter"] - true) / found["diameter_error"]
    assert (pull < 1).sum() > N * 0.4
    assert pull.max() < 4
    assert 0.97 < np.median(found["size_deviance"]) < 1.03
    assert not found["size_edge"].any()


@pytest.mark.slow
def test_pairs_have_a_high_deviance(detector):
    single, _ = detector.fit("sphere", *detector.hits(N))
    double, _ = detector.fit("sphere", *detector.hits(N, kind=PAIR))
    assert bench.area_under_curve(single["size_deviance"], double["size_deviance"]) > 0.95


def test_each_hit_alone(detector, monkeypatch):
    """The same bits in any block, and in any company: ranks have other blocks."""
    made = detector.hits(7, background=0.5)
    together, _ = detector.fit("sphere", *made)
    for block in (1, 3):
        monkeypatch.setattr(bench, "BLOCK", block)
        apart, _ = detector.fit("sphere", *made)
        for name, values in together.items():
            np.testing.assert_array_equal(apart[name], values, name)


def test_hits_without_photons(detector):
    lists, truth = detector.hits(2)
    lists.indptr[1:] = lists.indptr[2]
    lists.indptr[0] = 0
    nothing = lists.take(np.array([1, 0]))
    found, _ = detector.fit("sphere", nothing, truth)
    assert np.isnan(found["diameter"][0])
    assert np.isfinite(found["diameter"][1])


def test_amplitude_and_slope():
    """The series and the formula meet, and the slope is that of the values."""
    h = np.linspace(0, 12, 4001)
    value, slope = sphere_amplitude(h)
    assert value[0] == 1
    middle = np.gradient(value, h)
    np.testing.assert_allclose(slope[1:-1], middle[1:-1], atol=2e-6)


def test_expected_deviance():
    """Of random counts, few and many."""
    rng = np.random.default_rng(2)
    for mean in (0.003, 0.2, 1.7, 30.0, 200.0):
        counts = rng.poisson(mean, 400_000).astype(float)
        found = deviance(counts, np.full_like(counts, mean)).mean()
        np.testing.assert_allclose(expected_deviance(np.array([mean])), found, rtol=0.03)


def test_when_sizes_are_measured():
    assert size_analysis(Config().part(AnalysisSettings), 0.7, 2e-10) == "sphere"
    assert size_analysis(Config().part(AnalysisSettings), np.nan, 2e-10) is None
    assert size_analysis(Config(size="none").part(AnalysisSettings), 0.7, 2e-10) is None
    with pytest.raises(InputError, match="--size sphere: the wavelength is unknown"):
        size_analysis(Config(size="sphere").part(AnalysisSettings), 0.7, np.nan)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("axes", "turn"), [((30e-9, 60e-9), 0.7), ((50e-9, 50e-9), 0.0), ((60e-9, 75e-9), 2.0)]
)
def test_spheroid_in_bins_is_that_of_the_pixels(detector, axes, turn):
    """To well below the noise of 50 000 photons: the bins are no cause of too small errors."""
    edges = ring_edges(1.5 * pixel_step(detector.geometry, bench.WAVELENGTH), 1.6e9, 1 / 20)
    sectors = np.full(len(edges) - 1, N_ANGLES)
    bins = make_bins(detector.geometry, bench.WAVELENGTH, "x", edges, sectors)
    fit = SpheroidFit(bins, np.array([40e-9, 60e-9]), 4.3e29, bins.total, 0 * bins.total)
    axis = np.array([np.cos(turn), np.sin(turn), 0.0])
    pixels = spheroid(detector.q, np.array(axes) / 2, axis) * detector.light
    true = np.bincount(bins.pixel_bin, pixels, bins.n_bins + 1)[:-1]
    where = np.array([[*np.log(axes), turn, 0.0]])
    (found,), _ = fit._model(bins.total[None], where, slopes=False)
    seen = true > 0
    true, found = 50e3 * true[seen] / true.sum(), 50e3 * found[seen] / found[seen].sum()
    assert deviance(true, found).sum() < 40


@pytest.mark.slow
def test_spheroids(detector):
    """Both axes and the angle, also with as much background as particle; the same bits alone."""
    lists, truth = detector.hits(6, ratio=(1.2, 2.0), background=1.0)
    found, _ = detector.fit("spheroid", lists, truth)
    for i, name in enumerate(("short_axis", "long_axis")):
        off = found[f"{name}_diameter"] - truth.seen[:, i]
        assert (np.abs(off) < 0.02 * truth.seen[:, i]).all()
        assert (np.abs(off) < 4 * found[f"{name}_error"]).all()
    turn = (found["theta_z"] - truth.seen[:, 2] + np.pi / 2) % np.pi - np.pi / 2
    assert np.abs(turn).max() < 0.03
    assert 0.9 < np.median(found["size_deviance"]) < 1.1
    last = lists.take(np.array([5])), bench.Truth(truth.seen[5:], truth.weighting[5:])
    for name, values in detector.fit("spheroid", *last)[0].items():
        np.testing.assert_array_equal(values, found[name][5:], name)
