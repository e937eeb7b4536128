"""Reading datasets and attributes of our own files back, compared with what they must be.

Whatever differs is a `KeyError` or `ValueError`, which `finished_file` makes an error that names
the file.
"""

import math

import h5py
import numpy as np

_LARGEST_CHUNK = 1 << 24
"""Bytes of a chunk, if the dataset itself has fewer: HDF5 takes memory for a whole one."""


def check_stored(dataset: h5py.Dataset, *, known_shape: bool = False) -> None:
    """Check that the values of a dataset are in its file: HDF5 makes up what is not there.

    Parameters
    ----------
    dataset : Dataset
        Of a file of ours.
    known_shape : bool
        Whether its shape is one that it must have, or it is read in parts. Else it must not be
        compressed, so that it takes no more memory than the file has bytes.

    Raises
    ------
    ValueError
        If they are not.
    """
    stored, n_bytes = dataset.id.get_storage_size(), dataset.nbytes
    if n_bytes and not (
        _is_written(dataset, stored)
        and stored <= dataset.file.id.get_filesize()
        and (known_shape or stored >= n_bytes)
    ):
        raise ValueError(f"{dataset.name}: its values are not in the file")


def _is_written(dataset: h5py.Dataset, stored: int) -> bool:
    if dataset.is_virtual or dataset.external:
        return False
    if dataset.chunks is None:
        return stored >= dataset.nbytes
    if math.prod(dataset.chunks) * dataset.dtype.itemsize > max(_LARGEST_CHUNK, dataset.nbytes):
        return False
    grid = (-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
    return dataset.id.get_num_chunks() == math.prod(grid)


def checked_array(group: h5py.Group, name: str, dtype, shape: tuple[int | None, ...]) -> np.ndarray:
    """Return a whole dataset.

    Parameters
    ----------
    group : Group
    name : str
        Path of the dataset.
    dtype
        What it must be.
    shape : tuple of int or None
        What it must be; None: any length.

    Raises
    ------
    KeyError, ValueError
        If it is missing, of another type or shape, or has values that were never written.
    """
    dataset = group.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise KeyError(f"no dataset {name}")
    same = dataset.shape is not None and len(dataset.shape) == len(shape)
    if same:
        same = all(b in (None, a) for a, b in zip(dataset.shape, shape, strict=True))
    if not same or dataset.dtype != np.dtype(dtype):
        sizes = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(
            f"{name} is {dataset.dtype} {dataset.shape}, expected {np.dtype(dtype)} ({sizes})"
        )
    check_stored(dataset, known_shape=None not in shape)
    values = dataset[()]
    if np.dtype(dtype) == bool and values.view(np.uint8).max(initial=0) > 1:
        raise ValueError(f"{name} has values that are neither true nor false")
    return values


def checked_text(group: h5py.Group, name: str) -> str:
    """Return a text that is a scalar dataset.

    Raises
    ------
    KeyError, ValueError
        If it is none.
    """
    dataset = group.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise KeyError(f"no dataset {name}")
    if dataset.shape != () or h5py.check_string_dtype(dataset.dtype) is None:
        raise ValueError(f"{name} is {dataset.dtype} {dataset.shape}, expected a text")
    check_stored(dataset)
    return dataset[()].decode()


def checked_attribute(item, name: str, kind: type):
    """Return an attribute that is a text or a whole number.

    Raises
    ------
    KeyError, ValueError
        If it is none.
    """
    if name not in item.attrs:
        raise KeyError(f"attribute {name} is missing")
    value = item.attrs[name]
    expected = (str,) if kind is str else (int, np.integer)
    if not isinstance(value, expected):
        raise ValueError(f"attribute {name} is {type(value).__name__}, expected {kind.__name__}")
    return value
