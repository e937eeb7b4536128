"""``powder/rRRRR_powder.h5``: sums over all frames, hits and misses, by one rank."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from xfelmpi.core.errors import OutputError
from xfelmpi.io.output_file import serial_file
from xfelmpi.io.parallel_hdf5 import LIBVER, compressed_layout
from xfelmpi.io.partial_file import begin_partial
from xfelmpi.mpi import fail_together


def write_powder(
    comm,
    path: Path,
    attributes: dict,
    sums: dict[str, tuple],
    frame_shape: tuple[int, int, int],
    meanwhile: Callable[[], str] = str,
) -> str:
    """Write the powder file; collective, so that all ranks fail if it cannot be written.

    The last rank writes it alone, since packing the sums is all the work.

    Parameters
    ----------
    comm : Intracomm
    path : Path
        Final name; the file is complete, but under its temporary name afterwards.
    attributes : dict
        Root attributes.
    sums : dict
        For the suffixes "", "_hits", "_misses", and "_dark" if there are such frames, the photons,
        uint64 (module, pixel), and the good frames, uint32 (module, pixel); used on rank 0.
    frame_shape : (int, int, int)
        Modules, ss, fs; used on rank 0.
    meanwhile : callable
        What rank 0 does at the same time.

    Returns
    -------
    str
        On rank 0, what `meanwhile` returned; else nothing.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    sums = _to_last_rank(comm, sums, frame_shape)
    returned = ""
    with fail_together(comm):
        if comm.rank == 0:
            # if the job is stopped, rank 0 removes what is unfinished
            begin_partial(path)
        if comm.rank == comm.size - 1:
            _write(path, attributes, sums)
        if comm.rank == 0:
            returned = meanwhile()
    return returned


def _to_last_rank(comm, sums: dict[str, tuple], frame_shape) -> dict[str, tuple]:
    """Return the sums of rank 0 on the last rank, (module, ss, fs) each; collective."""
    suffixes, shape = comm.bcast((tuple(sums), frame_shape) if comm.rank == 0 else None)
    last, moved = comm.size - 1, {}
    for suffix in suffixes if comm.rank in (0, last) else ():
        pair = []
        for i, dtype in enumerate((np.uint64, np.uint32)):
            if comm.rank == 0:
                values = np.ascontiguousarray(sums[suffix][i], dtype).reshape(shape)
                if last:
                    comm.Send(values, dest=last)
            else:
                values = np.empty(shape, dtype)
                comm.Recv(values, source=0)
            pair.append(values)
        moved[suffix] = tuple(pair)
    return moved


def _write(path: Path, attributes: dict, sums: dict[str, tuple]) -> None:
    try:
        with serial_file(begin_partial(path), libver=LIBVER) as file:
            file.attrs.update(attributes)
            for suffix, (photons, good) in sums.items():
                _add(file, f"powder{suffix}", photons, "photons")
                _add(file, f"good_frames{suffix}", good, "frames")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error})") from None


def _add(file, name: str, values: np.ndarray, units: str) -> None:
    layout = compressed_layout(values.shape, values.dtype, 1)
    file.create_dataset(name, data=values, **layout)
    file[name].attrs["units"] = units
