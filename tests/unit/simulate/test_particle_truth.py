"""What the truth file says of particles, and how they scatter."""

import numpy as np
import pytest
from mockrun import NEAR, tiny_run

from xfelmpi.simulate.particles import NOTHING, PAIR, RING, SINGLE, seen_axes, spheroid


def test_shadow_of_a_spheroid():
    """Seen from the side it has both axes, along its axis of revolution it is round."""
    short, long, angle = seen_axes((1.0, 2.0), np.array([0.0, 1.0, 0.0]))
    assert (short, long) == (2.0, 4.0)
    assert angle == pytest.approx(np.pi / 2)
    assert seen_axes((1.0, 2.0), np.array([0.0, 0.0, 1.0]))[:2] == (2.0, 2.0)
    short, long, angle = seen_axes((2.0, 1.0), np.array([1.0, 0.0, 0.0]))
    assert (short, long) == (2.0, 4.0)
    assert angle == pytest.approx(np.pi / 2)


def test_spheroid_is_dark_first_along_its_long_axis():
    q = np.array([[1.5, 0.0], [0.0, 1.5], [0.0, 0.0]])
    along, across = spheroid(q, (1.0, 2.0), np.array([1.0, 0.0, 0.0]))
    assert along < across


@pytest.mark.slow
def test_columns_of_the_truth(tmp_path):
    truth = tiny_run(
        tmp_path / "p007927", hit_rate=0.8, particle="spheroid", pairs=0.3, rings=0.3, **NEAR
    ).truth
    there = truth["is_particle"]
    assert set(truth["particle_kind"][~there]) == {NOTHING}
    assert {SINGLE, PAIR, RING} >= set(truth["particle_kind"][there])
    for name in ("diameter", "short_axis_diameter", "long_axis_diameter", "theta_z", "fluence"):
        assert np.isnan(truth[name][~there]).all()
        assert (truth[name][there] > 0).all()
    short, long = truth["short_axis_diameter"][there], truth["long_axis_diameter"][there]
    assert (short <= long).all()
    assert (long <= 2.001 * short).all()
