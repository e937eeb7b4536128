"""The index of one file of a detector module, read as it stands, with every problem found.

EXtra-data opens the file, since it knows every version of the format; the index arrays are read
here, because damage (a train ID of 0, an index beyond the data) must be seen.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from time import time

import numpy as np

from xfelmpi.core.errors import InputError
from xfelmpi.core.hdf5_locks import advice
from xfelmpi.core.problems import Problem
from xfelmpi.detectors.base import Detector, FrameDatasets
from xfelmpi.detectors.known import (
    MODULE_FILE,
    detectors_of,
    find_source,
    module_of_file,
)
from xfelmpi.io.dataset_storage import require_filters
from xfelmpi.io.input_file import (
    ChangedFileError,
    file_stamp,
    guarded_call,
    open_hdf5,
    read_access,
)
from xfelmpi.run.index.identity import FILE_LEFT_OUT, FileIdentity, identity
from xfelmpi.run.index.suspect_trains import OLDEST_FORMAT, SuspectTrain, flagged
from xfelmpi.run.train_index import first_and_count, listed_trains, number_column, shape_of

FARTHEST_TRAIN = 1_000_000
"""Trains (28 hours) from the run's median train beyond which a train ID cannot be of this run."""

_IMPOSSIBLE = np.uint64(1 << 63)

_RECENT = 2.0
"""Seconds after a change in which a file is not remembered: two changes may have the same time."""


