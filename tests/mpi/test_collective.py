"""What the ranks do together, with ranks that have nothing to contribute."""

import re
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from xfelmpi import mpi
from xfelmpi.calibration.geometry import load_geometry, share_geometry
from xfelmpi.core.errors import InputError, OutputError, PeerError
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.mpi import collectives

pytestmark = pytest.mark.mpi


def raised(work):
    """Return what a call raises, None if nothing."""
    try:
        work()
    except Exception as error:
        return error
    return None


def test_agree_on_success(comm):
    mpi.agree(comm, None)
    with mpi.fail_together(comm):
        pass
    assert mpi.run_on_root(comm, lambda: 7) == (7 if comm.rank == 0 else None)


def check_failed_together(comm, error, failing, status):
    first = min(failing)
    assert error is not None
    assert error.agreed
    assert error.told_elsewhere == (comm.rank != first)
    if comm.rank in failing:
        assert str(error) == f"disk {comm.rank}"
    else:
        assert isinstance(error, PeerError)
        assert str(error) == f"rank {first}: disk {first}"
        assert error.exit_status == status


@pytest.mark.parametrize(("kind", "status"), [(InputError, 2), (ZeroDivisionError, 1)])
@pytest.mark.parametrize("which", ["first", "last", "odd", "all"])
def test_error_of_some_is_raised_on_all(comm, kind, status, which):
    ranks = range(comm.size)
    failing = {"first": [0], "last": ranks[-1:], "odd": ranks[1::2] or [0], "all": ranks}[which]

    def work():
        with mpi.fail_together(comm):
            if comm.rank in failing:
                raise kind(f"disk {comm.rank}")

    error = raised(work)
    comm.Barrier()
    check_failed_together(comm, error, failing, status)
    if comm.rank in failing:
        assert isinstance(error, kind)


def test_error_of_root_is_raised_on_all(comm):
    def fail():
        raise InputError("disk 0")

    error = raised(lambda: mpi.run_on_root(comm, fail))
    comm.Barrier()
    check_failed_together(comm, error, [0], 2)


def test_sum_to_root_in_pieces(comm, monkeypatch):
    monkeypatch.setattr(collectives, "CHUNK", 7)
    for dtype, shape in (
        (np.uint64, (4, 6)),
        (np.uint32, (15,)),
        (np.int64, (0, 3)),
        (float, (7,)),
    ):
        values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        total = mpi.reduce_sum(comm, values * (comm.rank + 1))
        if comm.rank == 0:
            assert total.dtype == dtype
            np.testing.assert_array_equal(total, values * (comm.size * (comm.size + 1) // 2))
        else:
            assert total is None


def test_sums_that_need_more_than_32_bits(comm):
    for value in (2**32 // comm.size - 1, 2**32 // comm.size + 1, 2**32 - 1, 2**32, 2**40):
        total = mpi.reduce_sum(comm, np.array([0, value], np.uint64))
        if comm.rank == 0:
            assert total.dtype == np.uint64
            assert total.tolist() == [0, value * comm.size]
    # the largest value may be on one rank alone
    alone = 2**33 if comm.rank == comm.size - 1 else 1
    total = mpi.reduce_sum(comm, np.array([alone], np.uint64))
    if comm.rank == 0:
        assert total.tolist() == [2**33 + comm.size - 1]


def test_sum_of_an_array_in_another_order(comm):
    values = np.asfortranarray(np.arange(12, dtype=np.uint64).reshape(3, 4))
    total = mpi.reduce_sum(comm, values)
    if comm.rank == 0:
        np.testing.assert_array_equal(total, values * np.uint64(comm.size))


def test_sum_and_max_on_all(comm):
    total = mpi.allreduce_sum(comm, np.array([[1, comm.rank]], np.int64))
    np.testing.assert_array_equal(total, [[comm.size, sum(range(comm.size))]])
    assert mpi.allreduce_max(comm, -comm.rank - 1) == -1
    assert mpi.allreduce_max(comm, np.True_ if comm.rank == comm.size - 1 else np.False_) == 1


def test_before_and_total(comm):
    values = [3 * (rank % 2) * 2**33 for rank in range(comm.size)]
    before, total = mpi.exscan_and_total(comm, np.uint64(values[comm.rank]))
    assert before == sum(values[: comm.rank])
    assert total == sum(values)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64, np.int64, np.float32, float, bool])
@pytest.mark.parametrize("inner", [(), (3,), (2, 2)])
def test_concat_all(comm, dtype, inner):
    # ranks 0, 2, 4 have nothing
    parts = [np.full((r % 2 * r, *inner), r, dtype) for r in range(comm.size)]
    joined = mpi.allgather_concat(comm, parts[comm.rank])
    assert joined.dtype == dtype
    np.testing.assert_array_equal(joined, np.concatenate(parts))


def test_concat_nothing(comm):
    assert mpi.allgather_concat(comm, np.empty((0, 4), np.float32)).shape == (0, 4)
    assert mpi.allgather_concat(comm, np.empty((2, 0))).shape == (2 * comm.size, 0)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint64, float])
