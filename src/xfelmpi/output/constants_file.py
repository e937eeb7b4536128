"""``Cheetah-AGIPDmm-calib.h5``: constants of raw data, a file per module, written cell by cell."""

from pathlib import Path

import h5py
import numpy as np

from xfelmpi.calibration.constants_file import STAGES, constants_file
from xfelmpi.calibration.dark_statistics import CellConstants
from xfelmpi.io.parallel_hdf5 import ParallelFile

_DATASETS = (
    # name in the file, field of CellConstants, dtype, unit
    ("AnalogOffset", "offset", np.float32, "ADU"),
    ("RelativeGain", "gain", np.float32, "1"),
    ("DigitalGainLevel", "level", np.int32, "ADU"),
    ("Badpixel", "bad", np.uint8, "1"),
    ("Noise", "noise", np.float32, "ADU"),
)


class ConstantsWriter:
    """Writes the constants of all modules; creating and closing are collective.

    Every cell of every module must be written by one of the ranks.

    Parameters
    ----------
    comm : Intracomm
    folder : Path
        Where the files go.
    modules : list of int
    shape : (int, int, int)
        Of the constants of a stage, (cell, ss, fs).
    attributes : dict
        Root attributes.
    """

    def __init__(self, comm, folder: Path, modules: list[int], shape: tuple, attributes: dict):
        self.paths = [constants_file(folder, m) for m in modules]
        self._files = {
            m: ParallelFile(comm, path, attributes)
            for m, path in zip(modules, self.paths, strict=True)
        }
        shape = (STAGES, *shape)
        self._datasets = {
            m: [file.create(name, shape, dtype, units=units) for name, _, dtype, units in _DATASETS]
            for m, file in self._files.items()
        }

    def write(self, module: int, cell: int, constants: CellConstants) -> None:
        """Write the constants of one module and cell; this rank alone."""
        for (_, field, dtype, _), dataset in zip(_DATASETS, self._datasets[module], strict=True):
            _write_cell(dataset, cell, getattr(constants, field).astype(dtype))

    def close(self) -> None:
        """Close all files, complete but still under their temporary names."""
        for file in self._files.values():
            file.close()


def _write_cell(dataset: h5py.Dataset, cell: int, values: np.ndarray) -> None:
    # plain contiguous data may be written by one rank alone
    dataset[:, cell] = values
