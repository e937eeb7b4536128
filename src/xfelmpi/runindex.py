"""The run's files → which frame is where, and every problem found on the way. One rank does this.

A frame is named by (trainId, cellId); modules are joined by these ids, never by position. Files
are opened by EXtra-data, which knows every version of the format; the index arrays are read as
they stand in the file, because damage (a train ID of 0, an index beyond the data) must be seen.
"""

import re
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from xfelmpi.detector import N_MODULES
from xfelmpi.errors import InputError
from xfelmpi.frametable import FrameTable, ModuleFile
from xfelmpi.modulefile import (
    FARTHEST_TRAIN,
    ModuleRows,
    agipd_sources,
    module_files,
    read_module_file,
    start_time,
)
from xfelmpi.records import Problem
from xfelmpi.suspecttrains import SuspectTrain, suspect_problems

_CELL_SLOTS = 512

_IMPOSSIBLE_TRAIN = np.uint64(1 << 53)
"""No train ID of the next million years, and the largest for which the sorting key fits 64 bits."""


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


def index_run(
    folder: Path,
    kind: str,
    detector: str | None = None,
    trains: tuple[int | None, int | None] = (None, None),
    suspect_trains: str = "include",
) -> RunIndex:
    """Return the index of some trains of a run folder; see `index_files`, `slice_trains`."""
    return slice_trains(index_files(folder, kind, detector, suspect_trains), trains, folder)


def index_files(
    folder: Path, kind: str, detector: str | None = None, suspect_trains: str = "include"
) -> RunIndex:
    """Index the AGIPD frames of a run folder; what modules lack is not among its problems yet.

    Parameters
    ----------
    folder : Path
        E.g. ``proc/r0050``.
    kind : str
        ``proc`` or ``raw``.
    detector : str, optional
        Which detector; default: the one AGIPD-1M in the run.
    suspect_trains : str
        Whether to ``include`` or ``exclude`` what files flag as suspect.

    Raises
    ------
    InputError
        If there is no such folder, or no usable frame of an AGIPD in it.
    """
    paths = module_files(folder, kind)
    files: list[ModuleFile] = []
    problems: list[Problem] = []
    suspects: list[SuspectTrain] = []
    sources: dict[str, list[tuple[Path, str, int]]] = {}
    for path in paths:
        for prefix, source, module in agipd_sources(path, problems):
            sources.setdefault(prefix, []).append((path, source, module))
    detector = _choose_detector(detector, sources, folder, problems)
    exclude = suspect_trains == "exclude"
    modules = _read_modules(sources[detector], files, problems, suspects, exclude)
    _drop_foreign_trains(modules, files, problems)
    if not any(len(m.key) for m in modules.values()):
        raise InputError(f"{folder}: no usable frame of {detector} in {len(paths)} files")
    frames = _merge(modules, problems)
    modules_in_run = int(((frames.file >= 0).any(axis=0) << np.arange(N_MODULES)).sum())
    problems += suspect_problems(suspects, suspect_trains, *_modules_of_trains(frames))
    example = sources[detector][0][1]
    return RunIndex(
        kind,
        detector,
        re.sub(r"/\d+CH0", "/*CH0", example),
        tuple(files),
        frames,
        modules_in_run,
        tuple(dict.fromkeys(problems)),
        start_time=start_time(Path(files[0].path)),
    )


def _modules_of_trains(frames: FrameTable) -> tuple[np.ndarray, np.ndarray]:
    """Return the trains, ascending, and which modules have frames of them, a bit for each."""
    trains, first = np.unique(frames.train_id, return_index=True)
    there = np.logical_or.reduceat(frames.file >= 0, first, axis=0)
    return trains, there @ (1 << np.arange(N_MODULES))


def _read_modules(sources, files, problems, suspects, exclude) -> dict[int, "_Module"]:
    """Read the ids of all modules, one after the other: only one is in memory as in its files."""
    modules: dict[int, _Module] = {}
    in_order = sorted(sources, key=lambda found: found[2])
    for module, group in groupby(in_order, key=lambda found: found[2]):
        parts = []
        for path, source, _ in group:
            found = read_module_file(path, source, module, len(files), problems, new := [])
            suspects += new
            if found is not None:
                rows = found[0]
                if exclude and new:
                    rows = rows.keep(~np.isin(rows.train, [s.train for s in new]))
                dataset = f"INSTRUMENT/{source}/image/data"
                files.append(ModuleFile(str(path), module, dataset, *found[1:]))
                parts.append(rows)
        if sum(len(part.train) for part in parts):
            modules[module] = _tidy(module, parts, files, problems, modules)
    return modules


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


@dataclass(frozen=True)
class _Module:
    # a module's frames in ascending order of trainId * 512 + cellId, each once
    key: np.ndarray
    pulse: np.ndarray
    file: np.ndarray
    row: np.ndarray

    def keep(self, which) -> "_Module":
        return _Module(self.key[which], self.pulse[which], self.file[which], self.row[which])


