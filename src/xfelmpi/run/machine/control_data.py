"""Reading the files of a run that hold beamline data: one row per train, whatever is damaged.

Nothing here raises on damage: beamline data are welcome, not necessary. A file that cannot be read
is named in `Damage`, and its values are unknown.
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from xfelmpi.core.machine_records import BeamlineSource
from xfelmpi.core.problems import Problem
from xfelmpi.core.units import Unit, si_unit
from xfelmpi.detectors.known import MODULE_NAMES
from xfelmpi.io.dataset_storage import require_readable
from xfelmpi.io.input_file import guarded_call, open_access
from xfelmpi.io.links import require_files
from xfelmpi.io.virtual_sources import rows_there
from xfelmpi.run.index.identity import FileIdentity, expected_run, identity
from xfelmpi.run.train_index import check_size, read_column, rows_of_trains, shape_of

_NOT_MACHINE = re.compile(rf"-({MODULE_NAMES})\d+-|-OVERVIEW")

_LARGEST = 256 << 20
"""Bytes of a dataset in one file at most."""

_NO_PULSE = np.uint64(2**64 - 1)

_WORDS = {"pulse_energy": "pulse energy", "facility_hits": "facility's hits"}
"""What the log calls values."""

Damage = dict[str, str]
"""What could not be read: file name → first line of the first error."""


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
        row = np.minimum(np.searchsorted(self.trains, train_id), self.trains.size - 1)
        return np.where(self.trains[row] == train_id, row, -1)

    def unit(self) -> Unit | None:
        """Return the SI unit by the file's own attributes, None if it has none.

        Karabo stores the unit as ``unitName`` and ``unitSymbol``, with ``metricPrefixName`` and
        ``metricPrefixSymbol`` (EXtra-data, ``KeyData.units``).
        """
        known = self.attributes
        name = text(known.get("unitName", known.get("unitSymbol", "")))
        prefix = text(known.get("metricPrefixName", known.get("metricPrefixSymbol", "")))
        return si_unit(name, prefix) if name else None


@dataclass
class Findings:
    """What the log should say of the beamline data, filled on the way.

    Parameters
    ----------
    notes, warnings : list of str
    damage : dict
    problems : list of Problem
        Pulse energies that are unknown.
    sources : list of BeamlineSource
        Where values came from.
    """

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    damage: Damage = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    sources: list[BeamlineSource] = field(default_factory=list)

    def use(self, value: str, source: str, rule: str) -> None:
        """Say where a value came from, and how it was matched with the frames."""
        self.sources.append(BeamlineSource(value, source, rule))
        what = _WORDS.get(value, value)
        self.notes.append(f"{what} from {source}{': ' if rule else ''}{rule}")

    def warn_missing(self, what: str, values: np.ndarray) -> None:
        """Say of how many frames a value is unknown, if of any."""
        missing = int(np.isnan(values).sum())
        if missing:
            self.warnings.append(f"{what} unknown for {missing} of {values.size} frames")


def machine_files(folder: Path) -> list[Path]:
    """Return the files of a run folder that can hold beamline data, in the order of their names.

    Parameters
    ----------
    folder : Path
        E.g. ``raw/r0050``; need not exist.

    Raises
    ------
    OSError
        If the folder cannot be read.
    """
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.glob("*.h5") if not _NOT_MACHINE.search(p.name))


@contextmanager
def opened(
    folder: Path,
    damage: Damage,
    named: re.Pattern | None = None,
    paths: list[Path] | None = None,
    proposal: int = 0,
) -> Iterator[list]:
    """Open the files of a run folder that can hold beamline data.

    Parameters
    ----------
    folder : Path
        E.g. ``raw/r0050``; need not exist.
    damage : dict
        Gets the files that cannot be opened.
    named : re.Pattern, optional
        Only files whose names have it.
    paths : list of Path, optional
        These files of the folder instead.
    proposal : int
        That of the detector's files; files that name another one are left out. 0: unknown.

    Yields
    ------
    list of extra_data.FileAccess
        All but the files of the detector's modules, in the order of their names.
    """
    if paths is None:
        paths = []
        with tolerated(str(folder), damage):
            paths = [p for p in machine_files(folder) if not named or named.search(p.name)]
    files = []
    expected = expected_run(folder)
    for path in paths:
        with tolerated(path.name, damage):
            file = open_access(path)
            about = guarded_call(path, _identity_of, file, path)
            if expected and about.run not in (0, expected):
                raise ValueError(f"file is of run {about.run}, expected run {expected}")
            if proposal and about.proposal not in (0, proposal):
                of, wanted = f"p{about.proposal:06d}", f"p{proposal:06d}"
                raise ValueError(f"file is of proposal {of}, expected {wanted}")
            files.append(file)
    try:
        yield files
    finally:
        for file in files:
            guarded_call(file.filename, file.close)


def _identity_of(access, path: Path) -> FileIdentity:
    return identity(access.file, path)


@contextmanager
def tolerated(name: str, damage: Damage) -> Iterator[None]:
    """Note whatever a damaged file raises instead of raising it.

    Parameters
    ----------
    name : str
        The file.
    damage : dict
        Gets the first error of every file.
    """
    try:
        yield
    # HDF5 and EXtra-data raise almost any class on damaged files.
    except Exception as error:
        damage.setdefault(name, str(error).split("\n")[0].strip() or type(error).__name__)


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
    files : list of FileAccess
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
        with tolerated(Path(file.filename).name, damage):
            found = guarded_call(file.filename, _read_samples, file.file, index, path, samples)
            if found is None:
                continue
            new_trains, new_values, about, lacking = found
            if lacking:
                damage.setdefault(Path(file.filename).name, f"{path}: {lacking}")
            new_values = convert(new_values)
            if values and new_values.shape[1:] != values[0].shape[1:]:
                raise ValueError(f"{path} has another shape than in the files before")
            trains.append(new_trains)
            values.append(new_values)
            attributes = attributes or about
    if not trains:
        return None
    return TrainTable(*_unique(np.concatenate(trains), np.concatenate(values)), attributes)


def _read_samples(file: h5py.File, index: str, path: str, samples: Callable):
    """Return trains, values and attributes of a dataset, None if the file does not have it.

    The fourth is what of it is not there: HDF5 would make that up, and its trains are left out.
    """
    require_files(file, path)
    if path not in file:
        return None
    dataset = file[path]
    shape_of(dataset)
    if dataset.dtype.kind not in "fiub":
        raise TypeError(f"{path} is {dataset.dtype}, expected numbers")
    check_size(dataset, _LARGEST)
    require_readable(dataset)
    there, reason = rows_there(dataset)
    # Control data have their attributes at the group (EXtra-data, KeyData.attributes).
    attributes = {**dataset.attrs, **dataset.parent.attrs}
    return *samples(file, index, dataset, there), attributes, reason


def _first_samples(
    file: h5py.File, index: str, dataset: h5py.Dataset, there: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the train IDs (without zeros) and the first sample of each train."""
    trains, first, count = rows_of_trains(file, index)
    use = (count > 0) & (first < len(dataset))
    use[use] = there[first[use]]
    _check_taken(dataset, int(use.sum()))
    return trains[use], dataset[:][first[use]]


