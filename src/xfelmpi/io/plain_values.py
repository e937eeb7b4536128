"""Small datasets read with few calls of HDF5, where they are stored in the plain way.

An index needs a dozen columns of each of a thousand files. h5py's own objects take ten calls of
HDF5 to open one and to look at it; here the same questions are asked once. Whatever is not plain is
left to who reads with care, and says what is wrong: virtual or external data, chunks that were
never written, filters that HDF5 does not have, errors.
"""

import math

import h5py
import numpy as np
from h5py import h5d, h5g, h5p, h5s, h5t, h5z

LARGEST_CHUNK = 256 << 20
"""Bytes of a chunk, as many as a rank may use at least: HDF5 takes memory for a whole one."""

_IN_THE_FILE = (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED)

_memory_types: dict[str, h5t.TypeID] = {}
"""Made once: HDF5 takes as long for a type as for a few numbers of it."""


def plain_values(file: h5py.File, name: str, kinds: str, most: int) -> np.ndarray | None:
    """Return a dataset as it stands, None if it is not a plain one of this kind.

    Parameters
    ----------
    file : h5py.File
    name : str
        Path in the file.
    kinds : str
        Of numpy's dtypes that are expected.
    most : int
        Values at most: memory is taken for no more.
    """
    try:
        dataset = h5d.open(file.id, name.encode())
        shape, stored = dataset.shape, dataset.get_type()
        dtype = stored.dtype
        if dtype.kind not in kinds or math.prod(shape) > most:
            return None
        plist = dataset.get_create_plist()
        if not (_is_readable(plist, stored) and _is_whole(dataset, plist, shape)):
            return None
        values = np.empty(shape, dtype)
        if values.size:
            dataset.read(h5s.ALL, h5s.ALL, values, _memory_type(dtype))
    except Exception:  # HDF5 raises almost any class on damaged files: read with care, it is named
        return None
    return values


def plain_form(file: h5py.File, name: str) -> tuple[tuple[int, ...], np.dtype] | None:
    """Return shape and dtype of a dataset, None if it is not a plain one; chunks may be missing."""
    try:
        dataset = h5d.open(file.id, name.encode())
        shape, stored = dataset.shape, dataset.get_type()
        # a null dataspace has no shape
        usual = shape is not None and _is_readable(dataset.get_create_plist(), stored)
        return (shape, stored.dtype) if usual else None
    except Exception:  # as above
        return None


def _memory_type(dtype: np.dtype) -> h5t.TypeID | None:
    """Return how values of a type are in memory, None if h5py is to find out."""
    if dtype.kind not in "iuf" or dtype.metadata:
        return None
    if dtype.str not in _memory_types:
        _memory_types[dtype.str] = h5t.py_create(dtype)
    return _memory_types[dtype.str]


def _is_readable(plist: h5p.PropDCID, stored: h5t.TypeID) -> bool:
    """Return whether values are in the file itself, in a form that HDF5 can read."""
    layout = plist.get_layout()
    if layout not in _IN_THE_FILE or plist.get_external_count():
        return False
    if layout == h5d.CHUNKED:
        n_bytes = math.prod(plist.get_chunk()) * stored.get_size()
        if n_bytes > LARGEST_CHUNK:
            return False
    filters = (plist.get_filter(i)[0] for i in range(plist.get_nfilters()))
    return all(map(h5z.filter_avail, filters))


def _is_whole(dataset: h5d.DatasetID, plist: h5p.PropDCID, shape: tuple[int, ...]) -> bool:
    """Return whether all values were written."""
    if not math.prod(shape):
        return True
    if plist.get_layout() != h5d.CHUNKED:
        return dataset.get_storage_size() > 0
    grid = (-(-n // c) for n, c in zip(shape, plist.get_chunk(), strict=True))
    return dataset.get_num_chunks() == math.prod(grid)


def has_object(file: h5py.File, name: str) -> bool:
    """Return ``name in file``, faster where there is a dataset, or no link of that name."""
    group, _, last = name.rpartition("/")
    try:
        if last.encode() not in h5g.open(file.id, group.encode()):
            return False
        h5d.open(file.id, name.encode())
    except Exception:  # a group, a link to nowhere, or damaged
        return name in file
    return True
