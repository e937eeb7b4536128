"""The signal of one photon in frames of float data, against --adu-per-photon."""

from functools import lru_cache

import numpy as np
import pytest

from xfelmpi.calibration.photon_signal import (
    SignalHistogram,
    doubtful_parts,
    doubtful_signal,
)


@lru_cache(maxsize=1)
def drawn(photons):
    """Return the photons of a million pixels and noise of the standard deviation 1."""
    rng = np.random.default_rng(1)
    return rng.poisson(photons, 1_000_000).astype(np.float32), rng.standard_normal(1_000_000)


@lru_cache(maxsize=4)
def histogram_of(photons, adu=1.0, noise=0.0):
    values, noises = drawn(photons)
    if noise:
        values = values + (noise * noises).astype(np.float32)
    histogram = SignalHistogram()
    histogram.add(values * np.float32(adu))
    return histogram


@pytest.mark.parametrize("noise", [0, 0.05, 0.1, 0.15])
@pytest.mark.parametrize("photons", [0.002, 0.01, 0.1])
@pytest.mark.parametrize(("adu", "given"), [(7.5, 1), (60, 1), (9.3, 1), (60, 7.5), (7.5, 60)])
def test_values_that_contradict_the_option(noise, photons, adu, given):
    (warning,) = doubtful_signal(histogram_of(photons, adu, noise), given)
    assert f"--adu-per-photon is {given:g}" in warning
    named = float(warning.partition("Give --adu-per-photon ")[2].partition(",")[0])
    assert named == pytest.approx(adu, rel=0.1)


@pytest.mark.parametrize("noise", [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1])
@pytest.mark.parametrize("photons", [0, 1e-5, 0.002, 0.01, 0.1, 0.5, 1, 2, 5, 20, 300])
@pytest.mark.parametrize("adu", [1, 60])
def test_no_false_alarm(noise, photons, adu):
    assert not doubtful_signal(histogram_of(photons, adu, noise), adu)


@pytest.mark.parametrize("draw", ["standard_normal", "exponential", "cauchy", "laplace"])
def test_noise_alone_is_no_photon(draw):
    rng = np.random.default_rng(2)
    values = {
        "standard_normal": lambda: rng.standard_normal(1_000_000) * 8,
        "exponential": lambda: rng.exponential(5, 1_000_000),
        "cauchy": lambda: rng.standard_cauchy(1_000_000),
        "laplace": lambda: rng.laplace(0, 7, 1_000_000),
    }[draw]()
    histogram = SignalHistogram()
    histogram.add(values)
    assert not doubtful_signal(histogram, 1)


def test_charge_shared_among_pixels():
    """A third of the photons leaves its charge in two pixels."""
    rng = np.random.default_rng(3)
    image = np.zeros(1_000_000)
    place = rng.choice(len(image) - 1, 10_000, replace=False)
    share = np.where(rng.random(len(place)) < 0.3, rng.random(len(place)), 1)
    np.add.at(image, place, share)
    np.add.at(image, place + 1, 1 - share)
    image += rng.normal(0, 0.08, len(image))
    for adu, given, warns in ((1, 1, False), (60, 60, False), (60, 1, True), (7.5, 1, True)):
        histogram = SignalHistogram()
        histogram.add(image * adu)
        assert bool(doubtful_signal(histogram, given)) == warns


@pytest.mark.parametrize("values", [[], [np.nan, np.inf, -np.inf], np.full(299, 7.5), [0.0] * 9])
def test_too_little_to_tell(values):
    histogram = SignalHistogram()
    histogram.add(np.array(values))
    assert histogram.photon_signal() is None


def test_exact_value_of_quantised_data():
    assert histogram_of(0.01, 7.5).photon_signal() == pytest.approx(7.5, rel=1e-6)


def of_run(part_adu, module_adu) -> list[SignalHistogram]:
    """Return the histograms of a run whose parts and modules have these signals of a photon."""
    parts, modules = ([histogram_of(0.01, adu, 0.1) for adu in of] for of in (part_adu, module_adu))
    whole = SignalHistogram(sum(h.counts for h in modules))
    return [whole, *parts, *modules]


@pytest.mark.parametrize(
    ("parts", "modules", "where"),
    [
        # the parts have all modules, of which one does not count as much
        ((1, 1, 1, 1), (*(1,) * 5, 6, *(1,) * 10), "module 5 are near 6"),
        ((1, 1, 1, 1), (7.5, *(1,) * 14, 7.5), "modules 0, 15 are near 7"),
        ((1, 1, 6, 6), (1,) * 16, "the third and last quarter of the run are near 6"),
        ((1, 1, 1, 1), (1,) * 16, ""),
    ],
)
def test_parts_in_other_units(parts, modules, where):
    histograms = of_run(parts, modules)
    assert not doubtful_signal(histograms[0], 1)
    warnings = doubtful_parts(histograms, 1)
    assert len(warnings) == bool(where)
    assert all(f"most signals of {where}" in text for text in warnings)
