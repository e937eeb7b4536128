"""The communicator of a program that was not started in parallel: one rank, and no MPI library."""

from dataclasses import dataclass


@dataclass(frozen=True)
class OneProcess:
    """A communicator of one rank, with the calls that take Python objects.

    What arrays need is in `xfelmpi.mpi.collectives`, which asks no library if there is one rank.
    """

    rank: int = 0
    size: int = 1

    def bcast(self, value=None, root: int = 0):
        """Return the value."""
        return value

    def gather(self, value, root: int = 0) -> list:
        """Return the value as the only one."""
        return [value]

    def allgather(self, value) -> list:
        """Return the value as the only one."""
        return [value]

    def Barrier(self) -> None:  # noqa: N802, as MPI has it
        """Return at once."""
