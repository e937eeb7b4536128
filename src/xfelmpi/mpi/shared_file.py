"""One file that all ranks write, piece by piece."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from xfelmpi.core.errors import OutputError
from xfelmpi.mpi.collectives import CHUNK
from xfelmpi.mpi.one_process import OneProcess


@contextmanager
def name_for_mpi(path: Path) -> Iterator[str]:
    """Give a name by which MPI-IO opens a file of a folder, whatever the folder is called.

    Open MPI 4.1.4 aborts on names of more than 240 bytes, ROMIO takes what stands before a colon
    for a kind of file system, and a folder may be replaced by a link before all ranks have opened
    the file.

    Parameters
    ----------
    path : Path

    Raises
    ------
    OSError
        If the folder cannot be opened.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = Path(f"/proc/self/fd/{folder}")
        yield str((short if short.is_dir() else path.parent) / path.name)
    finally:
        os.close(folder)


class MpiFile:
    """One file written by all ranks at byte offsets: through MPI-IO if MPI is used.

    Parameters
    ----------
    comm : Intracomm
    path : str
        If it is there, its content stays.

    Raises
    ------
    OutputError
        If it cannot be opened.
    """

    def __init__(self, comm, path: str):
        self._path = path
        self._file = (_OwnFile if isinstance(comm, OneProcess) else _SharedFile)(comm, path)

    def write_at(self, offset: int, data: np.ndarray) -> None:
        """Write the rank's own contiguous piece, which may be empty; each rank by itself.

        Raises
        ------
        OutputError
            If it is not written, e.g. because the disk is full.
        """
        piece = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        written = 0
        while written < piece.size:
            part = piece[written : written + CHUNK]
            done = self._file.write(int(offset) + written, part)
            written += done
            if done != part.size:
                raise OutputError(
                    f"{self._path}: {written:,} of {piece.size:,} bytes written at "
                    f"{int(offset):,}; is the disk full?"
                )

    def close(self) -> None:
        """Close the file; collective."""
        self._file.close()


class _SharedFile:
    """A file of several ranks."""

    def __init__(self, comm, path: str):
        from mpi4py import MPI

        self._mpi = MPI
        try:
            with name_for_mpi(Path(path)) as name:
                self._file = MPI.File.Open(comm, name, MPI.MODE_WRONLY | MPI.MODE_CREATE)
        except (MPI.Exception, OSError) as error:
            raise OutputError(
                f"{path}: MPI-IO cannot open it ({error}); expected a folder, and a /dev/shm, that "
                "can be written"
            ) from None

    def write(self, offset: int, part: np.ndarray) -> int:
        """Write bytes and return how many are written."""
        status = self._mpi.Status()
        try:
            # not together: then one rank may write for others, and only that one learns of a
            # failure
            self._file.Write_at(offset, part, status)
            # Open MPI raises nothing when a write fails, it only counts fewer bytes
            return max(status.Get_count(self._mpi.BYTE), 0)
        except self._mpi.Exception:
            return 0

    def close(self) -> None:
        self._file.Close()


_NEW_OR_OWN = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class _OwnFile:
    """A file of one process."""

    def __init__(self, comm, path: str):
        try:
            self._fd = os.open(path, _NEW_OR_OWN, 0o666)
        except OSError as error:
            raise OutputError(f"{path}: cannot be opened ({error.strerror})") from None

    def write(self, offset: int, part: np.ndarray) -> int:
        """Write bytes and return how many are written."""
        done = 0
        try:
            # one call may write less than it is given
            while done < part.size and (n := os.pwrite(self._fd, part[done:], offset + done)):
                done += n
        except OSError:
            return done
        return done

    def close(self) -> None:
        os.close(self._fd)