def _check_taken(dataset: h5py.Dataset, n: int) -> None:
    """Check that an INDEX does not take the same few rows again and again, beyond the memory."""
    if n * math.prod(dataset.shape[1:]) * dataset.dtype.itemsize > _LARGEST:
        raise ValueError(f"INDEX takes {n} rows of {dataset.name}, which has {len(dataset)}")


def _pulse_samples(
    file: h5py.File, index: str, dataset: h5py.Dataset, there: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys of train and pulse, and the sample of each pulse."""
    trains, first, count = rows_of_trains(file, index)
    pulses = read_column(file, f"INSTRUMENT/{index}/pulseId")
    n = min(len(dataset), len(pulses))
    count = np.clip(count, 0, np.maximum(n - first, 0))
    _check_taken(dataset, int(count.sum()))
    row = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())
    key = pulse_key(np.repeat(trains, count), pulses[row])
    use = (key < _NO_PULSE) & there[row]
    return key[use], dataset[:][row[use]]


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


def run_value(files: list, source: str, key: str, damage: Damage) -> Any:
    """Return a setting of a device at the start of the run, from the first file that has it.

    Parameters
    ----------
    files : list of FileAccess
    source : str
        A control source.
    key : str
        With dots.
    damage : dict
        Gets the files that cannot be read.

    Returns
    -------
    str, int, float, bool or None
        None if no file has it.
    """
    path = f"RUN/{source}/{key.replace('.', '/')}/value"
    for file in files:
        with tolerated(Path(file.filename).name, damage):
            value = guarded_call(file.filename, _first_value, file.file, path)
            if value is not None:
                return value
    return None


def _first_value(file: h5py.File, path: str):
    require_files(file, path)
    dataset = file.get(path)
    if not isinstance(dataset, h5py.Dataset) or 0 in shape_of(dataset):
        return None
    if dataset.dtype.kind not in "fiub":
        return first_text(dataset)
    return dataset[(0,) * len(dataset.shape)].item()


def data_selectors(files: list, damage: Damage) -> list[str]:
    """Return the slow data selectors, known by their names or the class they tell."""
    names = set()
    for file in files:
        with tolerated(Path(file.filename).name, damage):
            for source in file.control_sources:
                path = f"RUN/{source}/classId/value"
                named = source.endswith("/MDL/DATA_SELECTOR")
                if named or (
                    path in file.file and first_text(file.file[path]) == "SlowDataSelector"
                ):
                    names.add(source)
    return sorted(names)
