"""Arrays that the ranks of a node hold once."""

import numpy as np
from mpi4py import MPI

from xfelmpi.mpi.collectives import CHUNK


class NodeSharedArray:
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


def share_from_root(comm, array: np.ndarray | None, shape: tuple[int, ...], dtype) -> np.ndarray:
    """Give every node one copy of an array that rank 0 holds, in shared memory; collective."""
    shared = NodeSharedArray(comm, shape, dtype)
    leaders = comm.Split(0 if shared.node_rank == 0 else MPI.UNDEFINED, comm.rank)
    if leaders != MPI.COMM_NULL:
        flat = shared.array.reshape(-1)
        if leaders.rank == 0:
            flat[:] = np.ascontiguousarray(array, dtype).reshape(-1)
        for a in range(0, flat.size, CHUNK):
            leaders.Bcast(flat[a : a + CHUNK], root=0)
        leaders.Free()
    return shared.ready()