@dataclass(frozen=True)
class ModuleRows:
    """Frames of one module in the order of its files.

    Parameters
    ----------
    train, pulse : ndarray, uint64 (frame,)
    cell : ndarray, uint16 (frame,)
    file : ndarray, int32 (frame,)
        Number of the file in the run index.
    row : ndarray, int32 (frame,)
        Row in that file's dataset.
    """

    train: np.ndarray
    cell: np.ndarray
    pulse: np.ndarray
    file: np.ndarray
    row: np.ndarray

    def keep(self, which) -> "ModuleRows":
        """Return some of the frames."""
        return ModuleRows(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def module_files(folder: Path, kind: str, detector: str | None = None) -> list[Path]:
    """Return a detector's files in a run folder, in the order of module and sequence.

    Parameters
    ----------
    folder : Path
    kind : str
        ``proc`` or ``raw``.
    detector : str, optional
        Which detector, e.g. ``SPB_DET_AGIPD1M-1``; default: the first of `DETECTORS` with files.

    Raises
    ------
    InputError
        If there is no such folder, or no such file in it.
    """
    try:
        names = sorted(p.name for p in folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: no such run ({error.strerror})") from None
    wanted = "CORR" if kind == "proc" else "RAW"
    by_kind: dict[str, dict[str, list[Path]]] = {"CORR": {}, "RAW": {}}
    for name in names:
        if match := MODULE_FILE.fullmatch(name):
            by_kind[match["kind"]].setdefault(match["detector"], []).append(folder / name)
    found = by_kind.pop(wanted)
    candidates = detectors_of(detector)
    for candidate in candidates:
        if candidate.file_name in found:
            return found[candidate.file_name]
    ((other, others),) = by_kind.items()
    there = sum(map(len, others.values()))
    instead = f", {there} of them {other} files of detector modules" if there else ""
    start = candidates[0].file_name
    raise InputError(
        f"{folder}: no {start} files; found {len(names)} files{instead}, expected "
        f"{wanted}-R….-{start}00-S00000.h5 and so on"
    )


def module_sources(
    path: Path, problems: list[Problem], identities: dict[Path, FileIdentity]
) -> list[tuple[str, str, int]]:
    """Return (detector, source, module) of a file; a modern name wins over its legacy link.

    What the file says of its run and proposal is added to `identities`.
    """
    number = module_of_file(path.name)
    try:
        names, identities[path] = _sources_of(path)
    except Exception as error:
        problems.append(
            Problem(
                f"file cannot be opened: {_one_line(error)}", path.name, number, 0, FILE_LEFT_OUT
            )
        )
        return []
    best: dict[tuple[str, int], str] = {}
    for source in sorted(names):  # CORR sorts before DET
        if found := find_source(source):
            best.setdefault(found, source)
    if not best:
        start = MODULE_FILE.fullmatch(path.name)["detector"]
        problems.append(Problem(f"file has no {start} source", path.name, number, 0, FILE_LEFT_OUT))
    return [(detector, source, module) for (detector, module), source in best.items()]


def _sources_of(path: Path) -> tuple[frozenset[str], FileIdentity]:
    """Return the sources of a file, and what run it is of; asked again, from memory.

    A run that is followed is indexed for every sequence that comes.
    """
    with suppress(OSError):
        about = path.stat()
        if time() - about.st_mtime >= _RECENT:
            return _remembered_sources(path, file_stamp(about))
    return read_access(path, _read_sources, path)


@lru_cache(maxsize=4096)
def _remembered_sources(path: Path, _stamp: str) -> tuple[frozenset[str], FileIdentity]:
    return read_access(path, _read_sources, path)


def _read_sources(access, path: Path) -> tuple[frozenset[str], FileIdentity]:
    return access.instrument_sources, identity(access.file, path, access.format_version)


def _one_line(error: Exception) -> str:
    said = str(error)
    if "already open for write" in said or "already open for SWMR" in said:
        return "it is open for writing elsewhere; is it being corrected or copied just now?"
    if "unable to lock" in said:
        return advice(" ".join(said.split()))
    if isinstance(error, OSError) and error.errno:
        # HDF5 tells it in three lines
        return os.strerror(error.errno)
    return " ".join(str(error).split())[:200] or type(error).__name__


def start_time(path: Path) -> str:
    """Return the creation date in a file's metadata, which is UTC."""
    try:
        stamp = read_access(path, _creation_date)
        return datetime.strptime(stamp, "%Y%m%dT%H%M%S%z").isoformat()
    except Exception:  # no date, not in this form, or damaged
        return ""


def _creation_date(access) -> str:
    return bytes(access.file["METADATA/creationDate"][0]).decode("ascii")


def read_module_file(
    path, source, version, module, number, problems, suspects, *, detector: Detector
) -> tuple[ModuleRows, np.ndarray, np.ndarray, str, bool, str, int] | None:
    """Return the usable frames of one file, and what it is.

    Its trains, those of them with frames, its dtype, whether it has masks, its stamp, and the
    frames of a train if its rows are trains, else 0.

    None if it is not usable. What is not becomes a problem; trains flagged suspect are added to
    `suspects`.

    Raises
    ------
    InputError
        If the frames are packed with a filter that HDF5 does not have.
    """

    def problem(what, train=0, action="frames left out"):
        problems.append(Problem(what, path.name, module, int(train), action))

    try:
        stamp = file_stamp(path.stat())
        if version == OLDEST_FORMAT:
            # only EXtra-data tells what is suspect there
            found = read_access(path, _read_oldest_index, source, detector.datasets)
        else:
            arguments = path, source, version, detector.datasets
            found = guarded_call(path, _read_newer_index, *arguments)
        if file_stamp(path.stat()) != stamp:
            raise ChangedFileError("it changes at this moment: is the run being corrected again?")
    except InputError:
        raise
    except Exception as error:
        problem(f"file cannot be indexed: {_one_line(error)}", action=FILE_LEFT_OUT)
        return None
    raw = path.name.startswith("RAW")
    module_shape = detector.module_shape
    expected = (detector.raw_planes, *module_shape) if raw else module_shape
    right_dtype = found.dtype == np.uint16 if raw else found.dtype.kind in "uif"
    if found.frame_shape != expected or not right_dtype:
        rows = "(N, cell, " if detector.datasets.by_train else "(N, "
        problem(
            f"frames are {found.dtype} {found.shape}, expected numbers {rows}{str(expected)[1:]}",
            action=FILE_LEFT_OUT,
        )
        return None
    if found.per_train > 1:
        found = _by_frame(found)
    _check_order(found.train_ids, problem)
    train, row = _rows_of_trains(found, problem)
    flagged_trains = np.intersect1d(found.train_ids[found.suspect], train)
    suspects += [SuspectTrain(int(t), module, path.name) for t in flagged_trains]
    rows = _check_rows(train, row, found.ids, number, problem, detector.max_cells)
    n = min(len(found.train_ids), len(found.count))
    recorded = found.train_ids[:n][found.count[:n] > 0]
    per_train = found.per_train if detector.datasets.by_train else 0
    return rows, found.train_ids, recorded, found.dtype.str, found.has_mask, stamp, per_train


@dataclass(frozen=True)
class _FileIndex:
    # what a file says of its trains (train_ids, first, count, suspect) and frames (ids), as it is
    train_ids: np.ndarray
    first: np.ndarray
    count: np.ndarray
    suspect: np.ndarray
    ids: dict[str, np.ndarray]
    shape: tuple[int, ...]
    dtype: np.dtype
    has_mask: bool
    frame_axes: int = 1
    per_train: int = 1  # frames in a row

    @property
    def frame_shape(self) -> tuple[int, ...]:
        return self.shape[self.frame_axes :]

    @property
    def n_frames(self) -> int:
        return self.shape[0] * self.per_train


def _by_frame(found: _FileIndex) -> _FileIndex:
    """Return the index of a file whose rows are trains with its frames as rows."""
    n = found.per_train
    trains = np.repeat(found.ids["trainId"], n)
    return replace(
        found, first=found.first * n, count=found.count * n, ids={**found.ids, "trainId": trains}
    )


def _read_oldest_index(access, source: str, datasets: FrameDatasets) -> _FileIndex:
    return _read_index(access.file, source, OLDEST_FORMAT, datasets, access.validity_flag)


def _read_newer_index(path: Path, source: str, version: str, datasets: FrameDatasets) -> _FileIndex:
    # EXtra-data has opened the file before, and its strings were checked then
    with open_hdf5(path) as file:
        return _read_index(file, source, version, datasets)


def _read_index(file, source: str, version: str, datasets: FrameDatasets, valid=None) -> _FileIndex:
    group = file[f"INSTRUMENT/{source}"]
    train_ids = listed_trains(file)
    first, count = first_and_count(file, f"{source}/{datasets.group}")
    data, has_mask = group[datasets.data], datasets.mask in group
    shape = shape_of(data)
    axes, per_train = (2, shape[1]) if datasets.by_train and len(shape) > 1 else (1, 1)
    cells = number_column(group[datasets.cell_id], per_row=per_train).astype(np.int64)
    ids = {
        "trainId": number_column(group[datasets.train_id]).astype(np.uint64),
        "cellId": cells,
        # frames of a train are in the order of their pulses where nothing tells them
        "pulseId": (np.arange(len(cells)) % max(per_train, 1)).astype(np.uint64)
        if datasets.pulse_id is None
        else number_column(group[datasets.pulse_id]).astype(np.uint64),
    }
    n = min(len(train_ids), len(first), len(count))
    suspect = flagged(file, version, train_ids, valid)[:n]
    require_filters(data)
    about = ids, shape, data.dtype, has_mask, axes, per_train
    return _FileIndex(train_ids[:n], first[:n], count[:n], suspect, *about)


def _check_order(train_ids: np.ndarray, problem) -> None:
    ids = train_ids[(train_ids > 0) & (train_ids < _IMPOSSIBLE)].astype(np.int64)
    step = np.diff(ids)
    # what is farther off is a train of another run, and named as such
    back = np.flatnonzero((step < 0) & (step >= -FARTHEST_TRAIN))
    if len(back):
        problem("train IDs of INDEX decrease", ids[back[0] + 1], "frames matched by their IDs")


def _rows_of_trains(found: _FileIndex, problem) -> tuple[np.ndarray, np.ndarray]:
    """Return train ID and row of every frame that the INDEX names, as far as there are data."""
    train_ids, first, count = found.train_ids, found.first, found.count
    n_ids = {name: len(values) for name, values in found.ids.items()}
    usable = min(found.n_frames, *n_ids.values())
    if len({found.n_frames, *n_ids.values()}) > 1:
        counted = ", ".join(f"{n} {name}" for name, n in n_ids.items())
        problem(f"{found.n_frames} frames but {counted}")
    for t in np.flatnonzero((train_ids == 0) & (count > 0)):
        problem(f"train ID 0 at position {t} with {count[t]} frames")
    beyond = (count > 0) & ((first > usable) | (count > usable) | (first + count > usable))
    for t in np.flatnonzero(beyond):
        problem(
            f"INDEX names rows {first[t]} … {first[t] + count[t] - 1}, but there are {usable}",
            train_ids[t],
            "rows beyond left out",
        )
    first = np.minimum(first, usable)
    count = np.where(train_ids == 0, 0, np.minimum(count, usable - first))
    if count.sum() > 2 * usable:
        # garbage, and as many rows as trains times frames would be more than fits the memory
        count = _own_frames_only(train_ids, first, count, found.ids["trainId"], problem)
    train = np.repeat(train_ids, count)
    row = np.arange(len(train)) - np.repeat(np.cumsum(count) - count, count)
    return train, row + np.repeat(first, count)


def _own_frames_only(train_ids, first, count, frame_trains, problem) -> np.ndarray:
    """Return counts that end with the last frame of the train itself, int64 (train,)."""
    count, room = count.copy(), 2 * len(frame_trains)
    for t in np.flatnonzero(count):
        frames = frame_trains[first[t] : first[t] + count[t]]
        own = np.flatnonzero(frames == train_ids[t])
        least = int(own[-1]) + 1 if len(own) and own[-1] < room else 0
        if least < count[t]:
            problem(
                f"INDEX gives it {count[t]} frames, of which {len(own)} are its own", train_ids[t]
            )
        count[t] = least
        room -= least
    return count


def _check_rows(train, row, ids, number, problem, max_cells: int) -> ModuleRows:
    cell = ids["cellId"][row]
    wrong_train = ids["trainId"][row] != train
    wrong_cell = (cell < 0) | (cell >= max_cells)
    for t in np.unique(train[wrong_train]):
        n = int((wrong_train & (train == t)).sum())
        problem(f"{n} frames have another trainId than the INDEX says", t)
    for t in np.unique(train[wrong_cell]):
        worst = cell[wrong_cell & (train == t)].max()
        problem(f"cellId {worst}, expected 0 … {max_cells - 1}", t)
    good = ~(wrong_train | wrong_cell)
    return ModuleRows(
        train[good],
        cell[good].astype(np.uint16),
        ids["pulseId"][row[good]],
        np.full(int(good.sum()), number, np.int32),
        row[good].astype(np.int32),
    )
