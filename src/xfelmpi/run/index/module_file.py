"""The index of one file of a detector module, read as it stands, with every problem found.

A file of a usual format is opened once. Whatever is unusual about one leads to EXtra-data, which
knows every version of the format. The index arrays are always read here, because damage (a train ID
of 0, an index beyond the data) must be seen.
"""

import os
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

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
    plain_sources,
    read_access,
)
from xfelmpi.io.plain_values import is_there, plain_form
from xfelmpi.run.index.identity import FILE_LEFT_OUT, FileIdentity, identity
from xfelmpi.run.index.suspect_trains import OLDEST_FORMAT, SuspectTrain, flagged
from xfelmpi.run.train_index import first_and_count, listed_trains, read_column, shape_of

FARTHEST_TRAIN = 1_000_000
"""Trains (28 hours) from the run's median train beyond which a train ID cannot be of this run."""

_IMPOSSIBLE = np.uint64(1 << 63)


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


@dataclass(frozen=True)
class FileFrames:
    """Frames of one file in its order: `ModuleRows` without the number of the file."""

    train: np.ndarray
    cell: np.ndarray
    pulse: np.ndarray
    row: np.ndarray

    def of_file(self, number: int) -> ModuleRows:
        """Return them with the number that the file has in the index."""
        file = np.full(len(self.train), number, np.int32)
        return ModuleRows(self.train, self.cell, self.pulse, file, self.row)


@dataclass(frozen=True)
class SourceContent:
    """What a file has of one source, and every problem of it.

    Parameters
    ----------
    frames : FileFrames or None
        The usable ones. None if the file is not usable.
    trains, recorded : ndarray, uint64 (train,)
        Trains that it lists, and those of them with frames.
    about : tuple
        The further fields of `ModuleFile`: dtype, whether there are masks, the file's stamp, and
        the frames of a train if its rows are trains, else 0.
    problems : tuple of Problem
    suspects : tuple of SuspectTrain
    error : InputError, optional
        What ends the job if the file is used: its frames are packed with an unknown filter.
    """

    frames: FileFrames | None = None
    trains: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    recorded: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    about: tuple[str, bool, str, int] = ("", False, "", 0)
    problems: tuple[Problem, ...] = ()
    suspects: tuple[SuspectTrain, ...] = ()
    error: InputError | None = None


@dataclass(frozen=True)
class FileContent:
    """What one opening of a file found.

    Parameters
    ----------
    identity : FileIdentity or None
        None if it cannot be opened.
    sources : tuple of (str, str, int)
        Detector, source, module.
    by_source : dict of str to SourceContent
    problems : tuple of Problem
        Why nothing of it can be used.
    """

    identity: FileIdentity | None = None
    sources: tuple[tuple[str, str, int], ...] = ()
    by_source: dict[str, SourceContent] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


class ModuleFileReader:
    """Reads files one after the other, best those of one sequence: most modules' ids are alike.

    Ids that are those of the file before are kept once, and need no second look.

    Parameters
    ----------
    detector : str, optional
        Only its frames are read.
    """

    def __init__(self, detector: str | None = None):
        self._detector = detector
        self._before: tuple[Detector, bool, _FileIndex, SourceContent] | None = None

    def read(self, path: Path) -> FileContent:
        """Return what a file has; it is opened once, unless there is something odd about it."""
        number = module_of_file(path.name)
        stamp, found = _stamp(path), None
        try:
            found = guarded_call(path, _read_plainly, path, self._detector)
            names, about, indices = found
        except Exception:
            # whatever it is: EXtra-data knows every version of the format, or the error
            try:
                names, about = read_access(path, _read_sources, path)
            except Exception as error:
                what = f"file cannot be opened: {_one_line(error)}"
                return FileContent(problems=(Problem(what, path.name, number, 0, FILE_LEFT_OUT),))
            indices = {}
        sources = tuple(_sources_of_modules(names))
        if not sources:
            start = MODULE_FILE.fullmatch(path.name)["detector"]
            what = f"file has no {start} source"
            problem = Problem(what, path.name, number, 0, FILE_LEFT_OUT)
            return FileContent(about, problems=(problem,))
        wanted = [s for s in sources if self._detector in (None, s[0])]
        content = {
            source: self._content(path, device, source, module, about, stamp, indices.get(source))
            for device, source, module in wanted
        }
        return FileContent(about, sources, content)

    def _content(self, path, device, source, module, about, stamp, found) -> SourceContent:
        detector = detectors_of(device)[0]
        try:
            if found is None:
                stamp = file_stamp(path.stat())
                found = _read_with_care(path, source, about.version, detector.datasets)
            if _stamp(path) != stamp:
                text = "it changes at this moment: is the run being corrected again?"
                raise ChangedFileError(text)
        except InputError as error:
            return SourceContent(error=error)
        except Exception as error:
            what = f"file cannot be indexed: {_one_line(error)}"
            return SourceContent(problems=(Problem(what, path.name, module, 0, FILE_LEFT_OUT),))
        raw = path.name.startswith("RAW")
        if self._before is not None:
            *same_kind, index, before = self._before
            if same_kind == [detector, raw] and index.same_as(found):
                has = (found.dtype.str, found.has_mask, stamp, before.about[3])
                return replace(before, about=has)
        content = _checked_content(path, module, found, stamp, detector)
        if content.frames is not None and not (content.problems or content.suspects):
            self._before = detector, raw, found, content
        return content