def _tidy(module: int, parts: list[ModuleRows], files, problems, others) -> _Module:
    """Sort a module's frames; of frames with the same ids the first in the files is kept."""
    names = ModuleRows.__dataclass_fields__
    rows = ModuleRows(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))
    parts.clear()
    impossible = rows.train >= _IMPOSSIBLE_TRAIN
    if impossible.any():
        for t in np.unique(rows.train[impossible]):
            file = files[rows.file[np.flatnonzero(rows.train == t)[0]]]
            problems.append(_foreign(file, module, t))
        rows = rows.keep(~impossible)
    key = (rows.train * np.uint64(_CELL_SLOTS)).astype(np.int64) + rows.cell
    _, first = np.unique(key, return_index=True)
    if len(first) < len(key):
        problems += _repeated(module, rows, first, files)
    tidy = _Module(key[first], rows.pulse[first], rows.file[first], rows.row[first])
    for other in others.values():
        # as a rule all modules have the same frames: their ids are kept once
        if np.array_equal(other.key, tidy.key) and np.array_equal(other.pulse, tidy.pulse):
            return replace(tidy, key=other.key, pulse=other.pulse)
    return tidy


def _repeated(module: int, rows: ModuleRows, first: np.ndarray, files) -> list[Problem]:
    repeated = np.ones(len(rows.train), bool)
    repeated[first] = False
    problems = []
    for t in np.unique(rows.train[repeated]):
        these = np.flatnonzero(repeated & (rows.train == t))
        what = f"{len(these)} frames have ids that were there before"
        file = Path(files[rows.file[these[0]]].path).name
        problems.append(Problem(what, file, module, int(t), "first ones kept, these left out"))
    return problems


def _foreign(file: ModuleFile, module: int, train) -> Problem:
    name = Path(file.path).name
    return Problem("train ID far outside the run", name, module, int(train), "frames left out")


def _drop_foreign_trains(modules: dict[int, _Module], files, problems) -> None:
    """Leave out, in place, frames whose train ID cannot be of this run."""
    if not modules:
        return
    trains = np.concatenate([np.unique(m.key // _CELL_SLOTS) for m in modules.values()])
    middle = np.sort(trains)[len(trains) // 2] if len(trains) else 0
    if not (np.abs(trains - middle) > FARTHEST_TRAIN).any():
        return
    for number, module in modules.items():
        train = module.key // _CELL_SLOTS
        far = np.abs(train - middle) > FARTHEST_TRAIN
        for t in np.unique(train[far]):
            file = files[module.file[np.flatnonzero(train == t)[0]]]
            problems.append(_foreign(file, number, t))
        modules[number] = module.keep(~far)


def _merge(modules: dict[int, _Module], problems: list[Problem]) -> FrameTable:
    """Join the modules by their frames' ids; `modules` is emptied on the way, to save memory."""
    union = next(iter(modules.values())).key
    for module in modules.values():
        if module.key is not union and not np.array_equal(module.key, union):
            union = np.union1d(union, module.key)
    n = len(union)
    pulse = np.zeros(n, np.uint64)
    known = np.zeros(n, bool)
    file = np.full((n, N_MODULES), -1, np.int32)
    row = np.zeros((n, N_MODULES), np.int32)
    for m in sorted(modules):
        module = modules.pop(m)
        at = np.searchsorted(union, module.key)
        file[at, m] = module.file
        row[at, m] = module.row
        differs = known[at] & (pulse[at] != module.pulse)
        problems += [
            Problem("pulseId differs from that of other modules", "", m, int(t), "lowest one used")
            for t in np.unique(module.key[differs] // _CELL_SLOTS)
        ]
        new = ~known[at]
        pulse[at[new]] = module.pulse[new]
        known[at] = True
    train_id = (union // _CELL_SLOTS).astype(np.uint64)
    return FrameTable(train_id, (union % _CELL_SLOTS).astype(np.uint16), pulse, file, row)


def slice_trains(index: RunIndex, trains: tuple[int | None, int | None], folder: Path) -> RunIndex:
    """Return the index of some trains of a run, with what modules lack there among its problems.

    Which modules are in the run, and so which frames are complete, does not depend on the slice.

    Parameters
    ----------
    index : RunIndex
        Of the whole run.
    trains : (int or None, int or None)
        Slice of the trains, by position.
    folder : Path
        Of the run, for the message.

    Raises
    ------
    InputError
        If there are none.
    """
    frames = index.frames
    if trains != (None, None):
        all_trains = np.unique(frames.train_id)
        wanted = all_trains[slice(*trains)]
        if not len(wanted):
            raise InputError(
                f"{folder}: --trains {trains[0] or 0}:{trains[1] or ''} selects none of its "
                f"{len(all_trains)} trains"
            )
        first, end = np.searchsorted(frames.train_id, [wanted[0], wanted[-1] + np.uint64(1)])
        frames = frames[first:end]
    problems = (*index.problems, *_gaps(frames, index.modules_in_run))
    return replace(index, frames=frames, problems=tuple(dict.fromkeys(problems)))


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
        problems += [
            Problem(
                f"module lacks {missing[t]} of {n_frames[t]} frames",
                "",
                m,
                int(trains[t]),
                "frames incomplete: no hit decision",
            )
            for t in np.flatnonzero((missing > 0) & ~whole)
        ]
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
