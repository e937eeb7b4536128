"""One dataset of a source over all files of a run: one row per train, or per pulse."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import h5py
import numpy as np

from xfelmpi.core.units import Unit, si_unit
from xfelmpi.io.dataset_storage import require_readable
from xfelmpi.io.input_file import guarded_call
from xfelmpi.io.plain_values import plain_values
from xfelmpi.io.virtual_sources import rows_there
from xfelmpi.run.machine.beamline_file import BeamlineFile
from xfelmpi.run.machine.findings import Damage, tolerated
from xfelmpi.run.machine.texts import text
from xfelmpi.run.train_index import check_size, read_column, shape_of

_LARGEST = 256 << 20
"""Bytes of a dataset in one file at most."""

_SMALL = 1 << 20
"""Values of a dataset that takes so little memory that it is read without a further look."""

_NO_PULSE = np.uint64(2**64 - 1)


@dataclass(frozen=True)
class TrainTable:
    """One dataset of a source, over all files of a folder.

    Parameters
    ----------
    trains : ndarray, uint64 (train,)
        Ascending, without repetition.
    values : ndarray (train, ...)
        As stored.
    attributes : dict
        The dataset's own attributes, with those of its group.
    """

    trains: np.ndarray
    values: np.ndarray
    attributes: dict

    def rows(self, train_id: np.ndarray) -> np.ndarray:
        """Return the row of every frame's train, int64 (frame,), -1 where there is none.

        Parameters
        ----------
        train_id : ndarray, uint64 (frame,)
            Train IDs in any order.
        """
        if not self.trains.size:
            return np.full(len(train_id), -1)
        # frames of a train are neighbours, as a rule: it is looked for once
        new = np.ones(len(train_id), bool)
        np.not_equal(train_id[1:], train_id[:-1], out=new[1:])
        first = np.flatnonzero(new)
        asked = train_id[first]
        row = np.minimum(np.searchsorted(self.trains, asked), self.trains.size - 1)
        row = np.where(self.trains[row] == asked, row, -1)
        return np.repeat(row, np.diff(first, append=len(train_id)))

    def unit(self) -> Unit | None:
        """Return the SI unit by the file's own attributes, None if it has none.

        Karabo stores the unit as ``unitName`` and ``unitSymbol``, with ``metricPrefixName`` and
        ``metricPrefixSymbol`` (EXtra-data, ``KeyData.units``).
        """
        known = self.attributes
        name = text(known.get("unitName", known.get("unitSymbol", "")))
        prefix = text(known.get("metricPrefixName", known.get("metricPrefixSymbol", "")))
        return si_unit(name, prefix) if name else None


def read_table(
    files: list,
    index: str,
    path: str,
    damage: Damage,
    convert: Callable[[np.ndarray], np.ndarray] = np.asarray,
    *,
    by_pulse: bool = False,
) -> TrainTable | None:
    """Collect one dataset of a source over all files of a folder.

    Parameters
    ----------
    files : BeamlineFiles
        Where to look; a file without the dataset is passed over.
    index : str
        The source's group below ``INDEX/``.
    path : str
        The dataset.
    damage : dict
        Gets the files whose values cannot be read.
    convert : callable
        What to do with the values of a file before they are put together with the others'.
    by_pulse : bool
        Take all samples of a train, each of the pulse that the ``pulseId`` of its group says;
        `pulse_key` stands for the train ID then. Otherwise the first sample of a train.

    Returns
    -------
    TrainTable or None
        None if no file has values. A train that several rows claim with different values is
        not in it.
    """
    trains: list[np.ndarray] = []
    values: list[np.ndarray] = []
    attributes: dict[str, object] = {}
    samples = _pulse_samples if by_pulse else _first_samples
    for file in files:
        with tolerated(file.name, damage):
            read = partial(_read_samples, describe=not attributes)
            found = guarded_call(file.filename, read, file, index, path, samples)
            if found is None:
                continue
            new_trains, new_values, described, lacking = found
            if lacking:
                damage.setdefault(file.name, f"{path}: {lacking}")
            new_values = convert(new_values)
            if values and new_values.shape[1:] != values[0].shape[1:]:
                raise ValueError(f"{path} has another shape than in the files before")
            trains.append(new_trains)
            values.append(new_values)
            attributes = attributes or described
    if not trains:
        return None
    return TrainTable(*_unique(np.concatenate(trains), np.concatenate(values)), attributes)


def _read_samples(file: BeamlineFile, index: str, path: str, samples: Callable, *, describe: bool):
    """Return trains, values and attributes of a dataset, None if the file does not have it.

    The fourth is what of it is not there: HDF5 would make that up, and its trains are left out.
    Attributes are read if `describe`.
    """
    if not file.has(path):
        return None
    attributes = {}
    values = plain_values(file.file, path, "fiub", _SMALL)
    if values is None or not values.ndim or describe:
        dataset = file.file[path]
        shape_of(dataset)
        # Control data have their attributes at the group (EXtra-data, KeyData.attributes).
        attributes = {**dataset.attrs, **dataset.parent.attrs} if describe else {}
    if values is not None and values.ndim:
        return *samples(file, index, path, values, np.ones(len(values), bool)), attributes, ""
    if dataset.dtype.kind not in "fiub":
        raise TypeError(f"{path} is {dataset.dtype}, expected numbers")
    check_size(dataset, _LARGEST)
    require_readable(dataset)
    there, reason = rows_there(dataset)
    return *samples(file, index, path, dataset, there), attributes, reason


def _first_samples(
    file: BeamlineFile, index: str, path: str, stored: h5py.Dataset | np.ndarray, there: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the train IDs (without zeros) and the first sample of each train."""
    trains, first, count = file.rows_of_trains(index)
    use = (count > 0) & (first < len(stored))
    use[use] = there[first[use]]
    _check_taken(path, stored, int(use.sum()))
    return trains[use], stored[:][first[use]]


