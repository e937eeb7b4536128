"""Strings of HDF5 files, whatever their type says."""

from typing import Any

import h5py
import numpy as np

from xfelmpi.run.train_index import shape_of


def first_text(dataset: h5py.Dataset) -> str:
    """Return the string of a scalar dataset, or the first of an array; see `text`."""
    shape = shape_of(dataset)
    return "" if 0 in shape else text(dataset[(0,) * len(shape)])


def text(value: Any) -> str:
    """Return an HDF5 string, scalar or first of an array, without spaces around it.

    Whatever its type says, it is UTF-8, or else Latin-1.
    """
    first: Any = np.ravel(value)[0] if np.size(value) else ""
    if isinstance(first, bytes):
        try:
            first = first.decode("utf-8")
        except UnicodeDecodeError:
            first = first.decode("latin-1")
    return str(first).strip()
