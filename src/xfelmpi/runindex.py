"""The run's files → which frame is where, and every problem found on the way. One rank does this.

A frame is named by (trainId, cellId); modules are joined by these ids, never by position. Files
are opened by EXtra-data, which knows every version of the format; the index arrays are read as
they stand in the file, because damage (a train ID of 0, an index beyond the data) must be seen.
"""

import re
import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from xfelmpi.detector import MAX_CELLS, MODULE_SHAPE, N_MODULES
from xfelmpi.errors import InputError
from xfelmpi.records import Problem

_FILE_NAME = re.compile(r"(RAW|CORR)-R\d{4}-AGIPD(\d\d)-S(\d{5})\.h5")
_SOURCE = re.compile(r"(.+)/(CORR|DET)/(\d+)CH0:(output|xtdf)")

FARTHEST_TRAIN = 1_000_000
"""Trains (28 hours) from the run's median train beyond which a train ID cannot be of this run."""

_CELL_SLOTS = 512


@dataclass(frozen=True)
class ModuleFile:
    """One file with frames of one module.

    Parameters
    ----------
    path : str
        The file.
    module : int
        Module number.
    dataset : str
        Path of the frames in the file.
    """

    path: str
    module: int
    dataset: str


@dataclass(frozen=True)
class FrameTable:
    """Frames in ascending (trainId, cellId) order, and where each module has them.

    Parameters
    ----------
    train_id, pulse_id : ndarray, uint64 (frame,)
    cell_id : ndarray, uint16 (frame,)
    file : ndarray, int32 (frame, 16)
        Index of the file that has the module's frame, -1 where the module lacks it.
    row : ndarray, int32 (frame, 16)
        Row in that file's dataset.
    """

    train_id: np.ndarray
    cell_id: np.ndarray
    pulse_id: np.ndarray
    file: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.train_id)

    def __getitem__(self, rows) -> "FrameTable":
        return FrameTable(
            self.train_id[rows],
            self.cell_id[rows],
            self.pulse_id[rows],
            self.file[rows],
            self.row[rows],
        )


@dataclass(frozen=True)
class RunIndex:
    """Everything known of a run before its frames are read.

    Parameters
    ----------
    kind : str
        ``raw`` or ``proc``.
    detector : str
        E.g. ``SPB_DET_AGIPD1M-1``.
    source : str
        Pattern of the sources used, for the log.
    files : tuple of ModuleFile
    frames : FrameTable
    modules_in_run : int
        Bit m set: module m has at least one frame.
    problems : tuple of Problem
    notes : tuple of str
        What the log should say.
    start_time : str
        ISO 8601 with zone, from the files' metadata, or empty.
    """

    kind: str
    detector: str
    source: str
    files: tuple[ModuleFile, ...]
    frames: FrameTable
    modules_in_run: int
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    start_time: str = ""


