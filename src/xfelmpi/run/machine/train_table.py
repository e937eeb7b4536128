"""One dataset of a source over all files of a run: one row per train, or per pulse."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import h5py
import numpy as np
from h5py import h5a

from xfelmpi.core.frame_table import differs_from_last
from xfelmpi.core.units import Unit, si_unit
from xfelmpi.io.dataset_storage import require_readable
from xfelmpi.io.input_file import guarded_call
from xfelmpi.io.plain_values import plain_values
from xfelmpi.io.virtual_sources import rows_there
from xfelmpi.run.machine.beamline_file import BeamlineFile
from xfelmpi.run.machine.control_data import BeamlineFiles
from xfelmpi.run.machine.findings import Damage, tolerated
from xfelmpi.run.machine.texts import text
from xfelmpi.run.train_index import check_size, read_column, shape_of

_LARGEST = 256 << 20
"""Bytes of a dataset in one file at most."""

_SMALL = 1 << 20
"""Values of a dataset that takes so little memory that it is read without a further look."""

_FIRST = 256
"""Trains that are looked at while reading ahead."""

_NO_PULSE = np.uint64(2**64 - 1)

_TELL_UNIT = ("unitName", "unitSymbol", "metricPrefixName", "metricPrefixSymbol")


@dataclass(frozen=True)
class TrainTable:
    """One dataset of a source, over all files of a folder.

    Parameters
    ----------
    trains : ndarray, uint64 (train,)
        Ascending, without repetition.
    values : ndarray (train, ...)
        As stored.
    attributes : dict of str to str
        Those that tell the unit, of the dataset or its group.
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
        first = np.flatnonzero(differs_from_last(train_id))
        asked = train_id[first]
        row = np.minimum(np.searchsorted(self.trains, asked), self.trains.size - 1)
        row = np.where(self.trains[row] == asked, row, -1)
        return np.repeat(row, np.diff(first, append=len(train_id)))

    def beginning(self) -> "TrainTable":
        """Return the first trains: they tell what else is to be read."""
        return TrainTable(self.trains[:_FIRST], self.values[:_FIRST], self.attributes)

    def unit(self) -> Unit | None:
        """Return the SI unit by the file's own attributes, None if it has none.

        Karabo stores the unit as ``unitName`` and ``unitSymbol``, with ``metricPrefixName`` and
        ``metricPrefixSymbol`` (EXtra-data, ``KeyData.units``).
        """
        known = self.attributes
        name = known.get("unitName", known.get("unitSymbol", ""))
        prefix = known.get("metricPrefixName", known.get("metricPrefixSymbol", ""))
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

    A file that says another unit than most is damaged: it does not tell what its numbers are.

    Parameters
    ----------
    files : BeamlineFiles, or list of BeamlineFile
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
        not in it. Not to be changed.
    """

    def read(own: Damage) -> TrainTable | None:
        return _read_table(files, index, path, own, convert, by_pulse=by_pulse)

    # what is converted, callers keep
    if convert is not np.asarray or not isinstance(files, BeamlineFiles):
        return read(damage)
    table = files.ahead(("table", index, path, by_pulse), damage, read)
    return table.beginning() if table and files.reads_ahead else table


def _read_table(
    files: list, index: str, path: str, damage: Damage, convert: Callable, *, by_pulse: bool
) -> TrainTable | None:
    found: list[tuple[str, TrainTable]] = []
    samples = _pulse_samples if by_pulse else _first_samples
    for file in files:
        with tolerated(file.name, damage):
            read = guarded_call(file.filename, _read_samples, file, index, path, samples)
            if read is None:
                continue
            table, lacking = read
            if lacking:
                damage.setdefault(file.name, f"{path}: {lacking}")
            table = TrainTable(table.trains, convert(table.values), table.attributes)
            if found and table.values.shape[1:] != found[0][1].values.shape[1:]:
                raise ValueError(f"{path} has another shape than in the files before")
            found.append((file.name, table))
    tables = _of_one_unit(path, found, damage)
    if not tables:
        return None
    trains, values = (
        np.concatenate([getattr(table, name) for table in tables]) for name in ("trains", "values")
    )
    attributes = next((table.attributes for table in tables if table.unit()), {})
    return TrainTable(*_unique(trains, values), attributes)


def _of_one_unit(
    path: str, found: list[tuple[str, TrainTable]], damage: Damage
) -> list[TrainTable]:
    """Return the tables of files that say the unit of most, or none; the others are damage."""
    units = [(name, table.unit() if table.trains.size else None) for name, table in found]
    said = Counter(unit for _, unit in units if unit)
    if len(said) < 2:
        return [table for _, table in found]
    (unit, n), *_ = said.most_common(1)
    settled = 2 * n > said.total()
    expected = f"{_words(unit)} as in most files" if settled else "the same unit in all files"
    for name, other in units:
        if other and not (settled and other == unit):
            damage.setdefault(name, f"{path} is in {_words(other)}, expected {expected}")
    fits = [settled and other in (None, unit) for _, other in units]
    return [table for (_, table), good in zip(found, fits, strict=True) if good]


def _words(unit: Unit) -> str:
    return f"{unit.factor:g} {unit.symbol}"


def _read_samples(
    file: BeamlineFile, index: str, path: str, samples: Callable
) -> tuple[TrainTable, str] | None:
    """Return what a file has of a dataset, None if it does not have it.

    The second is what of it is not there: HDF5 would make that up, and its trains are left out.
    """
    if not file.has(path):
        return None
    attributes = _unit_words(file.file, path)
    values = plain_values(file.file, path, "fiub", _SMALL)
    if values is not None and values.ndim:
        there = np.ones(len(values), bool)
        trains, rows = samples(file, index, path, values, there)
        return TrainTable(trains, rows, attributes), ""
    dataset = file.file[path]
    shape_of(dataset)
    if dataset.dtype.kind not in "fiub":
        raise TypeError(f"{path} is {dataset.dtype}, expected numbers")
    check_size(dataset, _LARGEST)
    require_readable(dataset)
    there, reason = rows_there(dataset)
    trains, rows = samples(file, index, path, dataset, there)
    return TrainTable(trains, rows, attributes), reason


def _unit_words(file: h5py.File, path: str) -> dict[str, str]:
    """Return the attributes that tell a dataset's unit."""
    words: dict[str, str] = {}
    # control data have their attributes at the group (EXtra-data, KeyData.attributes)
    for place in (path, path.rpartition("/")[0]):
        at = place.encode()
        names = [n for n in _TELL_UNIT if h5a.exists(file.id, n.encode(), obj_name=at)]
        if names:
            attributes = file[place].attrs
            words |= {name: text(attributes[name]) for name in names}
    return words


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
    first = differs_from_last(trains)
    repeated = np.flatnonzero(~first)
    here, before = values[repeated], values[repeated - 1]
    # NaN is the one number that differs from itself.
    same = (here == before) | ((here != here) & (before != before))
    contradicted = trains[repeated[~same.all(axis=tuple(range(1, same.ndim)))]]
    keep = first & ~np.isin(trains, contradicted)
    return trains[keep], values[keep]
