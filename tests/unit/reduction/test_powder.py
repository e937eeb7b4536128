"""Sums over frames, against sums over dense images."""

import numpy as np
import pytest
from reference import MODULES, PIXELS

from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.detectors.pixel_bits import pack
from xfelmpi.reduction.powder import PowderSum, mask_good_frames


def random_frames(rng, n):
    """Return sparse frames with counts 0 to 3, and the same as dense photons and bad pixels."""
    photons, bad = np.zeros((2, n, MODULES * PIXELS), np.int64)
    parts = []
    for i in range(n):
        pixel = np.sort(rng.choice(MODULES * PIXELS, rng.integers(0, 300), replace=False))
        pixel[:1] = 0
        count = rng.integers(0, 4, len(pixel))
        photons[i, pixel], bad[i, pixel] = count, count == 0
        indptr = np.array([0, len(pixel)], np.int64)
        parts.append(SparseFrames(indptr, pixel.astype(np.uint32), count.astype(np.uint16)))
    shape = (n, MODULES, PIXELS)
    return SparseFrames.join(parts), photons.reshape(shape), bad.reshape(shape)


@pytest.mark.parametrize("n", [0, 1, 4])
def test_add_sparse(n):
    rng = np.random.default_rng(n)
    sparse, photons, bad = random_frames(rng, n)
    modules = rng.integers(0, 1 << 16, n).astype(np.uint16)
    rows = rng.integers(0, 3, n).astype(np.int32)
    powder = PowderSum.zeros(3, AGIPD_1M)
    powder.add_sparse(sparse, modules, rows)
    assert np.array_equal(powder.photons, photons.sum(axis=0))
    assert np.array_equal(powder.invalid, bad.sum(axis=0))
    for m in range(MODULES):
        expected = [int(((modules >> m & 1 == 1) & (rows == row)).sum()) for row in range(3)]
        assert powder.frames[m].tolist() == expected


def test_same_pixel_many_times():
    """All frames of a block light one pixel: every one of them counts."""
    n = 300
    pixel = np.full(2 * n, 12_345, np.uint32)
    pixel[1::2] = 999_999
    count = np.full(2 * n, 65535, np.uint16)
    count[1::2] = 0
    powder = PowderSum.zeros(1, AGIPD_1M)
    sparse = SparseFrames(np.arange(0, 2 * n + 1, 2), pixel, count)
    powder.add_sparse(sparse, np.full(n, 0xFFFF, np.uint16), np.zeros(n, int))
    assert powder.photons.reshape(-1)[12_345] == n * 65535
    assert powder.invalid.reshape(-1)[999_999] == n
    assert powder.photons.sum() == n * 65535
    assert powder.invalid.sum() == n
    assert powder.frames.tolist() == [[n]] * MODULES


def test_parts_add_up_to_the_whole():
    """The sum of any parts, empty ones too, is that of all frames: MPI only adds."""
    rng = np.random.default_rng(7)
    sparse, _, _ = random_frames(rng, 6)
    modules, rows = rng.integers(0, 1 << 16, 6).astype(np.uint16), rng.integers(0, 2, 6)
    whole = PowderSum.zeros(2, AGIPD_1M)
    whole.add_sparse(sparse, modules, rows)
    total = PowderSum.zeros(whole.frames.shape[1], AGIPD_1M)
    for part in ([], [0], [1, 2, 3, 4], [], [5]):
        part = np.array(part, int)
        own = PowderSum.zeros(whole.frames.shape[1], AGIPD_1M)
        own.add_sparse(sparse.take(part), modules[part], rows[part])
        for name in ("photons", "invalid", "frames"):
            getattr(total, name)[...] += getattr(own, name)
    for name, dtype in (("photons", "u8"), ("invalid", "u4"), ("frames", "i8")):
        assert np.array_equal(getattr(total, name), getattr(whole, name))
        assert (
            getattr(whole, name).dtype
            == getattr(PowderSum.zeros(whole.frames.shape[1], AGIPD_1M), name).dtype
            == dtype
        )


def test_add_frames_adds():
    powder = PowderSum.zeros(4, AGIPD_1M)
    powder.add_frames(2, np.array([3, 0, 3], np.int32))
    powder.add_frames(2, np.array([1], np.int32))
    powder.add_frames(9, np.array([], np.int32))
    assert powder.frames[2].tolist() == [1, 1, 0, 2]
    assert powder.frames.sum() == 4


def test_good_frames():
    """Every mask row as often as it was used."""
    rng = np.random.default_rng(8)
    good = rng.random((4, 512, 128)) < 0.6
    good[2, 100:300] = False
    good[3, 200:500] = True
    frames = np.array([3, 0, 100_000, 1])
    found = mask_good_frames(pack(good), frames)
    assert found.dtype == np.uint32
    expected = sum(
        int(n) * mask.reshape(-1).astype(int) for n, mask in zip(frames, good, strict=True)
    )
    assert np.array_equal(found, expected)
    assert not mask_good_frames(pack(good), np.zeros(4, int)).any()
