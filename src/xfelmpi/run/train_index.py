"""``INDEX`` of a file: which rows belong to which train, in every version of the format.

One reader for detector and beamline files. Files of 2017 have ``first``, ``last`` and ``status``
instead of ``first`` and ``count`` (EXtra-data, ``FileAccess._read_index``). Everything is read as
it stands, because damage must be seen; sizes are checked first, because a damaged header may ask
for more memory than there is.
"""

import math

import h5py
import numpy as np

from xfelmpi.io.dataset_storage import require_readable
from xfelmpi.io.plain_values import has_object, plain_values
from xfelmpi.io.virtual_sources import lacking

MOST_TRAINS, MOST_ROWS = 100_000, 4_000_000
"""Trains and frames in a file at most, far more than any real one has."""

_LARGEST_NUMBER = np.uint64(1 << 40)
"""Garbage of more bits stays a large number that fits int64, sums included."""

_DENSEST = 2000
"""Bytes of values in a stored byte at most; deflate reaches 1032."""

_SMALL = 1 << 20


def shape_of(dataset) -> tuple[int, ...]:
    """Return the shape of what should be a dataset with values.

    Raises
    ------
    ValueError
        If it is none, or has no dataspace (HDF5 calls it null).
    """
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{getattr(dataset, 'name', dataset)} is not a dataset")
    if dataset.shape is None:
        raise ValueError(f"{dataset.name} has no values (its dataspace is null)")
    return dataset.shape


def check_size(dataset: h5py.Dataset, most_bytes: int) -> None:
    """Check that a dataset's values are there, before memory is taken for them.

    Raises
    ------
    ValueError
        If there are more bytes of values than `most_bytes`, or than the stored bytes can hold.
    """
    n_bytes = math.prod(shape_of(dataset)) * dataset.dtype.itemsize
    if n_bytes > most_bytes:
        raise ValueError(f"{dataset.name} has {n_bytes} bytes, expected at most {most_bytes}")
    in_file = not (dataset.is_virtual or dataset.external)
    stored = dataset.id.get_storage_size()
    if in_file and n_bytes > _SMALL and n_bytes > _DENSEST * stored:
        raise ValueError(f"{dataset.name} has {n_bytes} bytes of values, but {stored} in the file")


def number_column(
    dataset: h5py.Dataset, most: int = MOST_ROWS, kinds: str = "iu", per_row: int = 1
) -> np.ndarray:
    """Return a dataset with one number per train or frame, flat.

    Parameters
    ----------
    dataset : h5py.Dataset
        (N,), or (N, 1) as raw files have it.
    most : int
        Numbers at most.
    kinds : str
        Of numpy's dtypes.
    per_row : int
        Numbers in a row, if there are several frames in it.

    Raises
    ------
    ValueError
        If it is anything else: of two columns nobody knows which one is meant.
    """
    shape = shape_of(dataset)
    if not shape or math.prod(shape[1:]) != per_row:
        numbers = "one number" if per_row == 1 else f"{per_row} numbers"
        raise ValueError(f"{dataset.name} has shape {shape}, expected {numbers} in each of N rows")
    n = math.prod(shape)
    if n > most or dataset.dtype.kind not in kinds:
        raise ValueError(
            f"{dataset.name} has {n} values of {dataset.dtype}, expected whole numbers, "
            f"at most {most}"
        )
    require_readable(dataset)
    if reason := lacking(dataset):
        # HDF5 would make zeros of it
        raise ValueError(f"{dataset.name}: {reason}")
    return dataset[:].reshape(-1)


def read_column(
    file: h5py.File, name: str, most: int = MOST_ROWS, kinds: str = "iu", per_row: int = 1
) -> np.ndarray:
    """Return what `number_column` does of a dataset's path, with fewer calls of HDF5.

    Raises
    ------
    KeyError, ValueError
        If it is missing, or anything else.
    """
    values = plain_values(file, name, kinds, most)
    if values is None or not values.ndim or math.prod(values.shape[1:]) != per_row:
        return number_column(file[name], most, kinds, per_row)
    return values.reshape(-1)


def listed_trains(file: h5py.File) -> np.ndarray:
    """Return ``INDEX/trainId`` as it stands, with zeros, uint64 (train,)."""
    return read_column(file, "INDEX/trainId", MOST_TRAINS).astype(np.uint64, copy=False)


def first_and_count(file: h5py.File, group: str) -> tuple[np.ndarray, np.ndarray]:
    """Return first row and number of rows of every train, int64 (train,) each.

    Parameters
    ----------
    file : h5py.File
    group : str
        Below ``INDEX/``, e.g. ``SPB_XTD9_XGM/DOOCS/MAIN:output/data``.
    """

    def column(name: str) -> np.ndarray:
        return read_column(file, f"INDEX/{group}/{name}", MOST_TRAINS)

    first = column("first")
    # of damaged ones, reading with care says what is wrong
    counted = plain_values(file, f"INDEX/{group}/count", "iu", MOST_TRAINS)
    if counted is not None and counted.ndim == 1:
        count = counted
    elif has_object(file, f"INDEX/{group}/count"):
        count = column("count")
    else:
        last, status = column("last"), column("status")
        n = min(len(first), len(last), len(status))
        count = (last[:n] - first[:n] + 1) * (status[:n] != 0)
    return (
        np.minimum(first.astype(np.uint64), _LARGEST_NUMBER).astype(np.int64),
        np.minimum(count.astype(np.uint64), _LARGEST_NUMBER).astype(np.int64),
    )


def rows_of_trains(
    file: h5py.File, group: str, trains: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the train IDs (without zeros), and first row and number of rows of each.

    ``INDEX`` alone decides which row belongs to a train, as in EXtra-data. It is read here
    because ``FileAccess`` drops zero train IDs from its list but not from ``first`` and
    ``count``: every later train would get its neighbour's values.
    """
    trains = listed_trains(file) if trains is None else trains
    first, count = first_and_count(file, group)
    n = min(trains.size, first.size, count.size)
    use = trains[:n] != 0
    return trains[:n][use], first[:n][use], count[:n][use]
