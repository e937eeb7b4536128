"""The sparse binary file, byte for byte as the reference packs dense frames."""

import tracemalloc

import numpy as np
import pytest
import reference
from mpi4py import MPI
from readers import FRAME_PIXELS, FRAME_SHAPE

from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.io.partial_file import begin_partial
from xfelmpi.output.emc import EmcFile, EmcWriter


def make_frames(rng, numbers_of_entries):
    """Return dense photon images and the same frames as sparse lists, bad pixels (0) in them."""
    dense, parts = [], []
    for n in numbers_of_entries:
        pixel = np.sort(rng.choice(FRAME_PIXELS, n, replace=False)).astype(np.uint32)
        count = rng.choice([0, 1, 1, 2, 7, 65535], n).astype(np.uint16)
        image = np.zeros(FRAME_PIXELS, np.int64)
        image[pixel] = count
        dense.append(image.reshape(FRAME_SHAPE))
        parts.append(SparseFrames(np.array([0, n], np.int64), pixel, count))
    return dense, SparseFrames.join(parts)


@pytest.mark.parametrize(
    "blocks",
    [[5], [1, 4], [2, 0, 3], [1, 1, 1, 1, 1]],
    ids=lambda blocks: "-".join(map(str, blocks)),
)
def test_bytes(tmp_path, blocks):
    dense, sparse = make_frames(np.random.default_rng(1), [40, 0, 1, 300, 7])
    ones = np.array([int((image == 1).sum()) for image in dense])
    multi = np.array([int((image > 1).sum()) for image in dense])
    path = tmp_path / "r0001.emc"
    begin_partial(path).write_bytes(b"leftover of a killed job" * 1000)
    writer = EmcWriter(MPI.COMM_SELF, path, ones, multi, FRAME_PIXELS)
    first = 0
    for n in blocks:
        writer.write(sparse.take(np.arange(first, first + n)))
        first += n
    writer.close()
    assert not path.exists(), "named only when all files are complete"
    assert begin_partial(path).read_bytes() == reference.emc_bytes(dense)


def test_reference_by_hand():
    """Two frames: one with pixel 0 = 1 and the last = 3, one with module 1, ss 2, fs 3 = 1."""
    frames = np.zeros((2, *FRAME_SHAPE), int)
    frames[0, 0, 0, 0], frames[0, 15, 511, 127], frames[1, 1, 2, 3] = 1, 3, 1
    found = np.frombuffer(reference.emc_bytes(frames), "<i4")
    assert found[:3].tolist() == [2, FRAME_PIXELS, 0]
    assert not found[3:256].any()
    place = (512 + 2) * 128 + 3
    assert found[256:].tolist() == [1, 1, 1, 0, 0, place, FRAME_PIXELS - 1, 3]


def test_header_that_asks_for_memory(tmp_path):
    path = tmp_path / "r0001.emc"
    path.write_bytes(np.array([2**31 - 1, FRAME_PIXELS], "<i4").tobytes().ljust(1024, b"\0"))
    tracemalloc.start()
    with pytest.raises(ValueError, match="no photon counts for 2147483647 frames"):
        EmcFile(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