@dataclass(frozen=True)
class _Rows:
    # frames of one module as they stand in its files
    train: np.ndarray
    cell: np.ndarray
    pulse: np.ndarray
    file: np.ndarray
    row: np.ndarray

    def keep(self, which) -> "_Rows":
        return _Rows(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def index_run(
    folder: Path,
    kind: str,
    detector: str | None = None,
    trains: tuple[int | None, int | None] = (None, None),
) -> RunIndex:
    """Index the AGIPD frames of a run folder.

    Parameters
    ----------
    folder : Path
        E.g. ``proc/r0050``.
    kind : str
        ``proc`` or ``raw``.
    detector : str, optional
        Which detector; default: the one AGIPD-1M in the run.
    trains : (int or None, int or None)
        Slice of the trains, by position.

    Raises
    ------
    InputError
        If there is no such folder, or no usable frame of an AGIPD in it.
    """
    paths = _module_files(folder, kind)
    files: list[ModuleFile] = []
    rows: dict[int, list[_Rows]] = {}
    problems: list[Problem] = []
    notes: list[str] = []
    sources: dict[str, list[tuple[Path, str, int]]] = {}
    for path in paths:
        for prefix, source, module in _sources_of(path, problems):
            sources.setdefault(prefix, []).append((path, source, module))
    detector = _choose_detector(detector, sources, folder, problems)
    for path, source, module in sources[detector]:
        found = _read_file(path, source, module, len(files), problems, notes)
        if found is not None:
            files.append(ModuleFile(str(path), module, f"INSTRUMENT/{source}/image/data"))
            rows.setdefault(module, []).append(found)
    modules = {m: _join(parts) for m, parts in rows.items()}
    modules = _drop_foreign_trains(modules, files, problems)
    modules = {m: _drop_repeated(m, r, files, problems) for m, r in modules.items()}
    if not any(len(r.train) for r in modules.values()):
        raise InputError(f"{folder}: no usable frame of {detector} in {len(paths)} files")
    frames = _merge(modules, problems)
    frames = _slice_trains(frames, trains, folder)
    modules_in_run = int(((frames.file >= 0).any(axis=0) << np.arange(N_MODULES)).sum())
    problems += _gaps(frames, modules_in_run)
    example = sources[detector][0][1]
    return RunIndex(
        kind,
        detector,
        re.sub(r"/\d+CH0", "/*CH0", example),
        tuple(files),
        frames,
        modules_in_run,
        tuple(dict.fromkeys(problems)),
        tuple(dict.fromkeys(notes)),
        _start_time(files[0]),
    )


def _start_time(about: ModuleFile) -> str:
    """Return the creation date in a file's metadata, which is UTC."""
    dates = _open(Path(about.path)).file.get("METADATA/creationDate")
    try:
        stamp = bytes(dates[0]).decode("ascii")
        return datetime.strptime(stamp, "%Y%m%dT%H%M%S%z").isoformat()
    except (TypeError, IndexError, ValueError):  # no date, or not in this form
        return ""


def _module_files(folder: Path, kind: str) -> list[Path]:
    try:
        names = sorted(p.name for p in folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: no such run ({error.strerror})") from None
    wanted = "CORR" if kind == "proc" else "RAW"
    found = [folder / n for n in names if (m := _FILE_NAME.fullmatch(n)) and m[1] == wanted]
    if not found:
        raise InputError(
            f"{folder}: no AGIPD files; found {len(names)} files, expected {wanted}-R….-AGIPD00-"
            "S00000.h5 and so on"
        )
    return found


def _open(path: Path):
    # extra_data takes a second to import: only the rank that indexes pays for it
    from extra_data.file_access import FileAccess

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return FileAccess(str(path))


def _sources_of(path: Path, problems: list[Problem]) -> list[tuple[str, str, int]]:
    """Return (detector, source, module) of a file; a modern name wins over its legacy link."""
    number = int(_FILE_NAME.fullmatch(path.name)[2])
    try:
        names = _open(path).instrument_sources
    except Exception as error:
        problems.append(
            Problem(
                f"file cannot be opened: {_one_line(error)}", path.name, number, 0, "file left out"
            )
        )
        return []
    best: dict[tuple[str, int], str] = {}
    for name in sorted(names):  # CORR sorts before DET
        if (m := _SOURCE.fullmatch(name)) and int(m[3]) < N_MODULES:
            best.setdefault((m[1], int(m[3])), name)
    if not best:
        problems.append(Problem("file has no AGIPD source", path.name, number, 0, "file left out"))
    return [(detector, source, module) for (detector, module), source in best.items()]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _choose_detector(wanted, sources, folder, problems) -> str:
    if not sources:
        first = f" ({problems[0].file}: {problems[0].what})" if problems else ""
        raise InputError(f"{folder}: none of its AGIPD files can be used{first}")
    if wanted is None and len(sources) > 1:
        raise InputError(
            f"{folder}: several detectors: {', '.join(sorted(sources))}; choose one with --detector"
        )
    if wanted is not None and wanted not in sources:
        raise InputError(f"{folder}: no detector {wanted}; found {', '.join(sorted(sources))}")
    return wanted or next(iter(sources))


def _read_file(path, source, module, number, problems, notes) -> _Rows | None:
    """Return the usable frames of one file, or None; what is not usable becomes a problem."""

    def problem(what, train=0, action="frames left out"):
        problems.append(Problem(what, path.name, module, int(train), action))

    try:
        access = _open(path)
        file = access.file
        image = file[f"INSTRUMENT/{source}/image"]
        train_ids = file["INDEX/trainId"][:].astype(np.uint64).reshape(-1)
        first, count = _first_count(file[f"INDEX/{source}/image"])
        ids = {
            k: image[k][:].reshape(-1).astype(np.int64 if k == "cellId" else np.uint64)
            for k in ("trainId", "cellId", "pulseId")
        }
        data = image["data"]
        shape, dtype = data.shape, data.dtype
        if (~access.validity_flag).any():
            notes.append("some trains are flagged suspect in INDEX/flag; they are included")
        access.close()
    except Exception as error:
        problem(f"file cannot be indexed: {_one_line(error)}", action="file left out")
        return None
    if shape[-2:] != MODULE_SHAPE or len(shape) not in (3, 4) or dtype.kind not in "uif":
        problem(
            f"frames are {dtype} {shape}, expected numbers (N, 512, 128)", action="file left out"
        )
        return None
    usable = min(shape[0], *(len(v) for v in ids.values()))
    if len({shape[0], *(len(v) for v in ids.values())}) > 1:
        problem(f"{shape[0]} frames but {', '.join(f'{len(v)} {k}' for k, v in ids.items())}")
    n = min(len(train_ids), len(first), len(count))
    train_ids, first, count = train_ids[:n], first[:n], count[:n]
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
    train = np.repeat(train_ids, count)
    row = np.arange(len(train)) - np.repeat(np.cumsum(count) - count, count)
    row += np.repeat(first, count)
    return _check_rows(train, row, ids, number, problem)


def _first_count(group) -> tuple[np.ndarray, np.ndarray]:
    first = group["first"][:].reshape(-1)
    if "count" in group:
        count = group["count"][:].reshape(-1)
    else:  # files older than format 0.5
        count = (group["last"][:] - first + 1) * group["status"][:]
    # a garbage value of more than 62 bits stays a large number
    limit = np.uint64(1 << 40)
    return (
        np.minimum(first.astype(np.uint64), limit).astype(np.int64),
        np.minimum(count.astype(np.uint64), limit).astype(np.int64),
    )


def _check_rows(train, row, ids, number, problem) -> _Rows:
    cell = ids["cellId"][row]
    wrong_train = ids["trainId"][row] != train
    wrong_cell = (cell < 0) | (cell >= MAX_CELLS)
    for t in np.unique(train[wrong_train]):
        n = int((wrong_train & (train == t)).sum())
        problem(f"{n} frames have another trainId than the INDEX says", t)
    for t in np.unique(train[wrong_cell]):
        problem(f"cellId {cell[wrong_cell & (train == t)].max()}, expected 0 … {MAX_CELLS - 1}", t)
    good = ~(wrong_train | wrong_cell)
    return _Rows(
        train[good],
        cell[good].astype(np.uint16),
        ids["pulseId"][row[good]],
        np.full(int(good.sum()), number, np.int32),
        row[good].astype(np.int32),
    )


def _join(parts: list[_Rows]) -> _Rows:
    names = _Rows.__dataclass_fields__
    return _Rows(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


def _drop_foreign_trains(modules, files, problems) -> dict[int, _Rows]:
    trains = np.concatenate([np.unique(r.train) for r in modules.values()] or [[]])
    if not len(trains):
        return modules
    middle = np.sort(trains)[len(trains) // 2]
    kept = {}
    for m, r in modules.items():
        far = np.where(r.train > middle, r.train - middle, middle - r.train) > FARTHEST_TRAIN
        for t in np.unique(r.train[far]):
            file = files[r.file[np.flatnonzero(r.train == t)[0]]].path
            problems.append(
                Problem(
                    "train ID far outside the run", Path(file).name, m, int(t), "frames left out"
                )
            )
        kept[m] = r.keep(~far)
    return kept


def _key(train: np.ndarray, cell: np.ndarray, origin) -> np.ndarray:
    return ((train - origin) * np.uint64(_CELL_SLOTS)).astype(np.int64) + cell


def _drop_repeated(module, rows: _Rows, files, problems) -> _Rows:
    """Sort a module's frames; of frames with the same ids the first in the files is kept."""
    if not len(rows.train):
        return rows
    key = _key(rows.train, rows.cell, rows.train.min())
    _, first = np.unique(key, return_index=True)
    if len(first) < len(key):
        repeated = np.ones(len(key), bool)
        repeated[first] = False
        for t in np.unique(rows.train[repeated]):
            these = np.flatnonzero(repeated & (rows.train == t))
            problems.append(
                Problem(
                    f"{len(these)} frames have ids that were there before",
                    Path(files[rows.file[these[0]]].path).name,
                    module,
                    int(t),
                    "first ones kept, these left out",
                )
            )
    return rows.keep(first)


def _merge(modules: dict[int, _Rows], problems: list[Problem]) -> FrameTable:
    origin = min(r.train[0] for r in modules.values() if len(r.train))
    keys = {m: _key(r.train, r.cell, origin) for m, r in sorted(modules.items())}
    union = next(iter(keys.values()))
    for key in keys.values():
        if not np.array_equal(key, union):
            union = np.union1d(union, key)
    n = len(union)
    pulse = np.zeros(n, np.uint64)
    known = np.zeros(n, bool)
    file = np.full((n, N_MODULES), -1, np.int32)
    row = np.zeros((n, N_MODULES), np.int32)
    train_id = (union // _CELL_SLOTS).astype(np.uint64) + origin
    for m, key in keys.items():
        at = np.searchsorted(union, key)
        file[at, m] = modules[m].file
        row[at, m] = modules[m].row
        differs = known[at] & (pulse[at] != modules[m].pulse)
        for t in np.unique(train_id[at[differs]]):
            problems.append(
                Problem(
                    "pulseId differs from that of other modules",
                    "",
                    m,
                    int(t),
                    "lowest module's pulseId used",
                )
            )
        new = at[~known[at]]
        pulse[new] = modules[m].pulse[~known[at]]
        known[at] = True
    return FrameTable(train_id, (union % _CELL_SLOTS).astype(np.uint16), pulse, file, row)


def _slice_trains(frames: FrameTable, trains, folder) -> FrameTable:
    if trains == (None, None):
        return frames
    all_trains = np.unique(frames.train_id)
    wanted = all_trains[slice(*trains)]
    if not len(wanted):
        raise InputError(
            f"{folder}: --trains {trains[0] or 0}:{trains[1] or ''} selects none of its "
            f"{len(all_trains)} trains"
        )
    first, end = np.searchsorted(frames.train_id, [wanted[0], wanted[-1] + np.uint64(1)])
    return frames[first:end]


def _gaps(frames: FrameTable, modules_in_run: int) -> list[Problem]:
    """Name what modules lack: whole trains (in runs of them), parts of trains, everything."""
    problems = []
    trains, train_of_frame, n_frames = np.unique(
        frames.train_id, return_inverse=True, return_counts=True
    )
    for m in range(N_MODULES):
        if not modules_in_run >> m & 1:
            problems.append(
                Problem(
                    "module has no frames in the whole run", "", m, 0, "its pixels count as missing"
                )
            )
            continue
        missing = np.bincount(train_of_frame, frames.file[:, m] < 0, len(trains)).astype(int)
        whole = missing == n_frames
        for t in np.flatnonzero((missing > 0) & ~whole):
            problems.append(
                Problem(
                    f"module lacks {missing[t]} of {n_frames[t]} frames",
                    "",
                    m,
                    int(trains[t]),
                    "frames incomplete: no hit decision",
                )
            )
        edges = np.flatnonzero(np.diff(np.concatenate([[0], whole, [0]])))
        for a, b in zip(edges[::2], edges[1::2], strict=True):
            last = f" … {trains[b - 1]}" if b - a > 1 else ""
            problems.append(
                Problem(
                    f"module lacks {b - a} trains: {trains[a]}{last}",
                    "",
                    m,
                    int(trains[a]),
                    "frames incomplete: no hit decision",
                )
            )
    return problems
