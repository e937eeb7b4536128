"""How far all ranks are, without anybody waiting."""

from time import monotonic, sleep

import numpy as np

_TAG = 4711


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
            self._pending.append((self._comm.Isend(message, 0, _TAG), message))
            self._sent += 1
        else:
            self._drain()
            self._show(self._state.sum(axis=0))

    def _drain(self) -> None:
        if self._comm.size == 1:
            return
        from mpi4py import MPI

        status = MPI.Status()
        while self._comm.Iprobe(MPI.ANY_SOURCE, _TAG, status):
            self._comm.Recv(self._state[status.source], status.source, _TAG)
            self._received += 1

    def finish(self) -> None:
        """Wait until all ranks are done, showing their progress meanwhile."""
        if self._comm.size == 1:
            return
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
