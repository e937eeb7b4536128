"""Arrays that the ranks of a node hold once."""

import math
import os

import numpy as np

from xfelmpi.core.errors import InputError
from xfelmpi.core.log import log, size_text
from xfelmpi.mpi.collectives import CHUNK, allreduce_min
from xfelmpi.mpi.consensus import agree
from xfelmpi.mpi.library import alone

_FOLDER_VARIABLE = "OMPI_MCA_osc_sm_backing_store"
_FOLDER = "/dev/shm"

_OWN_USE = 4 << 20
"""Bytes per rank that the MPI library itself may take of the shared memory (Open MPI 4: vader)."""

PRIVATE_BYTES = 64 << 20
"""What a rank may hold of its own, without being asked, where shared memory has no room."""


class _Room:
    """The shared memory of this node, and what was promised of it.

    A file in memory gets its pages when they are first written, so that what is free says nothing
    of arrays that are still to be filled.
    """

    def __init__(self):
        self.free_at_first: int | None = None
        self.promised = 0
        self.private = 0

    @staticmethod
    def _free(n_ranks: int) -> int | None:
        # None: there is no such folder, and the MPI library goes elsewhere
        folder = os.environ.get(_FOLDER_VARIABLE, _FOLDER)
        try:
            about = os.statvfs(folder)
        except OSError:
            return None
        if not os.access(folder, os.W_OK):
            return 0
        return max(0, about.f_bavail * about.f_frsize - n_ranks * _OWN_USE)

    def left(self, n_ranks: int) -> int | None:
        """Return the bytes left for further arrays, None if unknown."""
        now = self._free(n_ranks)
        if now is None:
            return None
        if self.free_at_first is None:
            self.free_at_first = now
        # others may have taken some meanwhile
        return max(0, min(now, self.free_at_first - self.promised))


_room = _Room()


def private_limit(memory_per_rank: int) -> int:
    """Return the bytes that a rank may hold of its own: half of what it has beyond 256 MiB."""
    return max(0, memory_per_rank - (256 << 20)) // 2


def private_bytes() -> int:
    """Return the bytes of arrays that this rank holds alone, because shared memory has no room."""
    return _room.private


class NodeSharedArray:
    """An array that the ranks of one node hold once, in shared memory.

    Parameters
    ----------
    comm : Intracomm
        All ranks that hold it together, those of other nodes included.
    shape, dtype
        Of the array, the same on every rank.

    Attributes
    ----------
    array : ndarray
        The shared array. The ranks of a node fill it together, then all call `ready`.
    """

    def __init__(self, comm, shape: tuple[int, ...], dtype):
        self._window = None
        if comm.size == 1:
            self._node = comm
            self.array = np.zeros(shape, dtype)
            return
        from mpi4py import MPI

        self._node = comm.Split_type(MPI.COMM_TYPE_SHARED)
        dtype = np.dtype(dtype)
        n_bytes = math.prod(shape) * dtype.itemsize
        own = n_bytes if self._node.rank == 0 else 0
        try:
            self._window = MPI.Win.Allocate_shared(own, 1, comm=self._node)
        except MPI.Exception as error:
            raise InputError(
                f"{size_text(n_bytes)} of shared memory cannot be had for the ranks of a node: "
                f"{error}"
            ) from None
        buffer, _ = self._window.Shared_query(0)
        self.array = np.frombuffer(buffer, np.uint8, n_bytes).view(dtype).reshape(shape)
        if self._node.size > 1:
            _room.promised += n_bytes

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
        if self._window is not None:
            self._window.Fence()
        return self.array


def holders(comm, layouts, limit: int = PRIVATE_BYTES):
    """Return the communicator whose ranks can hold some arrays together; collective.

    Where the shared memory of a node has room, that is `comm`. Containers often have 64 MB only,
    and a process that writes beyond is killed by SIGBUS: then every rank holds a copy of its own,
    if that is not too large, and a warning says so.

    Parameters
    ----------
    comm : Intracomm
    layouts : iterable of (tuple of int, dtype)
        Shapes and dtypes of all arrays that are to be filled together.
    limit : int
        Bytes that a rank may hold of its own in all, the same on every rank; see `private_limit`.

    Raises
    ------
    InputError
        On all ranks, if neither is large enough: it names the bytes needed and free.
    """
    if comm.size == 1:
        return comm
    from mpi4py import MPI

    n_bytes = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in layouts)
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    # a rank that is alone on its node needs no shared memory
    left = _room.left(node.size) if node.size > 1 else None
    node.Free()
    unknown = np.iinfo(np.int64).max
    least = allreduce_min(comm, unknown if left is None else left)
    if n_bytes <= least:
        return comm
    where = os.environ.get(_FOLDER_VARIABLE, _FOLDER)
    told = (
        f"{where} has room for {least:,} bytes, and {n_bytes:,} are needed for arrays that the "
        "ranks of a node share"
    )
    advice = "give the container more (--shm-size), or start one rank per node"
    if _room.private + n_bytes > limit:
        error = InputError(
            f"{told}; a rank may hold {limit:,} of its own (--memory-per-rank); {advice}"
        )
        agree(comm, error if comm.rank == 0 else None)
    if comm.rank == 0:
        log.warning(f"{told}: every rank holds its own copy; {advice}")
    _room.private += n_bytes
    return alone()


def share_from_root(
    comm,
    array: np.ndarray | None,
    shape: tuple[int, ...],
    dtype,
    limit: int = PRIVATE_BYTES,
) -> np.ndarray:
    """Give every node one copy of an array that rank 0 holds, in shared memory; collective."""
    shared = NodeSharedArray(holders(comm, [(shape, dtype)], limit), shape, dtype)
    if comm.size == 1:
        shared.array[...] = array
        return shared.ready()
    from mpi4py import MPI

    leaders = comm.Split(0 if shared.node_rank == 0 else MPI.UNDEFINED, comm.rank)
    if leaders != MPI.COMM_NULL:
        flat = shared.array.reshape(-1)
        if leaders.rank == 0:
            flat[:] = np.ascontiguousarray(array, dtype).reshape(-1)
        for a in range(0, flat.size, CHUNK):
            leaders.Bcast(flat[a : a + CHUNK], root=0)
        leaders.Free()
    return shared.ready()
