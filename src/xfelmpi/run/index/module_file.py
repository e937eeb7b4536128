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
from xfelmpi.io.dataset_storage import require_readable
from xfelmpi.io.facility_file import plain_sources, plain_text, read_access
from xfelmpi.io.input_file import (
    ChangedFileError,
    file_stamp,
    guarded_call,
    open_hdf5,
)
from xfelmpi.io.links import require_files
from xfelmpi.io.plain_values import has_object, plain_form
from xfelmpi.run.frames.frame_origin import require_one_owner, require_own
from xfelmpi.run.index.file_index import (
    FileFrames,
    FileIndex,
    check_order,
    frames_with_possible_ids,
    indexed_rows,
    unlisted_frames,
)
from xfelmpi.run.index.identity import FILE_LEFT_OUT, FileIdentity, identity
from xfelmpi.run.index.suspect_trains import OLDEST_FORMAT, SuspectTrain, flagged
from xfelmpi.run.train_index import first_and_count, listed_trains, read_column, shape_of


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
    unlisted : (ndarray, ndarray)
        Train and cell, int64 (frame,), of frames that the INDEX does not name.
    """

    frames: FileFrames | None = None
    trains: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    recorded: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    about: tuple[str, bool, str, int] = ("", False, "", 0)
    problems: tuple[Problem, ...] = ()
    suspects: tuple[SuspectTrain, ...] = ()
    error: InputError | None = None
    unlisted: tuple[np.ndarray, np.ndarray] = field(
        default_factory=lambda: (np.zeros(0, np.int64), np.zeros(0, np.int64))
    )


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
        self._before: tuple[Detector, bool, FileIndex, SourceContent] | None = None

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
        version, names, _ = plain_sources(file)
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
        stamp = guarded_call(path, _plain_creation_date, path)
        if stamp is None:
            stamp = read_access(path, _creation_date)
        return datetime.strptime(stamp, "%Y%m%dT%H%M%S%z").isoformat()
    except Exception:  # no date, not in this form, or damaged
        return ""


def _plain_creation_date(path: Path) -> str | None:
    """Return the creation date without EXtra-data, which takes long to import; None if unusual."""
    with open_hdf5(path) as file:
        return plain_text(file, "creationDate")


def _creation_date(access) -> str:
    return bytes(access.file["METADATA/creationDate"][0]).decode("ascii")


def _read_with_care(path: Path, source: str, version: str, datasets: FrameDatasets):
    if version == OLDEST_FORMAT:
        # only EXtra-data tells what is suspect there
        return read_access(path, _read_oldest_index, source, datasets)
    return guarded_call(path, _read_newer_index, path, source, version, datasets)


def _checked_content(
    path: Path, module: int, found: FileIndex, stamp: str, detector: Detector
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
        found = found.by_frame()
    check_order(found.train_ids, problem)
    train, row = indexed_rows(found, problem)
    unlisted = unlisted_frames(found, row)
    suspects: tuple[SuspectTrain, ...] = ()
    if found.suspect.any():
        flagged_trains = np.intersect1d(found.train_ids[found.suspect], train)
        suspects = tuple(SuspectTrain(int(t), module, path.name) for t in flagged_trains)
    frames = frames_with_possible_ids(train, row, found.ids, problem, detector.max_cells)
    n = min(len(found.train_ids), len(found.count))
    recorded = found.train_ids[:n][found.count[:n] > 0]
    about = found.dtype.str, found.has_mask, stamp, per_train
    return SourceContent(
        frames,
        found.train_ids,
        recorded,
        about,
        tuple(problems),
        suspects,
        unlisted=unlisted,
    )


def _read_oldest_index(access, source: str, datasets: FrameDatasets) -> FileIndex:
    return _read_index(access.file, source, OLDEST_FORMAT, datasets, access.validity_flag)


def _read_newer_index(path: Path, source: str, version: str, datasets: FrameDatasets) -> FileIndex:
    # EXtra-data has opened the file before, and its strings were checked then
    with open_hdf5(path) as file:
        return _read_index(file, source, version, datasets)


def _read_index(file, source: str, version: str, datasets: FrameDatasets, valid=None) -> FileIndex:
    group = f"INSTRUMENT/{source}"
    names = (datasets.mask, datasets.data, datasets.cell_id, datasets.train_id, datasets.pulse_id)
    linked = require_files(file, f"INDEX/{source}/{datasets.group}/*")
    linked += require_files(file, *(f"{group}/{name}" for name in names if name))
    for name in linked:
        # masks are not needed without --mask run
        if name != f"{group}/{datasets.mask}":
            require_own(file, name)
    require_one_owner(file, source, datasets.data)
    train_ids = listed_trains(file)
    first, count = first_and_count(file, f"{source}/{datasets.group}")
    has_mask = has_object(file, f"{group}/{datasets.mask}")
    shape, dtype = _form(file, f"{group}/{datasets.data}")
    axes, per_train = (2, shape[1]) if datasets.by_train and len(shape) > 1 else (1, 1)
    cells = read_column(file, f"{group}/{datasets.cell_id}", per_row=per_train).astype(np.int64)
    ids = {
        "trainId": read_column(file, f"{group}/{datasets.train_id}").astype(np.uint64, copy=False),
        "cellId": cells,
        # frames of a train are in the order of their pulses where nothing tells them
        "pulseId": (np.arange(len(cells)) % max(per_train, 1)).astype(np.uint64)
        if datasets.pulse_id is None
        else read_column(file, f"{group}/{datasets.pulse_id}").astype(np.uint64, copy=False),
    }
    n = min(len(train_ids), len(first), len(count))
    suspect = flagged(file, version, train_ids, valid)[:n]
    about = ids, shape, dtype, has_mask, axes, per_train
    return FileIndex(train_ids[:n], first[:n], count[:n], suspect, *about)


def _form(file, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and dtype of frames, which HDF5 must be able to unpack."""
    if form := plain_form(file, name):
        return form
    data = file[name]
    shape = shape_of(data)
    require_readable(data)
    return shape, data.dtype
