"""Ways to damage one file of a good run, and what must be left of the run then.

Runs are copied by hard links; only the file to be damaged is a copy of its own.
"""

import os
import shutil
import struct
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
from changes import overwrite
from mockrun import MockRun
from runnames import file_name

PER_FRAME = ("trainId", "pulseId", "cellId", "modules", "pulse_energy", "wavelength")
NOWHERE = 1 << 45
"""An address, or a length, beyond the end of any file."""


@dataclass
class DamagedRun:
    """A run to be damaged.

    Parameters
    ----------
    good : MockRun
    folder : Path
        Of the run's detector files, e.g. ``proc/r0050``.
    """

    good: MockRun
    folder: Path

    def path(self, module: int, sequence: int = 0) -> Path:
        """Return the file of a module, which is safe to damage."""
        kind = "RAW" if self.good.options.kind == "raw" else "CORR"
        return self.own(self.folder / file_name(module, sequence, kind=kind))

    def own(self, path: Path) -> Path:
        """Turn a hard link into a copy of its own."""
        copy = path.with_suffix(".copy")
        shutil.copy(path, copy)
        copy.replace(path)
        return path

    @contextmanager
    def opened(self, module: int, sequence: int = 0):
        """Give the INDEX of trains, that of the images, and the images of a file to edit."""
        with h5py.File(self.path(module, sequence), "r+") as file:
            device = self.good.options.device
            (name,) = (f"{device}/CORR/{c}" for c in file[f"INDEX/{device}/CORR"])
            yield file["INDEX"], file[f"INDEX/{name}/image"], file[f"INSTRUMENT/{name}/image"]

    def chunk(self, path: Path, row: int):
        """Return where a frame's chunk lies, as h5py tells it."""
        with h5py.File(path) as file:
            return self._data(file).id.get_chunk_info_by_coord((row, 0, 0))

    def patch(self, path: Path, offset: int, data: bytes) -> None:
        """Overwrite bytes of a file."""
        overwrite(path, offset, data)

    def chunk_entry(self, path: Path, row: int) -> int:
        """Return where the index of the chunks has the entry of a frame: size, mask, start, at."""
        info = self.chunk(path, row)
        # first element in every dimension, and 0 for that within an element
        entry = struct.pack("<II5Q", info.size, 0, row, 0, 0, 0, info.byte_offset)
        raw = path.read_bytes()
        assert raw.count(entry) == 1
        return raw.index(entry)

    def rewrite_chunk(self, path: Path, row: int, stored: bytes) -> None:
        """Store other bytes for a frame, as a correct chunk."""
        with h5py.File(path, "r+") as file:
            self._data(file).id.write_direct_chunk((row, 0, 0), stored)

    def _data(self, file: h5py.File) -> h5py.Dataset:
        (module,) = file[f"INSTRUMENT/{self.good.options.device}/CORR"].values()
        return module["image/data"]


def linked_run(good: MockRun, folder: Path) -> DamagedRun:
    """Return a copy of a run of hard links, constants and geometry included."""
    shutil.copytree(good.options.prefix, folder, copy_function=os.link)
    part = "raw" if good.options.kind == "raw" else "proc"
    return DamagedRun(good, folder / part / "r0050")


def replace_dataset(group, name: str, values) -> None:
    """Put other values in the place of a dataset."""
    del group[name]
    group[name] = values


def left_over(good: MockRun, lost=(), excluded=()) -> MockRun:
    """Return the answer for a damaged run.

    Parameters
    ----------
    good : MockRun
    lost : iterable of (train position, cell or None, module)
        Module-frames that cannot be used; None: all cells.
    excluded : iterable of int
        Positions of trains that are not in the run any more.
    """
    left = replace(good, truth={name: values.copy() for name, values in good.truth.items()})
    trains = np.unique(good.truth["trainId"])
    for train, cell, module in lost:
        for row in np.flatnonzero(good.truth["trainId"] == trains[train]):
            if cell in (None, good.truth["cellId"][row]):
                left.lose(int(row), module)
    rows = np.flatnonzero(~np.isin(good.truth["trainId"], trains[list(excluded)]))
    for name in PER_FRAME:
        left.truth[name] = left.truth[name][rows]
    new_row = np.full(len(good), -1)
    new_row[rows] = np.arange(len(rows))
    left.truth["frames"] = new_row[left.truth["frames"]]
    return left


def deflated(n_bytes: int) -> bytes:
    """Return a correct deflate stream of so many bytes."""
    return zlib.compress(bytes(n_bytes))


def cut(path: Path, size: int) -> None:
    """Cut a file off after some bytes, or before its last -size."""
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)


def without(mock: MockRun, **columns) -> MockRun:
    """Return a run whose truth has other columns."""
    return replace(mock, truth={**mock.truth, **columns})
