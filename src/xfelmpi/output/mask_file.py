"""``det/rRRRR_mask.h5``: good pixels per memory cell, by one rank."""

from pathlib import Path

import numpy as np

from xfelmpi.core.errors import OutputError
from xfelmpi.detectors.agipd import FRAME_SHAPE, MODULE_SHAPE, N_MODULES
from xfelmpi.detectors.pixel_bits import unpack
from xfelmpi.io.output_file import serial_file
from xfelmpi.io.parallel_hdf5 import LIBVER, begin_partial


def write_mask(path: Path, attributes: dict, cells: np.ndarray, bad: np.ndarray) -> None:
    """Write a mask; the file is complete, but under its temporary name afterwards.

    Parameters
    ----------
    path : Path
        Final name.
    attributes : dict
        Root attributes.
    cells : ndarray, int (cell,)
    bad : ndarray, uint8 (16, cell, 8192)
        Bits of the bad pixels.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    try:
        with serial_file(begin_partial(path), libver=LIBVER) as file:
            file.attrs.update(attributes)
            file["entry_1/cellIds"] = cells.astype(np.uint16)
            # readers take the cells of one module at a time
            good = file.create_dataset(
                "entry_1/good_pixels",
                (len(cells), *FRAME_SHAPE),
                bool,
                chunks=(1, 1, *MODULE_SHAPE),
                compression="gzip",
                compression_opts=1,
            )
            for i in range(len(cells)):
                for module in range(N_MODULES):
                    good[i, module] = unpack(~bad[module, i]).reshape(MODULE_SHAPE).astype(bool)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error})") from None
