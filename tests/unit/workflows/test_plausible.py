"""Sums of a pass that hardly are what was meant."""

import numpy as np
import pytest

from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.workflows.plausible import doubts, doubts_of_raw_powder

PIXELS = 1_000_000


@pytest.mark.parametrize(
    ("good", "lit", "photons", "words"),
    [
        (990_000, 5_000, 5_100, ""),
        (100_000, 10, 10, ""),
        (128, 3, 3, "0.013 % of the pixels were good in 8 frames"),
        (0, 0, 0, "0 % of the pixels were good"),
        (990_000, 0, 0, "not one photon in 8 frames"),
        (990_000, 980_000, 5_000_000, "99 % of the good pixels have photons"),
    ],
)
def test_doubts(good, lit, photons, words):
    told = doubts(good, PIXELS, lit, photons, 8)
    assert len(told) == bool(words)
    assert words in "".join(told)


def powder(light, frames=100, seed=1):
    """Return photons and good frames of two modules."""
    rng = np.random.default_rng(seed)
    photons = rng.poisson(np.broadcast_to(light * frames, (2, 512 * 128))).astype(np.uint64)
    return photons, np.full(photons.shape, frames, np.uint32)


@pytest.mark.parametrize("frames", [1, 8, 100, 10_000])
@pytest.mark.parametrize("light", [0, 0.001, 0.01, 0.04, 0.1, 0.5, 3, 20])
def test_light_is_alike_in_neighbours(light, frames):
    assert doubts_of_raw_powder(powder(light, frames), AGIPD_1M) == ()


def test_steep_light_and_some_hot_and_dead_pixels():
    light = np.geomspace(30, 1e-4, 512 * 128)
    light[::50] = 50
    light[7::100] = 0
    assert doubts_of_raw_powder(powder(light), AGIPD_1M) == ()


def test_modules_with_the_offsets_of_others():
    photons, good = powder(0.005)
    offset = np.random.default_rng(2).normal(0, 5, photons.shape[1])
    photons[1] += (100 * np.floor(np.maximum(offset, 0))).astype(np.uint64)
    (warning,) = doubts_of_raw_powder((photons, good), AGIPD_1M)
    assert warning.startswith("module 1: many pixels have photons all the time")
    good[1] = 0
    assert doubts_of_raw_powder((photons, good), AGIPD_1M) == ()
    assert doubts_of_raw_powder(None, AGIPD_1M) == ()
