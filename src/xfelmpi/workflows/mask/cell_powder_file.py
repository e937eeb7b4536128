"""``powder/rRRRR_powder_cells.h5``: photons per memory cell, written part by part."""

from pathlib import Path

import numpy as np

from xfelmpi._kernels._cells import ALL, HITS, MISSES
from xfelmpi.detectors.base import Detector
from xfelmpi.io.parallel_hdf5 import ROUND_BYTES, ParallelFile
from xfelmpi.workflows.mask.cell_sums import Part

_KINDS = {"": ("all", ALL), "_hits": ("hits", HITS), "_misses": ("misses", MISSES)}


class CellPowderWriter:
    """Writes sums per cell and pixel; opening and closing are collective.

    Parameters
    ----------
    comm : Intracomm
    path : Path
        Final name; the file is complete, but under its temporary name after `close`.
    attributes : dict
        Root attributes.
    cells : ndarray, int (cell,)
    detector : Detector
    split : bool
        Whether hits and misses are known.
    """

    def __init__(
        self, comm, path: Path, attributes: dict, cells, detector: Detector, *, split: bool
    ):
        self._comm = comm
        self._detector = detector
        self._file = ParallelFile(comm, path, attributes)
        self._file.store("cellIds", cells.astype(np.uint16))
        shape = (detector.n_modules, len(cells), *detector.module_shape)
        self._suffixes = list(_KINDS) if split else [""]
        self._datasets = {}
        for suffix in self._suffixes:
            # not packed: the ranks have some pixels of all cells, and write them alone
            dataset = self._file.create(f"powder_cells{suffix}", shape, np.uint32, units="photons")
            self._datasets[suffix] = dataset

    def write(self, part: Part, sums: np.ndarray) -> None:
        """Write the pixels of a part that this rank owns; this rank alone.

        Parameters
        ----------
        part : Part
        sums : ndarray, uint32 (plane, cell, place)
        """
        first, end = part.owned(self._comm.rank)
        n_pixels, n_fs = self._detector.module_pixels, self._detector.module_shape[1]
        per_row = sums.shape[1] * n_fs * 4
        step = max(1, ROUND_BYTES // per_row) * n_fs
        pixels = part.pixels(first, end)
        for module in np.unique(pixels // n_pixels):
            (own,) = np.nonzero(pixels // n_pixels == module)
            for a in range(own[0], own[-1] + 1, step):
                b = min(a + step, own[-1] + 1)
                ss = pixels[a] % n_pixels // n_fs
                rows = slice(ss, ss + (b - a) // n_fs)
                for suffix, dataset in self._datasets.items():
                    values = sums[_KINDS[suffix][1], :, a:b]
                    dataset[module, :, rows] = values.reshape(len(values), -1, n_fs)

    def close(self, modules_in_run: int, frames: dict[str, np.ndarray]) -> None:
        """Write what remains, and close.

        Parameters
        ----------
        modules_in_run : int
            Bit field; the others are 0.
        frames : dict of str to ndarray, int64 (module, cell)
            Frames of each module and cell: ``all``, ``hits``, ``misses``.
        """
        for suffix, dataset in self._datasets.items():
            for module in range(self._comm.rank, self._detector.n_modules, self._comm.size):
                if not modules_in_run >> module & 1:
                    for cell in range(dataset.shape[1]):
                        dataset[module, cell] = np.zeros(self._detector.module_shape, np.uint32)
            counts = frames[_KINDS[suffix][0]].astype(np.uint32)
            self._file.store(f"frames{suffix}", counts, units="frames")
        self._file.close()
