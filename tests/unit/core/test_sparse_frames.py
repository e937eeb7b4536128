"""Segments of lists, copied."""

import numpy as np
import pytest

from xfelmpi.core.sparse_frames import SparseFrames, gather


@pytest.mark.parametrize("longest", [3, 3000])
@pytest.mark.parametrize("shape", [(5,), (5, 16)])
def test_segments_short_and_long(longest, shape):
    """Whichever way they are copied: in their order, empty ones among them."""
    rng = np.random.default_rng(longest)
    pixel = rng.integers(0, 1 << 20, 4000).astype(np.uint32)
    count = rng.integers(0, 9, 4000).astype(np.uint16)
    start = rng.integers(0, 900, shape)
    length = rng.integers(0, longest + 1, shape)
    length[1] = 0
    found = gather(start, start + length, pixel, count)
    where = [np.arange(a, a + n) for a, n in zip(start.flat, length.flat, strict=True)]
    where = np.concatenate(where)
    np.testing.assert_array_equal(found.pixel, pixel[where])
    np.testing.assert_array_equal(found.count, count[where])
    assert (found.pixel.dtype, found.count.dtype) == (np.uint32, np.uint16)
    per_frame = length.reshape(5, -1).sum(axis=1)
    np.testing.assert_array_equal(np.diff(found.indptr), per_frame)
    assert found.indptr.dtype == np.int64


def test_no_segments():
    nothing = np.zeros(0, np.int64)
    found = gather(nothing, nothing, np.zeros(3, np.uint32), np.zeros(3, np.uint16))
    assert len(found) == 0
    assert found.indptr.tolist() == [0]


def test_pixels_with_one_photon_and_with_more():
    counts = np.array([1, 0, 2, 1, 1, 0, 7], np.uint16)
    frames = SparseFrames(np.array([0, 4, 4, 5, 7]), np.arange(7, dtype=np.uint32), counts)
    assert frames.frame_of_entry.tolist() == [0, 0, 0, 0, 2, 3, 3]
    ones, multi = frames.ones_and_multi()
    assert (ones.tolist(), multi.tolist()) == ([2, 0, 1, 0], [1, 0, 0, 1])
    assert [part.tolist() for part in SparseFrames.empty().ones_and_multi()] == [[], []]
