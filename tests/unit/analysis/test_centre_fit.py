"""Centre and quadrants of simulated powders of 500 hits: as exact as promised, honest errors."""

import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import centre
from sizes import Bench

from xfelmpi.analysis import centre_fit
from xfelmpi.analysis.hit_powder import HitPowder, geometry_warning
from xfelmpi.calibration.geometry_writer import moved
from xfelmpi.core.errors import InputError
from xfelmpi.workflows.geometry import _check_parts


@pytest.fixture(scope="module")
def powder():
    return centre.Powder(Bench(seed=11))


@pytest.mark.slow
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


def sums_of(powder) -> np.ndarray:
    """Return photons, good hits and background of one hit, float64 (3, pixel)."""
    sums = np.full((3, powder.geometry.xyz[0].size), np.nan)
    sums[:2] = 0
    sums[:2, powder.pixel] = powder.photons, np.full(len(powder.pixel), 500)
    sums[2, powder.pixel] = powder.background / 500
    return sums


def test_memory_of_a_powder(powder):
    """Only pixels near the beam are copied."""
    photons, good, background = sums_of(powder)
    sums = photons, np.nan_to_num(good).astype(np.uint32), background.astype(np.float32)
    tracemalloc.start()
    try:
        HitPowder.of_sums(powder.geometry, 500, *sums)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * photons.size


def warning_of(powder, off: float, n_hits: int = 500) -> str:
    geometry = moved(powder.geometry, np.full((16, 2), off * centre.PIXEL), "")
    return geometry_warning(HitPowder.of_sums(geometry, n_hits, *sums_of(powder)))


def test_warning_of_a_job(powder):
    """From a shift of a pixel and from 50 hits on."""
    said = [warning_of(powder, *args) for args in ((0.0,), (0.7,), (3.0, 10))]
    assert said == ["", "", ""]
    assert "-3.0 pixels in x and -3.0 in y" in warning_of(powder, 3.0)


def test_few_photons_have_large_errors():
    """With ten times fewer hits, the error is about three times as large."""
    many, few = (centre.Powder(Bench(seed=2), n) for n in (500, 50))
    zero = np.zeros((1, 2))
    ratio = few.fit(zero).error / many.fit(zero).error
    assert ((ratio > 2) & (ratio < 5)).all()


def test_fit_that_does_not_end(powder, monkeypatch):
    """It says so, and a job says nothing of the geometry."""
    monkeypatch.setattr(centre_fit, "_STEPS", 2)
    assert not powder.fit(np.zeros((1, 2))).converged
    assert warning_of(powder, 3.0) == ""
    monkeypatch.undo()
    assert powder.fit(np.zeros((1, 2))).converged


def test_quadrant_without_pixels(powder):
    """It counts, and the command names it."""
    sums = sums_of(powder)
    quarter = len(sums[0]) // 4
    sums[1, :quarter] = sums[1, 2 * quarter : 3 * quarter] = sums[1, 3 * quarter :] = 0
    pixels, _ = HitPowder.of_sums(powder.geometry, 500, *sums).near(quadrants=True)
    assert pixels.n_parts == 4
    with pytest.raises(InputError, match=r"of the beam in quadrant 1, 3, 4:"):
        _check_parts(pixels, Path("powder.h5"))
