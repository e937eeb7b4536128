"""The events file as a pandas DataFrame whose columns are read when they are used."""

import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from xfelmpi.core.event_table import EventColumns
from xfelmpi.core.vocabulary import column_name
from xfelmpi.io.checked import checked_array
from xfelmpi.io.dataset_storage import has_offsets
from xfelmpi.io.input_file import finished_file


class EventTable(pd.DataFrame):
    """A DataFrame whose columns also have their names in CXI: ``hit_score`` is ``hitscore``."""

    @property
    def _constructor(self):
        return EventTable

    def __getitem__(self, key):
        """Return columns or rows, as any DataFrame."""
        return super().__getitem__(self._there(key))

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            there = self._there(name)
            if there == name:
                raise
            return self[there]

    def _there(self, key):
        if isinstance(key, str):
            return column_name(key, self.columns) or key
        if isinstance(key, list) and all(isinstance(name, str) for name in key):
            return [self._there(name) for name in key]
        return key


def read_table(path: Path) -> EventTable:
    """Return the columns of an events file; what is not used is not read.

    Columns stored without compression become views of the file (`numpy.memmap`): a table of 10⁶
    frames opens in milliseconds.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    with finished_file(path, "an events file") as file:
        n = len(checked_array(file, "trainId", np.uint64, (None,)))
        columns = dict(_columns(file, n))
        attributes = {
            "run": int(file.attrs["run"]),
            "units": {
                name: str(file[name].attrs["units"])
                for name in columns
                if name in file and "units" in file[name].attrs
            },
            "settings": json.loads(file.attrs["configuration"]),
        }
    found = EventTable(pd.DataFrame(columns, copy=False))
    found.index.name = "vds_index"
    found.attrs.update(attributes)
    return found


def _columns(file: h5py.File, n: int) -> Iterator[tuple[str, np.ndarray]]:
    # those that every run has first, in their usual order
    usual = [name for name in EventColumns.__dataclass_fields__ if name in file]
    for name in dict.fromkeys([*usual, *file]):
        item = file[name]
        if not isinstance(item, h5py.Dataset) or item.shape[:1] != (n,) or item.dtype.names:
            continue
        if item.ndim == 1:
            yield name, _lazy(file, item)
        elif item.ndim == 2:
            values = checked_array(file, name, item.dtype, item.shape)
            # medium and low gain
            for column in range(item.shape[1]):
                yield f"{name}_{column + 1}", values[:, column]


def _lazy(file: h5py.File, dataset: h5py.Dataset) -> np.ndarray:
    offset = dataset.id.get_offset() if has_offsets(dataset) else None
    inside = offset is not None and offset + dataset.nbytes <= Path(file.filename).stat().st_size
    if dataset.chunks is not None or not inside or not dataset.nbytes:
        return checked_array(file, dataset.name, dataset.dtype, dataset.shape)
    return np.memmap(file.filename, dataset.dtype, "r", offset, dataset.shape)
