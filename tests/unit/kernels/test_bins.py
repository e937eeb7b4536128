"""Sums over bins of pixels, against numpy."""

import numpy as np
import pytest

from xfelmpi._kernels._bins import sum_in_bins

LISTS = (
    np.array([0, 3, 3, 5]),
    np.array([0, 2, 5, 1, 2], np.uint32),
    np.array([4, 0, 1, 65535, 2], np.uint16),
)
BINS = np.array([0, 1, 1, 2, 0, 2], np.int32)
VALUES = np.arange(12, dtype=np.float64).reshape(6, 2)


def test_sums_and_bad_pixels():
    """Pixel 2 is bad in the first frame: its values are taken off bin 1."""
    photons, left = np.zeros((3, 3)), np.full((3, 3, 2), 20.0)
    sum_in_bins(*LISTS, BINS, VALUES, photons, left)
    np.testing.assert_array_equal(photons, [[4, 0, 1], [0, 0, 0], [0, 65537, 0]])
    np.testing.assert_array_equal(left[0], [[20, 20], [16, 15], [20, 20]])
    assert (left[1:] == 20).all()


def test_arrays_that_do_not_fit():
    with pytest.raises(ValueError, match="do not fit"):
        sum_in_bins(*LISTS, BINS, VALUES, np.zeros((2, 3)), np.zeros((3, 3, 2)))
    with pytest.raises(ValueError, match="end before"):
        sum_in_bins(LISTS[0] + 1, *LISTS[1:], BINS, VALUES, np.zeros((3, 3)), np.zeros((3, 3, 2)))
