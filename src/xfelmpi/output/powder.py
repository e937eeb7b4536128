"""``powder/rRRRR_powder.h5``: sums over all frames, hits and misses, by one rank."""

from pathlib import Path

import numpy as np

from xfelmpi.core.errors import OutputError
from xfelmpi.io.output_file import serial_file
from xfelmpi.io.parallel_hdf5 import LIBVER, compressed_layout
from xfelmpi.io.partial_file import begin_partial
from xfelmpi.mpi import run_on_root


def write_powder(
    comm, path: Path, attributes: dict, sums: dict[str, tuple], frame_shape: tuple[int, int, int]
) -> None:
    """Write the powder file; collective, so that all ranks fail if it cannot be written.

    Rank 0 writes it alone: it has the sums, and packing them is all the work.

    Parameters
    ----------
    comm : Intracomm
    path : Path
        Final name; the file is complete, but under its temporary name afterwards.
    attributes : dict
        Root attributes.
    sums : dict
        For the suffixes "", "_hits", "_misses", and "_dark" if there are such frames, the photons,
        uint64 (module, pixel), and the good frames, uint32 (module, pixel), on rank 0.
    frame_shape : (int, int, int)
        Modules, ss, fs.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    run_on_root(comm, lambda: _write(path, attributes, sums, frame_shape))


def _write(path: Path, attributes: dict, sums: dict[str, tuple], frame_shape) -> None:
    try:
        with serial_file(begin_partial(path), libver=LIBVER) as file:
            file.attrs.update(attributes)
            for suffix, (photons, good) in sums.items():
                _add(file, f"powder{suffix}", photons.reshape(frame_shape), "photons")
                _add(file, f"good_frames{suffix}", good.reshape(frame_shape), "frames")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error})") from None


def _add(file, name: str, values: np.ndarray, units: str) -> None:
    layout = compressed_layout(values.shape, values.dtype, 1)
    file.create_dataset(name, data=values, **layout)
    file[name].attrs["units"] = units
