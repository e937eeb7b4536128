"""Whether a run is there as a whole: its files are written, and corrected, one after the other.

A run is complete when all modules have the same sequences, nothing of it changes any more, all
modules of the corrected run end at the trains at which those of the raw run end, and the file of
the facility's data reduction (``REDU``) is there, if the proposal makes one. Names, sizes and times
tell most of it. Only when these say that a run is complete, the last file of every module is
opened.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.core.log import counted, plural
from xfelmpi.core.paths import Experiment
from xfelmpi.detectors.known import MODULE_FILE, detectors_of, find_source, module_of_file
from xfelmpi.io.input_file import guarded_call, open_hdf5
from xfelmpi.io.virtual_sources import lacking
from xfelmpi.run.index.identity import identity
from xfelmpi.run.train_index import listed_trains, rows_of_trains

SETTLED_AFTER = 30.0
"""Seconds without a change after which a file is treated as finished."""

NEIGHBOURS = 3
"""Runs before a run that are looked at to tell whether the proposal makes ``REDU`` files."""

REDU_FILE = "the REDU file"
"""What `missing_files` says if only this is missing."""

_FILE = re.compile(r"(?P<kind>RAW|CORR)-R\d{4,}-(?P<part>[A-Z]+\d*)-S(?P<sequence>\d{5,})\.h5")
_LISTING_CALLS = 4
"""File system calls of listing a folder."""


@dataclass(frozen=True)
class Listing:
    """The names in a run's folder.

    Parameters
    ----------
    folder : Path
    names : tuple of str
        Of the facility's files.
    sequences : dict of int to frozenset of int
        Sequences by module, from 0.
    detector : str
        Start of the modules' names in the names of their files; empty without any.
    device : str
        The facility's name of the detector, empty if none is asked for.
    redu : bool
        Whether there is a file of the facility's data reduction.
    calls : int
        File system calls that it took.
    """

    folder: Path
    names: tuple[str, ...] = ()
    sequences: dict[int, frozenset[int]] = field(default_factory=dict)
    detector: str = ""
    redu: bool = False
    calls: int = 1
    device: str = ""

    @property
    def last_files(self) -> dict[int, Path]:
        """The last file of every module, by module."""
        last = {}
        for name in self.names:
            found = MODULE_FILE.fullmatch(name)
            if not found or found["detector"] != self.detector:
                continue
            module = module_of_file(name)
            if int(found["sequence"]) == max(self.sequences.get(module, (-1,))):
                last[module] = self.folder / name
        return last

    @property
    def n_modules(self) -> int:
        """How many modules the detector has.

        Several kinds may have files of the same names: one of the files then says which it is. If
        it cannot be read, the largest counts.
        """
        numbers = {d.n_modules for d in detectors_of(self.device) if d.file_name == self.detector}
        if len(numbers) > 1:
            path = next(iter(self.last_files.values()))
            with suppress(Exception):  # HDF5 raises almost any class on what is being written
                numbers = guarded_call(path, _modules_by_source, path) or numbers
        return max(numbers, default=0)


@dataclass(frozen=True)
class Stamp:
    """What tells that files have changed.

    Parameters
    ----------
    files, size : int
        Number of files, and their bytes.
    latest : float
        The latest time of a change of a file itself (ctime), which copying does not preserve.
    inputs : str
        Number of the facility's files, and a digest of their names, sizes and times of the last
        change of their contents (mtime); see `other_inputs`.
    """

    files: int = 0
    size: int = 0
    latest: float = 0.0
    inputs: str = ""


def list_folder(folder: Path, kind: str, detector: str | None = None) -> Listing:
    """Return the names in a run's folder, without any if it is not there.

    Parameters
    ----------
    folder : Path
    kind : str
        ``raw`` or ``proc``: files of the other kind do not count.
    detector : str, optional
        The facility's name of the one that is asked for.
    """
    wanted = {"raw": "RAW", "proc": "CORR"}[kind]
    try:
        names = tuple(sorted(path.name for path in folder.iterdir() if path.suffix == ".h5"))
    except OSError:
        return Listing(folder)
    by_detector: dict[str, dict[int, set[int]]] = {}
    redu = False
    for name in names:
        found = _FILE.fullmatch(name)
        if not found or found["kind"] != wanted:
            continue
        redu |= found["part"].startswith("REDU")
        if module := MODULE_FILE.fullmatch(name):
            sequences = by_detector.setdefault(module["detector"], {})
            sequences.setdefault(module_of_file(name), set()).add(int(found["sequence"]))
    # the one that a job takes, too
    name = next((d.file_name for d in detectors_of(detector) if d.file_name in by_detector), "")
    by_module = {m: frozenset(numbers) for m, numbers in by_detector.get(name, {}).items()}
    return Listing(folder, names, by_module, name, redu, _LISTING_CALLS, detector or "")


def missing_files(have: Listing, raw: Listing | None = None, *, redu: bool = False) -> str:
    """Return what a listing lacks, in words; empty if it lacks nothing.

    Parameters
    ----------
    have : Listing
    raw : Listing, optional
        Of the raw run, whose modules and sequences a corrected one must have.
    redu : bool
        Whether there must be a ``REDU`` file.
    """
    expected: dict[int, frozenset[int]] = dict(raw.sequences) if raw else {}
    if not expected:
        if not have.sequences:
            return "its detector files"
        last = max(max(numbers) for numbers in have.sequences.values())
        expected = dict.fromkeys(have.sequences, frozenset(range(last + 1)))
    lacking: dict[int, int] = {}
    for module, numbers in expected.items():
        for number in numbers - have.sequences.get(module, frozenset()):
            lacking[number] = lacking.get(number, 0) + 1
    if lacking:
        first = min(lacking)
        more = f", and of {len(lacking) - 1} more" if len(lacking) > 1 else ""
        modules = f"{lacking[first]} {plural(lacking[first], 'module')}"
        return f"{modules} of sequence {first}{more}"
    return REDU_FILE if redu and not have.redu else ""


def stamp_files(*listings: Listing) -> Stamp:
    """Return number, size and latest change of the files of listings; a call for each file."""
    files, size, latest = 0, 0, 0.0
    told = []
    for listing in listings:
        for name in listing.names:
            try:
                about = (listing.folder / name).stat()
            except OSError:
                # a link whose file has gone, or is not there yet
                continue
            files, size = files + 1, size + about.st_size
            latest = max(latest, about.st_ctime)
            if _FILE.fullmatch(name):
                told.append((name, about.st_size, about.st_mtime_ns))
    digest = hashlib.sha256(repr(told).encode()).hexdigest()[:16]
    return Stamp(files, size, latest, f"{len(told)} {digest}")


def other_inputs(now: str, before: str) -> bool:
    """Return whether files have changed or come, and none has gone, since they were stamped.

    Parameters
    ----------
    now, before : str
        `Stamp.inputs`.
    """
    return now != before and int(now.partition(" ")[0]) >= int(before.partition(" ")[0])


def file_system_now(path: Path) -> float:
    """Return the time by the clock of a file system, given an own file on it, which is touched."""
    os.utime(path)
    return path.stat().st_mtime


def unequal_ends(have: Listing, raw: Listing | None, run: int) -> str:
    """Return why a run whose names are complete is not; empty if it is.

    Opens the last file of every module, and of the raw run's. A raw file that cannot be read
    demands nothing: the corrected one was made of it, or there will be none.

    Parameters
    ----------
    have : Listing
    raw : Listing, optional
        Of the raw run, if `have` is of the corrected one.
    run : int
        Files of other runs do not count.
    """
    ends: dict[int, int] = {}
    for module, path in have.last_files.items():
        end = _last_train(path, run)
        if isinstance(end, str):
            return f"{path.name}, which {end}"
        ends[module] = end
    targets = dict.fromkeys(ends, max(ends.values(), default=0))
    if raw:
        found = {module: _last_train(path, run) for module, path in raw.last_files.items()}
        targets |= {module: end for module, end in found.items() if isinstance(end, int) and end}
    early = {m: targets[m] - ends[m] for m in ends if ends[m] < targets[m]}
    if not early:
        return ""
    trains = max(early.values())
    end = "" if not raw else " of the raw run"
    return f"the last {counted(trains, 'train')}{end} in {_modules(early)}"


def _modules(numbers: Iterable[int]) -> str:
    found = sorted(numbers)
    return f"{plural(len(found), 'module')} {', '.join(map(str, found))}"


def _last_train(path: Path, run: int) -> int | str:
    """Return the last train with frames in a file, 0 without any, or why it cannot be read."""
    try:
        return guarded_call(path, _read_end, path, run)
    # HDF5 raises almost any class on files that are being written, or damaged
    except Exception as error:
        said = str(error)
        if "already open for write" in said or "unable to lock" in said:
            return "is open for writing"
        return f"cannot be read ({' '.join(said.split())[:120]})"


def _read_end(path: Path, run: int) -> int:
    with open_hdf5(path) as file:
        if identity(file, path).run not in (0, run):
            return 0
        trains = trains_with_frames(file)
    trains = trains[(trains > 0) & (trains < 1 << 62)]
    return int(trains.max()) if len(trains) else 0


def _modules_by_source(path: Path) -> set[int]:
    """Return how many modules the detector of a file's sources has."""
    with open_hdf5(path) as file:
        kinds = (detectors_of(device) for device in file["INDEX"])
        return {found[0].n_modules for found in kinds if len(found) == 1}


