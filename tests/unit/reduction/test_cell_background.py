"""Backgrounds of memory cells: which cells get their own, which frames have which."""

import numpy as np
import pytest

from xfelmpi.core.errors import UsageError
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.reduction import cell_background

GOOD = 1e7


def test_cells_far_from_the_others_are_left_out():
    rng = np.random.default_rng(5)
    photons = rng.poisson(0.01 * GOOD, 352).astype(float)
    good = np.full(352, GOOD)
    photons[[0, 31]] *= [1.5, 0.6]
    good[7] = photons[7] = 0
    accepted = cell_background.accepted_cells(photons, good)
    assert np.flatnonzero(~accepted).tolist() == [0, 7, 31]


def test_cells_that_really_differ_are_no_outliers():
    """Their spread is what the deviation is compared with, if it is more than shot noise."""
    level = 0.01 * (1 + 0.2 * np.sin(np.arange(352) / 9))
    assert cell_background.accepted_cells(level * GOOD, np.full(352, GOOD)).all()


@pytest.mark.parametrize("photons", [0.0, 3.0])
def test_few_photons_are_no_outliers(photons):
    """Of cells without a photon, one with few is not far off."""
    counts = np.array([0.0, 0.0, 0.0, 0.0, photons])
    assert cell_background.accepted_cells(counts, np.full(5, GOOD)).all()


def test_row_of_frames():
    rows = cell_background.background_row(np.array([2, 5, 9]), np.array([9, 0, 2, 3, 351, 5]))
    assert rows.tolist() == [3, 0, 1, 0, 0, 2]
    assert cell_background.background_row(np.empty(0, int), np.array([0, 4])).tolist() == [0, 0]


def test_words():
    empty = np.empty((0, 1, 1), np.float32)
    found = cell_background.CellBackground(np.array([1]), empty, (0,), tuple(range(20, 40)))
    assert found.words() == (
        "background: 1 memory cell with an outlying background (0) and 20 memory cells without "
        "non-hits (20, 21, 22, 23, 24, 25, 26, 27, 28, 29 …) get that of the run"
    )
    assert cell_background.CellBackground(np.array([1]), empty).words() == ""


def test_memory():
    detector = AGIPD_1M
    cell_background.check_cell_memory(352, detector, 3 << 30)
    with pytest.raises(UsageError, match=r"352 memory cells take 1\.4 GiB.*--memory-per-rank"):
        cell_background.check_cell_memory(352, detector, 200 << 20)
