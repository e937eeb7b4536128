"""What the MPI library itself is asked for."""

import os
import sys

from xfelmpi.mpi.one_process import OneProcess


def in_use() -> bool:
    """Return whether this process uses MPI."""
    loaded = sys.modules.get("mpi4py.MPI")
    return loaded is not None and loaded.Is_initialized() and not loaded.Is_finalized()


def several_ranks() -> bool:
    """Return whether this process is one of several ranks."""
    return in_use() and sys.modules["mpi4py.MPI"].COMM_WORLD.size > 1


def alone():
    """Return the communicator of this process alone, of MPI if the process uses it."""
    return sys.modules["mpi4py.MPI"].COMM_SELF if in_use() else OneProcess()


def library_versions(comm) -> dict[str, str]:
    """Return the MPI library's name and mpi4py's version, for the log and provenance.

    They are ``none`` for a process that was not started in parallel: it uses neither.
    """
    if isinstance(comm, OneProcess):
        return {"mpi4py_version": "none", "mpi": "none", "mpi_io": "none"}
    import mpi4py
    from mpi4py import MPI

    return {
        "mpi4py_version": mpi4py.__version__,
        "mpi": MPI.Get_library_version().split("\n")[0].split(",")[0].strip("\0 "),
        "mpi_io": os.environ.get("OMPI_MCA_io", "default"),  # noqa: SIM112, Open MPI's spelling
    }