def _stamp(path: Path) -> str:
    """Return a file's stamp, empty if it cannot be had."""
    try:
        return file_stamp(path.stat())
    except OSError:
        return ""


def _sources_of_modules(names) -> list[tuple[str, str, int]]:
    """Return (detector, source, module) of sources; a modern name wins over its legacy link."""
    best: dict[tuple[str, int], str] = {}
    for source in sorted(names):  # CORR sorts before DET
        if found := find_source(source):
            best.setdefault(found, source)
    return [(detector, source, module) for (detector, module), source in best.items()]


def _read_plainly(path: Path, detector: str | None):
    """Return sources, identity, and the indices by source, of a file of a usual format.

    Raises
    ------
    Exception
        Of any class if the file is unusual or damaged: it must be read with more care.
    """
    with open_hdf5(path) as file:
        version, names = plain_sources(file)
        about = identity(file, path, version, plain=True)
        indices = {
            source: _read_index(file, source, version, detectors_of(device)[0].datasets)
            for device, source, _ in _sources_of_modules(names)
            if detector in (None, device)
        }
        return names, about, indices


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


def _read_with_care(path: Path, source: str, version: str, datasets: FrameDatasets):
    if version == OLDEST_FORMAT:
        # only EXtra-data tells what is suspect there
        return read_access(path, _read_oldest_index, source, datasets)
    return guarded_call(path, _read_newer_index, path, source, version, datasets)


def _checked_content(
    path: Path, module: int, found: "_FileIndex", stamp: str, detector: Detector
) -> SourceContent:
    """Return the usable frames of one file, and every problem of the others."""
    problems: list[Problem] = []

    def problem(what, train=0, action="frames left out"):
        problems.append(Problem(what, path.name, module, int(train), action))

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
        return SourceContent(problems=tuple(problems))
    per_train = found.per_train if detector.datasets.by_train else 0
    if found.per_train > 1:
        found = _by_frame(found)
    _check_order(found.train_ids, problem)
    train, row = _rows_of_trains(found, problem)
    suspects: tuple[SuspectTrain, ...] = ()
    if found.suspect.any():
        flagged_trains = np.intersect1d(found.train_ids[found.suspect], train)
        suspects = tuple(SuspectTrain(int(t), module, path.name) for t in flagged_trains)
    frames = _check_rows(train, row, found.ids, problem, detector.max_cells)
    n = min(len(found.train_ids), len(found.count))
    recorded = found.train_ids[:n][found.count[:n] > 0]
    about = found.dtype.str, found.has_mask, stamp, per_train
    return SourceContent(frames, found.train_ids, recorded, about, tuple(problems), suspects)


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

    def same_as(self, other: "_FileIndex") -> bool:
        """Return whether another file says the same of its trains and frames, to the byte."""
        mine, others = ([x.train_ids, x.first, x.count, x.suspect] for x in (self, other))
        mine += self.ids.values()
        others += other.ids.values()
        about, of_other = ((x.shape, x.dtype, x.frame_axes, x.per_train) for x in (self, other))
        return about == of_other and all(map(np.array_equal, mine, others))

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
    group = f"INSTRUMENT/{source}"
    train_ids = listed_trains(file)
    first, count = first_and_count(file, f"{source}/{datasets.group}")
    has_mask = is_there(file, f"{group}/{datasets.mask}")
    shape, dtype = _form(file, f"{group}/{datasets.data}")
    axes, per_train = (2, shape[1]) if datasets.by_train and len(shape) > 1 else (1, 1)
    cells = read_column(file, f"{group}/{datasets.cell_id}", per_row=per_train).astype(np.int64)
    ids = {
        "trainId": read_column(file, f"{group}/{datasets.train_id}").astype(np.uint64),
        "cellId": cells,
        # frames of a train are in the order of their pulses where nothing tells them
        "pulseId": (np.arange(len(cells)) % max(per_train, 1)).astype(np.uint64)
        if datasets.pulse_id is None
        else read_column(file, f"{group}/{datasets.pulse_id}").astype(np.uint64),
    }
    n = min(len(train_ids), len(first), len(count))
    suspect = flagged(file, version, train_ids, valid)[:n]
    about = ids, shape, dtype, has_mask, axes, per_train
    return _FileIndex(train_ids[:n], first[:n], count[:n], suspect, *about)


def _form(file, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and dtype of frames, which HDF5 must be able to unpack."""
    if form := plain_form(file, name):
        return form
    data = file[name]
    shape = shape_of(data)
    require_filters(data)
    return shape, data.dtype


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


def _check_rows(train, row, ids, problem, max_cells: int) -> FileFrames:
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
    if not good.all():
        train, cell, row = train[good], cell[good], row[good]
    return FileFrames(train, cell.astype(np.uint16), ids["pulseId"][row], row.astype(np.int32))
