"""``det/rRRRR_mask.h5``: good pixels per memory cell, by one rank."""

from pathlib import Path

import numpy as np

from xfelmpi.core.errors import OutputError
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.pixel_bits import unpack
from xfelmpi.io.output_file import serial_file
from xfelmpi.io.parallel_hdf5 import LIBVER
from xfelmpi.io.partial_file import begin_partial


def write_mask(
    path: Path, attributes: dict, cells: np.ndarray, good: np.ndarray, detector: Detector
) -> None:
    """Write a mask; the file is complete, but under its temporary name afterwards.

    Parameters
    ----------
    path : Path
        Final name.
    attributes : dict
        Root attributes.
    cells : ndarray, int (cell,)
    good : ndarray, uint8 (module, cell, byte)
        Bits of the good pixels.
    detector : Detector

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
            dataset = file.create_dataset(
                "entry_1/good_pixels",
                (len(cells), *detector.frame_shape),
                bool,
                chunks=(1, 1, *detector.module_shape),
                compression="gzip",
                compression_opts=1,
            )
            for i in range(len(cells)):
                for module in range(detector.n_modules):
                    pixels = unpack(good[module, i]).reshape(detector.module_shape)
                    dataset[i, module] = pixels.astype(bool)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error})") from None
