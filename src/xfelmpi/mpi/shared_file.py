"""One file that all ranks write, piece by piece."""

import numpy as np
from mpi4py import MPI

from xfelmpi.core.errors import OutputError
from xfelmpi.mpi.collectives import CHUNK


class MpiFile:
    """One file written by all ranks at byte offsets, through MPI-IO.

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
        try:
            self._file = MPI.File.Open(comm, path, MPI.MODE_WRONLY | MPI.MODE_CREATE)
        except MPI.Exception as error:
            raise OutputError(f"{path}: cannot be opened ({error})") from None

    def write_at(self, offset: int, data: np.ndarray) -> None:
        """Write the rank's own contiguous piece, which may be empty; each rank by itself.

        Raises
        ------
        OutputError
            If it is not written, e.g. because the disk is full.
        """
        piece = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        status = MPI.Status()
        written = 0
        while written < piece.size:
            part = piece[written : written + CHUNK]
            try:
                # not together: then one rank may write for others, and only that one learns of a
                # failure
                self._file.Write_at(int(offset) + written, part, status)
                # Open MPI raises nothing when a write fails, it only counts fewer bytes
                done = max(status.Get_count(MPI.BYTE), 0)
            except MPI.Exception:
                done = 0
            written += done
            if done != part.size:
                raise OutputError(
                    f"{self._path}: {written:,} of {piece.size:,} bytes written at "
                    f"{int(offset):,}; is the disk full?"
                )

    def close(self) -> None:
        """Close the file; collective."""
        self._file.Close()
