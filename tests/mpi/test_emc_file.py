"""The EMC file, byte by byte."""

import numpy as np
import pytest
from readers import FRAME_PIXELS

from xfelmpi.core.errors import OutputError
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.io.partial_file import begin_partial
from xfelmpi.output.emc import EmcWriter

pytestmark = pytest.mark.mpi


def make_frames(n, seed=1):
    """Return n frames: some empty, some with pixels that are bad (count 0)."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(n):
        pixel = np.sort(rng.choice(1048576, [50, 0, 7, 1][i % 4], replace=False)).astype(np.uint32)
        frames.append((pixel, rng.choice([0, 1, 1, 2, 65535], pixel.size).astype(np.uint16)))
    return frames


def sparse(frames):
    return SparseFrames.join(
        [SparseFrames(np.array([0, len(p)]), p, c) for p, c in frames] or [SparseFrames.empty()]
    )


def right_bytes(frames):
    ones = [p[c == 1] for p, c in frames]
    multi = [p[c > 1] for p, c in frames]
    count = [c[c > 1] for p, c in frames]
    numbers = [[len(frames), 1048576, 0], np.zeros(253), [len(p) for p in ones],
               [len(p) for p in multi], *ones, *multi, *count]  # fmt: skip
    return np.concatenate(numbers).astype("<i4").tobytes()


@pytest.mark.parametrize("counts", [(5, 0, 9, 1, 0), (0, 0, 4), (1,), (0, 3, 3, 3, 3)])
@pytest.mark.parametrize("block", [1, 4])
def test_bytes(comm, shared_path, counts, block):
    """Ranks without hits, hits without photons, another number of blocks on every rank."""
    path = shared_path / "r0050.emc"
    if comm.rank == 0:
        begin_partial(path).write_bytes(b"\xff" * 100_000)
    comm.Barrier()
    counts = [*[*counts, *[0] * comm.size][: comm.size - 1], 2]
    frames = make_frames(sum(counts))
    mine = frames[sum(counts[: comm.rank]) : sum(counts[: comm.rank + 1])]
    ones = np.array([(c == 1).sum() for _, c in mine], np.int64)
    multi = np.array([(c > 1).sum() for _, c in mine], np.int64)
    writer = EmcWriter(comm, path, ones, multi, FRAME_PIXELS)
    for i in range(-(-max(counts) // block)):
        writer.write(sparse(mine[i * block : (i + 1) * block]))
    writer.close()
    comm.Barrier()
    assert begin_partial(path).read_bytes() == right_bytes(frames)
    assert not path.exists()


def test_more_hits_than_can_be_counted(comm, shared_path):
    many = np.broadcast_to(np.int64(0), 2**31 if comm.rank == comm.size - 1 else 0)
    try:
        EmcWriter(comm, shared_path / "r0050.emc", many, many, FRAME_PIXELS)
    except OutputError as error:
        message = str(error)
    else:
        message = "nothing"
    comm.Barrier()
    assert "2147483648 hits" in message
    assert list(shared_path.iterdir()) == []