@pytest.mark.parametrize("inner", [(), (16,)])
@pytest.mark.parametrize("chunk", [None, 24])
def test_scatter_rows(comm, monkeypatch, dtype, inner, chunk):
    if chunk:
        monkeypatch.setattr(collectives, "CHUNK", chunk)
    # the first, and every third rank, get nothing
    counts = [0 if rank % 3 == 0 else 5 + rank for rank in range(comm.size)]
    bounds = np.concatenate([[0], np.cumsum(counts)])
    rows = np.arange(bounds[-1] * int(np.prod(inner))).reshape(-1, *inner).astype(dtype)
    mine = mpi.scatter_rows(comm, rows if comm.rank == 0 else None, bounds)
    assert mine.dtype == dtype
    np.testing.assert_array_equal(mine, rows[bounds[comm.rank] : bounds[comm.rank + 1]])


def test_gather_objects(comm):
    found = mpi.gather_objects(comm, [("a", comm.rank)] * (comm.rank % 2))
    assert found == ([("a", r) for r in range(comm.size) if r % 2] if comm.rank == 0 else [])


def test_node_shared_array_is_one(comm):
    private = mpi.private_bytes()
    shared = mpi.NodeSharedArray(comm, (3, 5), np.float64)
    rows = slice(shared.node_rank, 3, shared.node_size)
    shared.array[rows] = np.arange(15).reshape(3, 5)[rows]
    array = shared.ready()
    np.testing.assert_array_equal(array, np.arange(15).reshape(3, 5))
    comm.Barrier()
    if comm.rank == comm.size - 1:
        array[1, 1] = -1
    comm.Barrier()
    assert array[1, 1] == -1, "every rank has an array of its own"
    assert sorted(comm.allgather(shared.node_rank)) == list(range(comm.size))
    assert shared.node_size == comm.size
    assert mpi.private_bytes() == private, "a single rank has one copy, like all others"


SIZE = 4 << 20


