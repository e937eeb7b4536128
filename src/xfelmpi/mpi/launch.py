"""Whether the program was started in parallel, and the communicator of all its processes.

The MPI library is loaded only then. A single process needs neither MPI nor an HDF5 built for it.
"""

import os
from collections.abc import Mapping

from xfelmpi.core.errors import UsageError
from xfelmpi.core.text import one_line
from xfelmpi.mpi.library import in_use
from xfelmpi.mpi.one_process import OneProcess

SIZES = (
    *("OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE", "JSM_NAMESPACE_SIZE"),
    *("FLUX_JOB_SIZE", "SLURM_STEP_NUM_TASKS"),
)
"""Variables in which launchers tell the number of processes: mpirun of Open MPI, of MVAPICH, of
MPICH and Intel MPI (and srun with its plugin pmi2), jsrun, flux run, srun. The first one counts:
an mpirun inside a Slurm step starts processes of its own."""

RANKS = ("PMIX_RANK", "PMI_RANK", "PALS_RANKID", "ALPS_APP_PE")
"""Variables of launchers that tell a process its rank, and possibly not how many there are."""


def started_processes(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return how many processes the launcher has started; None if it does not tell.

    Parameters
    ----------
    environment : mapping of str to str

    Returns
    -------
    int or None
        1 also without any launcher.
    """
    for name in SIZES:
        # a batch script has the variables of its job, too, but no rank
        if name.startswith("SLURM_") and "SLURM_PROCID" not in environment:
            continue
        if environment.get(name, "").isdecimal():
            return int(environment[name])
    return None if any(name in environment for name in RANKS) else 1


def on_one_node(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the launcher tells that all processes are on this node: Open MPI's, or srun.

    Parameters
    ----------
    environment : mapping of str to str
    """
    if "OMPI_COMM_WORLD_SIZE" in environment:
        return environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == environment["OMPI_COMM_WORLD_SIZE"]
    return "SLURM_PROCID" in environment and environment.get("SLURM_STEP_NUM_NODES") == "1"


def all_ranks():
    """Return the communicator of all processes; MPI is loaded if there may be several.

    Raises
    ------
    UsageError
        If Slurm started processes that cannot communicate, if MPI cannot be loaded or is
        another one than the launcher's, or if HDF5 is not built for it. ``agreed`` is True on it
        if all ranks raise it.
    """
    n = _started_together()
    if n == 1 and not in_use():
        leave_mpi_alone()
        return OneProcess()
    # ranks that wait must not take the core from ranks that work
    os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
    if on_one_node() and "OMPI_MCA_mtl" not in os.environ:
        # Open MPI's "cm" sleeps 0.2 s to look for networks that one node does not need
        os.environ.setdefault("OMPI_MCA_pml", "^cm")
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UsageError(
            f"started with {n or 'several'} processes, but MPI cannot be loaded "
            f"({str(error).splitlines()[0]}); build mpi4py with the MPI of the launcher "
            "(bash jobs/setup.sh does), or start one process"
        ) from None
    comm = MPI.COMM_WORLD
    if comm.size == 1:
        if (n or 1) > 1:
            raise UsageError(
                f"{n} processes were started, but each is alone by its own MPI "
                f"({one_line(MPI.Get_library_version())[:40]}): mpirun is that of another "
                "MPI, and all would write the same files. Start with the one that belongs to it, "
                "e.g. mpirun.openmpi or mpirun.mpich"
            )
        return OneProcess()
    _check_hdf5(comm)
    return comm


def _started_together() -> int | None:
    """Return the number of processes, and refuse those of srun without MPI.

    Open MPI would abort on its own then, or start as many jobs of one rank, which write the same
    files.
    """
    n = started_processes()
    told = ("PMI_", "PMIX_", "OMPI_COMM_WORLD_")
    if (
        n is not None
        and n > 1
        and "SLURM_PROCID" in os.environ
        and os.environ.get("SLURM_STEP_NUM_TASKS") == str(n)
        and not any(name.startswith(told) for name in os.environ)
    ):
        raise UsageError(
            f"Slurm started {n} tasks without MPI: each would write the same files. "
            "Start with srun --mpi=pmix"
        )
    return n


def leave_mpi_alone() -> None:
    """Have a parallel h5py, which imports mpi4py, not start MPI for one process."""
    try:
        import mpi4py
    except ImportError:
        return
    mpi4py.rc.initialize = False


def _check_hdf5(comm) -> None:
    import h5py

    if h5py.get_config().mpi:
        return
    error = UsageError(
        f"{comm.size} ranks, but this h5py {h5py.version.version} is built without MPI, as wheels "
        "of PyPI are: files cannot be written together. Start one process (without mpirun), or "
        "install with bash jobs/setup.sh"
    )
    # every rank finds the same
    error.agreed = True
    error.told_elsewhere = comm.rank != 0
    raise error
