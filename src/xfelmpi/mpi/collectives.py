"""Numbers and arrays that go from rank to rank: sums, joins, shares.

Buffers only, no pickled arrays; counts and offsets are int64. One rank needs no MPI library.
"""

from collections.abc import Iterator

import numpy as np

CHUNK = 1 << 28
"""Elements at most in one MPI call: counts of MPI-3 are 32-bit."""


def reduce_sum(comm, array: np.ndarray) -> np.ndarray | None:
    """Sum an array over the ranks, element by element, onto rank 0 (None elsewhere).

    Unsigned integers of 64 bits travel as 32 bits if that is enough for any sum.
    """
    if comm.size == 1:
        return np.array(array, order="C")
    from mpi4py import MPI

    if array.dtype == np.uint64:
        most = allreduce_max(comm, min(int(array.max(initial=0)), 1 << 32))
        if most * comm.size < 1 << 32:
            total = reduce_sum(comm, array.astype(np.uint32))
            return total.astype(np.uint64) if comm.rank == 0 else None
    array = np.ascontiguousarray(array)
    total = np.empty_like(array) if comm.rank == 0 else None
    flat = array.reshape(-1)
    flat_total = total.reshape(-1) if total is not None else None
    for a in range(0, flat.size, CHUNK):
        part = flat_total[a : a + CHUNK] if flat_total is not None else None
        comm.Reduce(flat[a : a + CHUNK], part, op=MPI.SUM, root=0)
    return total


def allreduce_sum(comm, array: np.ndarray) -> np.ndarray:
    """Sum a small array over the ranks, element by element, onto every rank."""
    return _reduced(comm, array, "SUM")


def allreduce_bor(comm, array: np.ndarray) -> np.ndarray:
    """Join the bits of a small integer array over the ranks, element by element, on every rank."""
    return _reduced(comm, array, "BOR")


def allreduce_max(comm, value: int) -> int:
    """Return the largest value of all ranks."""
    # a buffer: MPI4Py's reduction of Python objects is a tree of pickled messages
    return int(_reduced(comm, np.array([value], np.int64), "MAX")[0])


def allreduce_min(comm, value: int) -> int:
    """Return the smallest value of all ranks."""
    return int(_reduced(comm, np.array([value], np.int64), "MIN")[0])


def _reduced(comm, array: np.ndarray, operation: str) -> np.ndarray:
    """Return the arrays of all ranks, joined by one of MPI's operations, on every rank."""
    array = np.ascontiguousarray(array)
    if comm.size == 1:
        return array.copy()
    from mpi4py import MPI

    result = np.empty_like(array)
    comm.Allreduce(array, result, op=getattr(MPI, operation))
    return result


def exscan_and_total(comm, value: int) -> tuple[int, int]:
    """Return the sum of `value` over the ranks before this one, and over all ranks."""
    if comm.size == 1:
        return 0, int(value)
    values = np.empty(comm.size, np.int64)
    comm.Allgather(np.array([value], np.int64), values)
    return int(values[: comm.rank].sum()), int(values.sum())


def allgather_concat(comm, array: np.ndarray) -> np.ndarray:
    """Return the arrays of all ranks, joined in rank order along the first axis, on every rank.

    A single rank gets its own array, not a copy.
    """
    array = np.ascontiguousarray(array)
    if comm.size == 1:
        return array
    from mpi4py import MPI

    rows = np.empty(comm.size, np.int64)
    comm.Allgather(np.array([len(array)], np.int64), rows)
    joined = np.empty((int(rows.sum()), *array.shape[1:]), array.dtype)
    counts = rows * int(np.prod(array.shape[1:]))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    kind = MPI._typedict[array.dtype.char]
    comm.Allgatherv([array, array.size, kind], [joined, counts, starts, kind])
    return joined


def scatter_rows(comm, array: np.ndarray | None, bounds: np.ndarray) -> np.ndarray:
    """Give rank r the rows ``bounds[r]:bounds[r + 1]`` of the array that rank 0 holds.

    A single rank gets a part of that array, not a copy, if that is in one piece.
    """
    if comm.size == 1:
        return np.ascontiguousarray(array[bounds[0] : bounds[1]])
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


def alltoallv_chunks(
    comm, words: np.ndarray, number: np.ndarray, per_pair: int
) -> Iterator[np.ndarray]:
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
    if comm.size == 1:
        for done in range(0, int(number[0]), per_pair):
            yield words[done : min(done + per_pair, int(number[0]))].copy()
        return
    from mpi4py import MPI

    starts = np.cumsum(number) - number
    for done in range(0, allreduce_max(comm, number.max()), per_pair):
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