def mapped():
    """Return the bytes of shared memory that this process can see."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0] for line in lines if "/dev/shm/" in line]
    return sum(int(b, 16) - int(a, 16) for a, b in (span.split("-") for span in spans))


def test_geometry_of_rank_0_is_shared(comm):
    one = load_geometry(None, AGIPD_1M, 0.7)[0] if comm.rank == 0 else None
    everywhere = share_geometry(comm, one)
    own, _ = load_geometry(None, AGIPD_1M, 0.7)
    for name in ("xyz", "corner_position", "basis_vectors", "tile_corners", "tile_basis"):
        np.testing.assert_array_equal(getattr(everywhere, name), getattr(own, name), name)
    assert (everywhere.distance, everywhere.detector) == (own.distance, own.detector)
    nodes = comm.Split_type(MPI.COMM_TYPE_SHARED)
    if nodes.size > 1:
        # what one rank of the node changes all of them see
        nodes.Barrier()
        if nodes.rank == 0:
            everywhere.xyz[0, 0, 0, 0] = 7
        nodes.Barrier()
        assert everywhere.xyz[0, 0, 0, 0] == 7
    nodes.Free()


def test_shared_arrays_are_freed_when_nothing_refers_to_them(comm):
    def part_of_a_new_one():
        shared = mpi.NodeSharedArray(comm, (SIZE // 8,), np.float64)
        shared.array[shared.node_rank :: shared.node_size] = 3
        return shared.ready()[5:].reshape(-1, 1)

    mpi.free_unused(comm)
    before, seen, freed = mapped(), [], []
    for _ in range(4):
        part = part_of_a_new_one()
        freed.append(mpi.free_unused(comm))
        values = set(part[:, 0].tolist())
        # one rank still refers to it
        part = part if comm.rank == comm.size - 1 else None
        freed.append(mpi.free_unused(comm))
        del part
        freed.append(mpi.free_unused(comm))
        seen.append(mapped() - before)
    comm.Barrier()
    assert values == {3}
    assert freed == [0, 0, SIZE if comm.size > 1 else 0] * 4
    assert max(seen) < SIZE, "shared memory grows from round to round"


def test_shared_bytes(comm, shared_path):
    path = shared_path / "bytes"
    if comm.rank == 0:
        path.write_bytes(b"x" * 10)
    comm.Barrier()
    lengths = [(rank + 1) % 3 * 50 for rank in range(comm.size)]
    file = mpi.MpiFile(comm, str(path))
    mine = np.full(lengths[comm.rank], comm.rank, "<i4")
    file.write_at(4 * sum(lengths[: comm.rank]), mine)
    file.write_at(
        4 * sum(lengths) if comm.rank == 0 else 0, np.full(int(comm.rank == 0), 99, "<i4")
    )
    file.close()
    comm.Barrier()
    found = np.frombuffer(path.read_bytes(), "<i4")
    np.testing.assert_array_equal(found, [*np.repeat(range(comm.size), lengths), 99])


def test_shared_bytes_where_nobody_can_write(comm):
    error = raised(lambda: mpi.MpiFile(comm, "/proc/nothing/here"))
    comm.Barrier()
    assert isinstance(error, OutputError)
    assert re.search("/proc/nothing/here: (MPI-IO cannot open it|cannot be opened)", str(error))


@pytest.mark.parametrize("interval", [0.0, 0.002, 10.0])
def test_progress_of_all_ranks_arrives(comm, interval):
    """No message is left for whoever talks next, and nobody waits for a slower rank."""
    for turn in range(2):
        shown = []
        board = mpi.ProgressBoard(comm, lambda v, s=shown: s.append(v.copy()), 2, interval)
        steps = 200 * (comm.rank % 3)  # ranks 0 and 3 have nothing to do
        for step in range(steps):
            board.update(step + 1, 10 * comm.rank + turn)
        board.finish()
        left = comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG)
        comm.Barrier()
        assert not left
        if comm.rank:
            assert not shown
        elif interval == 0.0:
            last = [[200 * (r % 3), (10 * r + turn) * (r % 3 > 0)] for r in range(comm.size)]
            np.testing.assert_array_equal(board._state, last)
            done = [int(values[0]) for values in shown]
            assert done == sorted(done)


def test_library_versions(comm):
    versions = mpi.library_versions(comm)
    assert versions["mpi"]
    assert all(isinstance(text, str) for text in versions.values())


def test_a_write_that_fails_is_noticed(comm, shared_path):
    """A file that may not grow, as on a full disk; the last rank cannot write its piece."""
    file = mpi.MpiFile(comm, str(shared_path / "full.bin"))
    last = comm.size - 1
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if comm.rank == last:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096 * last, limits[1]))
    error = raised(lambda: file.write_at(4096 * comm.rank, np.ones(4096, np.uint8)))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, ignored)
    comm.Barrier()
    file.close()
    if comm.rank == last:
        assert isinstance(error, OutputError)
        assert str(error).endswith(
            f"0 of 4,096 bytes written at {4096 * last:,}; is the disk full?"
        )
    else:
        assert error is None
