"""All outputs of a job get their names together, once all ranks have come so far."""

from collections.abc import Callable
from pathlib import Path

from xfelmpi import mpi
from xfelmpi.core import fault_injection
from xfelmpi.io.publish import publish


def publish_together(
    comm, written: list[Path], obsolete: Callable[[], list[Path]] = list, point: str = "publish"
) -> None:
    """Give complete files their names when all ranks are done with them; collective.

    Parameters
    ----------
    comm : Intracomm
    written : list of Path
        Final names, on rank 0.
    obsolete : callable
        Returns files of an earlier job that do not fit the new ones; they are removed. Called on
        rank 0.
    point : str
        Of fault injection.

    Raises
    ------
    OutputError
        On all ranks, if a file cannot get its name or be removed.
    """
    fault_injection.inject(comm, point)
    # no file gets its name before all ranks have come so far
    comm.Barrier()
    mpi.run_on_root(comm, lambda: publish(*written, obsolete=obsolete()))
