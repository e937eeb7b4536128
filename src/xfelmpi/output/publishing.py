"""All outputs of a job get their names together, once all ranks have come so far."""

from collections.abc import Callable
from pathlib import Path

from xfelmpi import mpi
from xfelmpi.core import fault_injection, shutdown
from xfelmpi.core.errors import OutputError
from xfelmpi.io.parallel_hdf5 import publish


def publish_together(
    comm, written: list[Path], remove_old: Callable[[], None] = lambda: None, point: str = "publish"
) -> None:
    """Give complete files their names when all ranks are done with them; collective.

    Parameters
    ----------
    comm : Intracomm
    written : list of Path
        Final names, on rank 0.
    remove_old : callable
        Removes files of an earlier job that do not fit the new ones; called on rank 0.
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
    mpi.run_on_root(comm, lambda: _publish(written, remove_old))


def _publish(written: list[Path], remove_old: Callable[[], None]) -> None:
    try:
        with shutdown.publishing():
            publish(*written)
            remove_old()
    except OSError as error:
        raise OutputError(f"{error.filename}: cannot be written ({error.strerror})") from None


def remove_all(paths: list[Path]) -> None:
    """Remove files, as far as they are there."""
    for path in paths:
        path.unlink(missing_ok=True)
