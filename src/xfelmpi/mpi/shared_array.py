"""Arrays that the ranks of a node hold once."""

import gc
import math
import os
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from xfelmpi.core.errors import InputError
from xfelmpi.core.log import log, size_text
from xfelmpi.mpi.collectives import CHUNK, allreduce_bor, allreduce_min
from xfelmpi.mpi.consensus import agree
from xfelmpi.mpi.library import alone, several_ranks

_FOLDER_VARIABLE = "OMPI_MCA_osc_sm_backing_store"
_FOLDER = "/dev/shm"

_OWN_USE = 4 << 20
"""Bytes per rank that the MPI library itself may take of the shared memory (Open MPI 4: vader)."""

PRIVATE_BYTES = 64 << 20
"""What a rank may hold of its own, without being asked, where shared memory has no room."""


@dataclass(frozen=True)
class _Held:
    # an array that was made; the window is None in memory of this rank's own. Every view of the
    # array refers to the object `array`, which therefore lives as long as the last of them
    array: weakref.ref
    n_bytes: int
    window: Any = None
    node: Any = None
    """Ranks that share it, if there is a window."""

    def free(self) -> None:
        """Give the memory back; collective over the ranks that share it."""
        if self.window is not None:
            self.window.Free()
            self.node.Free()


class _Room:
    """The shared memory of this node, and what was promised of it.

    A file in memory gets its pages when they are first written, so that what is free says nothing
    of arrays that are still to be filled.
    """

    def __init__(self):
        self.free_at_first: int | None = None
        self.held: list[_Held] = []

    @property
    def promised(self) -> int:
        """Bytes of arrays that ranks of this node share."""
        return sum(held.n_bytes for held in self.held if held.node and held.node.size > 1)

    @property
    def private(self) -> int:
        """Bytes of arrays that this rank holds alone, because shared memory has no room."""
        return sum(held.n_bytes for held in self.held if held.window is None)

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
        dtype = np.dtype(dtype)
        n_bytes = math.prod(shape) * dtype.itemsize
        if comm.size == 1:
            self._node = comm
            flat = np.zeros(n_bytes, np.uint8)
            if several_ranks():
                # of `holders`: there is no room to share it
                _room.held.append(_Held(weakref.ref(flat), n_bytes))
        else:
            self._node, self._window, flat = _shared_bytes(comm, n_bytes)
            _room.held.append(_Held(weakref.ref(flat), n_bytes, self._window, self._node))
        self.array = flat.view(dtype).reshape(shape)

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


def _shared_bytes(comm, n_bytes: int):
    """Return the ranks of the node, the window and the uint8 array that they share; collective."""
    from mpi4py import MPI

    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    try:
        window = MPI.Win.Allocate_shared(n_bytes if node.rank == 0 else 0, 1, comm=node)
    except MPI.Exception as error:
        raise InputError(
            f"{size_text(n_bytes)} of shared memory cannot be had for the ranks of a node: {error}"
        ) from None
    buffer, _ = window.Shared_query(0)
    return node, window, np.frombuffer(buffer, np.uint8, n_bytes)


def free_unused(comm) -> int:
    """Free the arrays to which no rank refers any more; collective. Returns their bytes.

    MPI frees a window only if it is told to, and all ranks together. A job that reads masks and
    calibration constants more than once (``--follow``, ``patch``) calls this in between.

    Parameters
    ----------
    comm : Intracomm
        All ranks: those that hold arrays together.
    """
    if comm.size == 1:
        return 0
    # what refers to itself in a circle
    gc.collect()
    # a list of the same arrays in the same order on every rank
    used = np.array([held.array() is not None for held in _room.held], np.uint8)
    kept, freed = [], 0
    for held, is_used in zip(_room.held, allreduce_bor(comm, used), strict=True):
        if is_used:
            kept.append(held)
        else:
            held.free()
            freed += held.n_bytes
    _room.held = kept
    return freed


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
