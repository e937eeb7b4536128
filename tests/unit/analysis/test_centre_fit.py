"""Centre and quadrants of simulated powders of 500 hits: as exact as promised, honest errors."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import centre
from sizes import Bench

from xfelmpi.analysis.hit_powder import HitPowder, geometry_warning
from xfelmpi.calibration.geometry_writer import moved


@pytest.fixture(scope="module")
def powder():
    return centre.Powder(Bench(seed=11))


@pytest.mark.parametrize(("parts", "limit"), [(1, 0.1), (4, 0.3)])
def test_shifts_are_found(powder, parts, limit):
    """Up to 5 pixels, to 0.1 pixel of the centre and 0.3 of each quadrant."""
    rng = np.random.default_rng(parts)
    for true in (np.zeros((parts, 2)), rng.uniform(-5, 5, (parts, 2)), np.full((parts, 2), 5.0)):
        found = powder.fit(true)
        off = found.shift / centre.PIXEL - true
        assert np.abs(off).max() < limit
        assert np.abs(off * centre.PIXEL / found.error).max() < 4
        assert 0.9 < found.misfit < 1.1


def test_warning_of_a_job(powder):
    """From a shift of a pixel and from 50 hits on."""

    def said(off: float, n_hits: int = 500) -> str:
        geometry = moved(powder.geometry, np.full((16, 2), off * centre.PIXEL), "")
        sums = np.full((3, powder.geometry.xyz[0].size), np.nan)
        sums[:2] = 0
        sums[:2, powder.pixel] = powder.photons, np.full(len(powder.pixel), 500)
        sums[2, powder.pixel] = powder.background / 500
        return geometry_warning(HitPowder.of_sums(geometry, n_hits, *sums))

    assert said(0.0) == said(0.7) == said(3.0, n_hits=10) == ""
    assert "-3.0 pixels in x and -3.0 in y" in said(3.0)


def test_few_photons_have_large_errors():
    """With ten times fewer hits, the error is about three times as large."""
    many, few = (centre.Powder(Bench(seed=2), n) for n in (500, 50))
    zero = np.zeros((1, 2))
    ratio = few.fit(zero).error / many.fit(zero).error
    assert ((ratio > 2) & (ratio < 5)).all()
