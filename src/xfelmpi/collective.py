"""Everything the ranks do together. Every rank enters every call, empty-handed or not.

Buffers only, no pickled arrays; counts and offsets are int64. Helpers take the communicator, and
nothing here creates one as a side effect of an import.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep

import mpi4py
import numpy as np
from mpi4py import MPI

from xfelmpi.errors import OutputError, PeerError, explained

CHUNK = 1 << 28
"""Elements at most in one MPI call: counts of MPI-3 are 32-bit."""

LONGEST_SLEEP = 0.01
"""Seconds between two looks of a rank that waits for others."""

_PROGRESS_TAG = 4711


def alone():
    """Return the communicator of this process alone."""
    return MPI.COMM_SELF


def agree(comm, error: Exception | None) -> None:
    """Fail together: raise on every rank if any rank failed.

    Raises
    ------
    Exception
        The own error on a rank that has one; elsewhere `PeerError` with the message and the exit
        status of the first failing rank. ``agreed`` is True on it: all ranks raise, so that the
        job can end in order; ``told_elsewhere`` is True where another rank shows the message.
    """
    wait_for_all(comm)
    # one number, because this is called often and nearly always finds nothing
    first = min_all(comm, comm.size if error is None else comm.rank)
    if first == comm.size:
        return
    told = (str(error), getattr(error, "exit_status", 1)) if comm.rank == first else None
    message, status = comm.bcast(told, root=first)
    if error is None:
        error = PeerError(f"rank {first}: {message}")
        error.exit_status = status
    error.agreed = True
    error.told_elsewhere = comm.rank != first
    raise error


def wait_for_all(comm) -> None:
    """Return when every rank is here, and leave the core to others meanwhile.

    Inside a collective call a waiting rank asks for messages all the time, which takes the core
    from ranks with work if there are more ranks than cores. Here it sleeps a tenth of the time
    that it has waited already.
    """
    barrier = comm.Ibarrier()
    start = monotonic()
    while not barrier.Test():
        sleep(min((monotonic() - start) / 10, LONGEST_SLEEP))


@contextmanager
def together(comm):
    """Run a block of purely local work; at its end all ranks fail if one did.

    The block must not contain a collective call: a rank that failed before it would leave the
    others waiting inside.
    """
    error = None
    try:
        yield
    except Exception as caught:
        error = explained(caught)
    agree(comm, error)


def on_root(comm, work):
    """Return ``work()`` of rank 0 on rank 0, None elsewhere; its error is raised on all ranks."""
    result = None
    with together(comm):
        if comm.rank == 0:
            result = work()
    return result


def from_root(comm, work):
    """Return ``work()`` of rank 0 on all ranks; small, and its error is raised on all."""
    return comm.bcast(on_root(comm, work))


def sum_to_root(comm, array: np.ndarray) -> np.ndarray | None:
    """Sum an array over the ranks, element by element, onto rank 0 (None elsewhere).

    Unsigned integers of 64 bits travel as 32 bits if that is enough for any sum.
    """
    if array.dtype == np.uint64:
        most = max_all(comm, min(int(array.max(initial=0)), 1 << 32))
        if most * comm.size < 1 << 32:
            total = sum_to_root(comm, array.astype(np.uint32))
            return total.astype(np.uint64) if comm.rank == 0 else None
    array = np.ascontiguousarray(array)
    total = np.empty_like(array) if comm.rank == 0 else None
    flat = array.reshape(-1)
    flat_total = total.reshape(-1) if total is not None else None
    for a in range(0, flat.size, CHUNK):
        part = flat_total[a : a + CHUNK] if flat_total is not None else None
        comm.Reduce(flat[a : a + CHUNK], part, op=MPI.SUM, root=0)
    return total


def sum_all(comm, array: np.ndarray) -> np.ndarray:
    """Sum a small array over the ranks, element by element, onto every rank."""
    array = np.ascontiguousarray(array)
    total = np.empty_like(array)
    comm.Allreduce(array, total, op=MPI.SUM)
    return total


def or_all(comm, array: np.ndarray) -> np.ndarray:
    """Join the bits of a small integer array over the ranks, element by element, on every rank."""
    joined = np.empty_like(array)
    comm.Allreduce(array, joined, op=MPI.BOR)
    return joined


def max_all(comm, value: int) -> int:
    """Return the largest value of all ranks."""
    return _all_to_one(comm, value, MPI.MAX)


def min_all(comm, value: int) -> int:
    """Return the smallest value of all ranks."""
    return _all_to_one(comm, value, MPI.MIN)


def _all_to_one(comm, value: int, op: MPI.Op) -> int:
    # a buffer: MPI4Py's reduction of Python objects is a tree of pickled messages
    result = np.array([value], np.int64)
    comm.Allreduce(MPI.IN_PLACE, result, op=op)
    return int(result[0])


def before_and_total(comm, value: int) -> tuple[int, int]:
    """Return the sum of `value` over the ranks before this one, and over all ranks."""
    values = np.empty(comm.size, np.int64)
    comm.Allgather(np.array([value], np.int64), values)
    return int(values[: comm.rank].sum()), int(values.sum())


def concat_all(comm, array: np.ndarray) -> np.ndarray:
    """Return the arrays of all ranks, joined in rank order along the first axis, on every rank."""
    array = np.ascontiguousarray(array)
    counts = np.empty(comm.size, np.int64)
    comm.Allgather(np.array([array.size], np.int64), counts)
    joined = np.empty(
        (int(counts.sum()) // max(int(np.prod(array.shape[1:])), 1), *array.shape[1:]), array.dtype
    )
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    kind = MPI._typedict[array.dtype.char]
    comm.Allgatherv([array, array.size, kind], [joined, counts, starts, kind])
    return joined


def scatter_rows(comm, array: np.ndarray | None, bounds: np.ndarray) -> np.ndarray:
    """Give rank r the rows ``bounds[r]:bounds[r + 1]`` of the array that rank 0 holds."""
    about = comm.bcast((array.dtype.str, array.shape[1:]) if comm.rank == 0 else None)
    dtype, inner = np.dtype(about[0]), about[1]
    width = int(np.prod(inner)) * dtype.itemsize
    mine = np.empty((int(bounds[comm.rank + 1] - bounds[comm.rank]), *inner), dtype)
    if comm.rank:
        _receive(comm, mine.reshape(-1).view(np.uint8))
        return mine
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for rank in range(1, comm.size):
        _send(comm, flat[bounds[rank] * width : bounds[rank + 1] * width], rank)
    mine.reshape(-1).view(np.uint8)[:] = flat[bounds[0] * width : bounds[1] * width]
    return mine


def _send(comm, data: np.ndarray, to: int) -> None:
    for a in range(0, data.size, CHUNK):
        comm.Send(data[a : a + CHUNK], dest=to)


def _receive(comm, data: np.ndarray) -> None:
    for a in range(0, data.size, CHUNK):
        comm.Recv(data[a : a + CHUNK], source=0)


def exchange(comm, words: np.ndarray, number: np.ndarray, per_pair: int) -> Iterator[np.ndarray]:
    """Send words to their ranks and yield those for this one, some at a time; collective.

    Parameters
    ----------
    comm : Intracomm
    words : ndarray, uint64 (word,)
        Those for rank 0 first, then those for rank 1, and so on.
    number : ndarray, int64 (rank,)
        How many are for each.
    per_pair : int
        Words at most that go from one rank to another at a time.
    """
    starts = np.cumsum(number) - number
    for done in range(0, max_all(comm, number.max()), per_pair):
        send = np.clip(number - done, 0, per_pair)
        receive = np.empty_like(send)
        comm.Alltoall(send, receive)
        received = np.empty(int(receive.sum()), np.uint64)
        comm.Alltoallv(
            [words, send, starts + np.minimum(done, number), MPI.UINT64_T],
            [received, receive, np.cumsum(receive) - receive, MPI.UINT64_T],
        )
        yield received


def gather_objects(comm, items: list) -> list:
    """Return the small Python objects of all ranks, in rank order, on rank 0 (empty elsewhere)."""
    parts = comm.gather(items, root=0)
    return [item for part in parts for item in part] if comm.rank == 0 else []


class NodeShared:
    """An array that the ranks of one node hold once, in shared memory.

    Parameters
    ----------
    comm : Intracomm
        All ranks.
    shape, dtype
        Of the array, the same on every rank.

    Attributes
    ----------
    array : ndarray
        The shared array. The ranks of a node fill it together, then all call `ready`.
    """

    def __init__(self, comm, shape: tuple[int, ...], dtype):
        self._node = comm.Split_type(MPI.COMM_TYPE_SHARED)
        dtype = np.dtype(dtype)
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        own = n_bytes if self._node.rank == 0 else 0
        self._window = MPI.Win.Allocate_shared(own, 1, comm=self._node)
        buffer, _ = self._window.Shared_query(0)
        self.array = np.frombuffer(buffer, np.uint8, n_bytes).view(dtype).reshape(shape)

    @property
    def node_rank(self) -> int:
        """Number of this rank on its node."""
        return self._node.rank

    @property
    def node_size(self) -> int:
        """Ranks on this node."""
        return self._node.size

    def ready(self) -> np.ndarray:
        """Wait until the array is filled, and return it."""
        self._window.Fence()
        return self.array


class SharedBytes:
    """One file written by all ranks at byte offsets, through MPI-IO.

    Parameters
    ----------
    comm : Intracomm
    path : str
        If it is there, its content stays.

    Raises
    ------
    OutputError
        If it cannot be opened.
    """

    def __init__(self, comm, path: str):
        self._path = path
        try:
            self._file = MPI.File.Open(comm, path, MPI.MODE_WRONLY | MPI.MODE_CREATE)
        except MPI.Exception as error:
            raise OutputError(f"{path}: cannot be opened ({error})") from None

    def write_at(self, offset: int, data: np.ndarray) -> None:
        """Write the rank's own contiguous piece, which may be empty; each rank by itself.

        Raises
        ------
        OutputError
            If it is not written, e.g. because the disk is full.
        """
        piece = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        status = MPI.Status()
        written = 0
        while written < piece.size:
            part = piece[written : written + CHUNK]
            try:
                # not together: then one rank may write for others, and only that one learns of a
                # failure
                self._file.Write_at(int(offset) + written, part, status)
                # Open MPI raises nothing when a write fails, it only counts fewer bytes
                done = max(status.Get_count(MPI.BYTE), 0)
            except MPI.Exception:
                done = 0
            written += done
            if done != part.size:
                raise OutputError(
                    f"{self._path}: {written:,} of {piece.size:,} bytes written at "
                    f"{int(offset):,}; is the disk full?"
                )

    def close(self) -> None:
        """Close the file; collective."""
        self._file.Close()


class ProgressBoard:
    """Rank 0 learns now and then how far the others are; nobody waits for anybody.

    Parameters
    ----------
    comm : Intracomm
        All ranks.
    show : callable
        Called on rank 0 with the sums over all ranks, int64 (value,).
    n_values : int
        How many numbers every rank reports.
    interval : float
        Seconds between two messages of a rank.
    """

    def __init__(self, comm, show, n_values: int = 2, interval: float = 0.5):
        self._comm = comm
        self._show = show
        self._interval = interval
        self._state = np.zeros((comm.size if comm.rank == 0 else 1, n_values), np.int64)
        self._pending = []
        self._received = 0
        self._sent = 0
        self._last = monotonic()

    @property
    def total(self) -> np.ndarray:
        """What was last heard of all ranks, int64 (value,), on rank 0."""
        return self._state.sum(axis=0)

    def update(self, *values: int) -> None:
        """Report this rank's numbers so far."""
        self._state[0] = values
        now = monotonic()
        if now - self._last < self._interval:
            return
        self._last = now
        if self._comm.rank:
            message = self._state[0].copy()
            self._pending = [(r, m) for r, m in self._pending if not r.Test()]
            self._pending.append((self._comm.Isend(message, 0, _PROGRESS_TAG), message))
            self._sent += 1
        else:
            self._drain()
            self._show(self._state.sum(axis=0))

    def _drain(self) -> None:
        status = MPI.Status()
        while self._comm.Iprobe(MPI.ANY_SOURCE, _PROGRESS_TAG, status):
            self._comm.Recv(self._state[status.source], status.source, _PROGRESS_TAG)
            self._received += 1

    def finish(self) -> None:
        """Wait until all ranks are done, showing their progress meanwhile."""
        request = self._comm.Ibarrier()
        pause = 0.001
        while not request.Test():
            if self._comm.rank == 0:
                self._drain()
                if monotonic() - self._last >= self._interval:
                    self._last = monotonic()
                    self._show(self._state.sum(axis=0))
            # an oversubscribed node needs the core for the ranks that still work
            sleep(pause)
            pause = min(pause * 1.5, 0.05)
        expected = sum(self._comm.allgather(self._sent))
        while self._comm.rank == 0 and self._received < expected:
            self._drain()
        for message_request, _ in self._pending:
            message_request.Wait()


def library_versions() -> dict[str, str]:
    """Return the MPI library's name and mpi4py's version, for the log and provenance."""
    return {
        "mpi4py_version": mpi4py.__version__,
        "mpi": MPI.Get_library_version().split("\n")[0].split(",")[0].strip("\0 "),
        "mpi_io": os.environ.get("OMPI_MCA_io", "default"),  # noqa: SIM112, Open MPI's spelling
    }


def share_from_root(comm, array: np.ndarray | None, shape: tuple[int, ...], dtype) -> np.ndarray:
    """Give every node one copy of an array that rank 0 holds, in shared memory; collective."""
    shared = NodeShared(comm, shape, dtype)
    leaders = comm.Split(0 if shared.node_rank == 0 else MPI.UNDEFINED, comm.rank)
    if leaders != MPI.COMM_NULL:
        flat = shared.array.reshape(-1)
        if leaders.rank == 0:
            flat[:] = np.ascontiguousarray(array, dtype).reshape(-1)
        for a in range(0, flat.size, CHUNK):
            leaders.Bcast(flat[a : a + CHUNK], root=0)
        leaders.Free()
    return shared.ready()
