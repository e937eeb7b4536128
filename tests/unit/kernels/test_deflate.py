"""Sparse frames made into zlib streams, which zlib must inflate to the dense frame."""

import zlib

import numpy as np
import pytest

from xfelmpi._kernels._deflate import compress_sparse

PIXELS = 16 * 512 * 128


def shuffled(pixel, count, planes, n_pixels) -> bytes:
    """Return the dense frame as the shuffle filter has it."""
    dense = np.zeros(n_pixels, np.uint16)
    dense[pixel] = count
    return b"".join((dense >> 8 * i & 255).astype(np.uint8).tobytes() for i in range(planes))


def assert_inflates(pixel, count, planes, n_pixels) -> bytes:
    pixel, count = np.asarray(pixel, np.uint32), np.asarray(count, np.uint16)
    packed = compress_sparse(pixel, count, planes, n_pixels)
    # zlib checks the Adler-32, and unused_data shows a stream that ends too early
    inflater = zlib.decompressobj()
    assert inflater.decompress(packed) == shuffled(pixel, count, planes, n_pixels)
    assert inflater.eof
    assert not inflater.unused_data
    return packed


@pytest.mark.slow
@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("most", [1, 3, 255, 65535])
@pytest.mark.parametrize("entries", [0, 1, 300, 20_000, 400_000, PIXELS])
def test_frames_of_a_detector(entries, most, planes):
    rng = np.random.default_rng(entries + most)
    pixel = np.sort(rng.choice(PIXELS, entries, replace=False))
    # 0 marks a bad pixel
    count = rng.integers(0, min(most, 256**planes - 1) + 1, entries)
    assert_inflates(pixel, count, planes, PIXELS)


@pytest.mark.parametrize("gap", [*range(8), *range(256, 266), 514, 515, 516, 517, 518, 519, 520])
def test_runs_of_every_length(gap):
    n = 40 * (gap + 1)
    # also before the first and behind the last photon
    for first in (0, gap):
        assert_inflates(np.arange(first, n, gap + 1), np.full(40, 7), 1, n)


def test_codes_longer_than_deflate_allows():
    # Fibonacci numbers make the deepest code: without a limit it would be 22 bits deep
    times = [1, 1]
    while len(times) < 23:
        times.append(times[-1] + times[-2])
    count = np.repeat(np.arange(1, 24), times)
    np.random.default_rng(3).shuffle(count)
    assert_inflates(np.arange(len(count)), count, 1, len(count))


def test_many_small_frames():
    rng = np.random.default_rng(7)
    for _ in range(500):
        n_pixels, planes = int(rng.integers(1, 3000)), int(rng.integers(1, 3))
        entries = int(rng.integers(0, n_pixels + 1))
        pixel = np.sort(rng.choice(n_pixels, entries, replace=False))
        count = rng.geometric(rng.uniform(0.01, 1), entries).clip(0, 256**planes - 1)
        assert_inflates(pixel, count, planes, n_pixels)


def test_smaller_than_zlib_makes_it():
    rng = np.random.default_rng(2)
    pixel = np.sort(rng.choice(PIXELS, 20_000, replace=False))
    count = rng.integers(1, 3, len(pixel))
    packed = assert_inflates(pixel, count, 1, PIXELS)
    assert len(packed) < 0.8 * len(zlib.compress(shuffled(pixel, count, 1, PIXELS), 1))
