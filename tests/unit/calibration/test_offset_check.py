"""Offsets that are not those of the frames, from two trains of the same memory cells."""

import numpy as np
import pytest

from xfelmpi.calibration.offset_check import doubtful_offsets

SHAPE = (512, 128)
ADU = 60.0


def frames(pattern=0.0, noise=5.0, photons=0.0, modules=(3,), adu=ADU, seed=1):
    """Return signals of two cells in two trains; `pattern` is the width of wrong offsets."""
    rng = np.random.default_rng(seed)
    ss, fs = np.ogrid[:512, :128]
    light = photons * np.exp(-(ss**2 + fs**2) / 100**2)
    found = []
    for module in modules:
        for number in (0, 4):
            wrong = rng.normal(0, pattern, SHAPE) if pattern else 0
            for end in (0, 1):
                signal = rng.poisson(light, SHAPE) * adu + rng.normal(0, noise, SHAPE) + wrong
                # the drift of an ASIC, and pixels that are not in the high stage
                signal[:64, :64] += rng.normal(0, 100)
                signal[rng.random(SHAPE) < 0.05] = np.nan
                found.append((module, number, end, signal.astype(np.float32)))
    return found


@pytest.mark.parametrize("pattern", [25, 50, 300])
@pytest.mark.parametrize("photons", [0, 0.1, 5])
def test_wrong_offsets(pattern, photons):
    found = [*frames(modules=(1, 2), photons=photons), *frames(pattern, photons=photons)]
    (warning,) = doubtful_offsets(found, ADU)
    assert warning.startswith("module 3: signals differ by ")
    # frames of one train tell nothing, and those that cannot be read neither
    assert not doubtful_offsets([f for f in found if f[2] == 0], ADU)
    assert not doubtful_offsets([(*f[:2], f[2], None) for f in found], ADU)


@pytest.mark.parametrize("noise", [0, 0.5, 5, 20, 60])
@pytest.mark.parametrize("photons", [0, 0.01, 0.3, 3, 30, 300])
def test_no_false_alarm(noise, photons):
    assert not doubtful_offsets(frames(noise=noise, photons=photons), ADU)


def test_offsets_that_make_no_photons():
    """A pattern of the width of the noise, or far below a photon: as after a change of weather."""
    assert not doubtful_offsets(frames(5, noise=5), ADU)
    assert not doubtful_offsets(frames(10, noise=0.5), ADU)


def test_nothing_usable():
    nothing = np.full(SHAPE, np.nan, np.float32)
    assert not doubtful_offsets([(0, 0, 0, nothing), (0, 0, 1, nothing)], ADU)
    assert not doubtful_offsets([], ADU)