def trains_with_frames(file: h5py.File, device: str | None = None) -> np.ndarray:
    """Return the trains with frames of a detector's module; all trains if that is not told.

    Parameters
    ----------
    file : h5py.File
        Of one module.
    device : str, optional
        The facility's name of the detector; default: any.

    Raises
    ------
    KeyError
        If it is none of the named detector.
    """
    index = file["INDEX"]
    for detector in index if device is None else {device} & set(index):
        for group in ("DET", "CORR"):
            if group not in index[detector]:
                continue
            for channel in index[detector][group]:
                source = f"{detector}/{group}/{channel}"
                name = f"{source}/{detectors_of(detector)[0].datasets.group}"
                if find_source(source) and f"INDEX/{name}" in file:
                    trains, _, count = rows_of_trains(file, name)
                    return trains[count > 0]
    if device is not None:
        raise KeyError(f"no module of {device}")
    return listed_trains(file)


def makes_redu(experiment: Experiment) -> bool:
    """Return whether one of the runs before a run has a file of the facility's data reduction."""
    for run in range(experiment.run - 1, max(experiment.run - 1 - NEIGHBOURS, 0), -1):
        folder = Experiment(experiment.prefix, experiment.output, run).run_folder("proc")
        if list_folder(folder, "proc").redu:
            return True
    return False


def run_labels(listing: Listing) -> tuple[str, str]:
    """Return type and sample of a run by ``METADATA`` of one of its files; empty if unknown."""
    if not listing.names:
        return "", ""
    path = next(iter(listing.last_files.values()), listing.folder / listing.names[0])
    try:
        return guarded_call(path, _read_labels, path)
    # HDF5 raises almost any class on damaged files; the job names them
    except Exception:
        return "", ""


def _read_labels(path: Path) -> tuple[str, str]:
    found = []
    with open_hdf5(path) as file:
        for name in ("runType", "sample"):
            dataset = file.get(f"METADATA/{name}")
            value: object = ""
            there = isinstance(dataset, h5py.Dataset) and dataset.size == 1
            if there and not lacking(dataset):
                value = dataset[(0,) * len(dataset.shape)]
            found.append(value.decode(errors="replace") if isinstance(value, bytes) else str(value))
    return found[0].strip(), found[1].strip()
