"""The order of dark runs, by their digital levels."""

import numpy as np
import pytest

from xfelmpi.calibration.dark_order import StageOrder
from xfelmpi.calibration.dark_statistics import stage_statistics

LEVELS = {"high": 4000, "medium": 6000, "low": 8000}


@pytest.fixture(scope="module")
def stages():
    """Every stage with the digital noise of 20 ADU; one pixel of each is stuck."""
    rng = np.random.default_rng(14)
    found = {}
    for name, level in LEVELS.items():
        digital = rng.normal(level, 20, (10, 500)).round().astype(np.uint16)
        digital[:, 7] = 5000
        found[name] = stage_statistics(digital, digital)
    return found


@pytest.mark.parametrize("names", ["high medium low", "high medium", "high"])
def test_right_order(stages, names):
    order = StageOrder()
    order.add([stages[name] for name in names.split()])
    assert order.wrong([10, 11, 12][: len(names.split())]) == ""


@pytest.mark.parametrize(
    ("names", "better"),
    [
        ("low medium high", "12 11 10"),
        ("medium high low", "11 10 12"),
        ("high low medium", "10 12 11"),
        ("medium high", "11 10"),
    ],
)
def test_wrong_order(stages, names, better):
    order = StageOrder()
    order.add([stages[name] for name in names.split()])
    told = order.wrong([10, 11, 12][: len(names.split())])
    assert told.endswith(f"by their levels: {better}")
    first = f"10: {LEVELS[names.split()[0]] / 1000:.0f},"
    assert first in told or f"10: {LEVELS[names.split()[0]] // 1000 - 1},9" in told


def test_twice_the_same_levels(stages):
    order = StageOrder()
    order.add([stages["high"], stages["high"]])
    assert "10 11 have mean digital levels" in order.wrong([10, 11])


def test_what_no_run_has_says_nothing(stages):
    order = StageOrder()
    order.add([None, stages["medium"], None])
    assert order.wrong([10, 11, 12]) == ""
