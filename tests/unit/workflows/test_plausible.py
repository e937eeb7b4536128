"""Sums of a pass that hardly are what was meant."""

import pytest

from xfelmpi.workflows.plausible import doubts

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