def _check_taken(path: str, stored: h5py.Dataset | np.ndarray, n: int) -> None:
    """Check that an INDEX does not take the same few rows again and again, beyond the memory."""
    if n * math.prod(stored.shape[1:]) * stored.dtype.itemsize > _LARGEST:
        raise ValueError(f"INDEX takes {n} rows of /{path}, which has {len(stored)}")


def _pulse_samples(
    file: BeamlineFile, index: str, path: str, stored: h5py.Dataset | np.ndarray, there: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys of train and pulse, and the sample of each pulse."""
    trains, first, count = file.rows_of_trains(index)
    pulses = read_column(file.file, f"INSTRUMENT/{index}/pulseId")
    n = min(len(stored), len(pulses))
    count = np.clip(count, 0, np.maximum(n - first, 0))
    _check_taken(path, stored, int(count.sum()))
    row = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())
    key = pulse_key(np.repeat(trains, count), pulses[row])
    use = (key < _NO_PULSE) & there[row]
    return key[use], stored[:][row[use]]


def pulse_key(train_id: np.ndarray, pulse_id: np.ndarray) -> np.ndarray:
    """Return one number for each pulse, uint64 (frame,), of train IDs and pulse numbers.

    Flipped bits in either, beyond any real train and pulse, become a number that no pulse has.
    """
    train_id, pulse_id = np.asarray(train_id, np.uint64), np.asarray(pulse_id, np.uint64)
    real = (train_id < 1 << 51) & (pulse_id < 1 << 12)
    return np.where(real, train_id << np.uint64(12) | pulse_id, _NO_PULSE)


def _unique(trains: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort rows by train; drop repeated rows, and trains whose repetitions contradict."""
    if (trains[1:] > trains[:-1]).all():
        return trains, values
    order = np.argsort(trains, kind="stable")
    trains, values = trains[order], values[order]
    first = np.ones(trains.size, bool)
    first[1:] = trains[1:] != trains[:-1]
    repeated = np.flatnonzero(~first)
    here, before = values[repeated], values[repeated - 1]
    # NaN is the one number that differs from itself.
    same = (here == before) | ((here != here) & (before != before))
    contradicted = trains[repeated[~same.all(axis=tuple(range(1, same.ndim)))]]
    keep = first & ~np.isin(trains, contradicted)
    return trains[keep], values[keep]
