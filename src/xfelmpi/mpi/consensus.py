"""Fail together, and what rank 0 does for all."""

from contextlib import contextmanager
from time import monotonic, sleep

from xfelmpi.core.errors import PeerError, as_user_error
from xfelmpi.mpi.collectives import allreduce_min

LONGEST_SLEEP = 0.01
"""Seconds between two looks of a rank that waits for others."""


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
    first = allreduce_min(comm, comm.size if error is None else comm.rank)
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
    if comm.size == 1:
        return
    barrier = comm.Ibarrier()
    start = monotonic()
    while not barrier.Test():
        sleep(min((monotonic() - start) / 10, LONGEST_SLEEP))


@contextmanager
def fail_together(comm):
    """Run a block of purely local work; at its end all ranks fail if one did.

    The block must not contain a collective call: a rank that failed before it would leave the
    others waiting inside.
    """
    error = None
    try:
        yield
    except Exception as caught:
        error = as_user_error(caught)
    agree(comm, error)


def run_on_root(comm, work):
    """Return ``work()`` of rank 0 on rank 0, None elsewhere; its error is raised on all ranks."""
    result = None
    with fail_together(comm):
        if comm.rank == 0:
            result = work()
    return result


def bcast_from_root(comm, work):
    """Return ``work()`` of rank 0 on all ranks; small, and its error is raised on all."""
    return comm.bcast(run_on_root(comm, work))
