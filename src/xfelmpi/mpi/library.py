"""What the MPI library itself is asked for."""

import os

import mpi4py
from mpi4py import MPI


def alone():
    """Return the communicator of this process alone."""
    return MPI.COMM_SELF


def library_versions() -> dict[str, str]:
    """Return the MPI library's name and mpi4py's version, for the log and provenance."""
    return {
        "mpi4py_version": mpi4py.__version__,
        "mpi": MPI.Get_library_version().split("\n")[0].split(",")[0].strip("\0 "),
        "mpi_io": os.environ.get("OMPI_MCA_io", "default"),  # noqa: SIM112, Open MPI's spelling
    }
