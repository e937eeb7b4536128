"""The frames of every module in order, each once; and all modules joined by their frames' ids."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from xfelmpi.core.frame_table import (
    FARTHEST_TRAIN,
    FrameTable,
    ModuleFile,
    differs_from_last,
    file_type,
)
from xfelmpi.core.problems import Problem
from xfelmpi.run.index.file_index import FileFrames, ModuleRows
from xfelmpi.run.index.settle_ids import settle_cells, settle_pulses

_CELL_BITS = 16
"""Of the sorting key: as many as a cellId has, so that no two frames of any detector have one."""

_AT_ONCE = 4096
"""Frames whose places are put into the table at a time."""

_IMPOSSIBLE_TRAIN = np.uint64(1 << 47)
"""No train ID of the next 400,000 years, and the largest for which the sorting key fits 64 bits."""


@dataclass(frozen=True)
class ModuleFrames:
    """The frames of a module in ascending order, each once.

    Parameters
    ----------
    key : ndarray, int64 (frame,)
        trainId · 65536 + cellId.
    pulse : ndarray, uint64 (frame,)
        pulseId.
    file, row : ndarray, int32 (frame,)
        Number of the file in the index of the run, and row there.
    """

    key: np.ndarray
    pulse: np.ndarray
    file: np.ndarray
    row: np.ndarray

    def keep(self, which: np.ndarray) -> "ModuleFrames":
        """Return the frames where `which`, bool (frame,), is true."""
        return ModuleFrames(self.key[which], self.pulse[which], self.file[which], self.row[which])


class ModuleOrder:
    """Puts the frames of one module after the other in order.

    Parameters
    ----------
    files : list of ModuleFile
        Of the run.
    problems : list of Problem
        Gets what is left out.

    Attributes
    ----------
    modules : dict of int to ModuleFrames
        Those that are done; they share what is the same.
    """

    def __init__(self, files: list[ModuleFile], problems: list[Problem]):
        self.modules: dict[int, ModuleFrames] = {}
        self._files, self._problems = files, problems
        self._before: tuple[list[FileFrames], ModuleFrames] | None = None

    def add(self, module: int, parts: list[tuple[int, FileFrames]]) -> None:
        """Add a module, by the numbers of its files and their frames, in the files' order."""
        of_files = [frames for _, frames in parts]
        lengths = [len(frames.train) for frames in of_files]
        file = np.repeat(np.array([number for number, _ in parts], np.int32), lengths)
        if self._before is not None and _all_same(of_files, self._before[0]):
            # as a rule all modules have the same frames in the same rows
            self.modules[module] = replace(self._before[1], file=file)
            return
        names = FileFrames.__dataclass_fields__
        columns = {name: np.concatenate([getattr(f, name) for f in of_files]) for name in names}
        frames = self._ordered(module, ModuleRows(file=file, **columns))
        self.modules[module] = frames
        self._before = (of_files, frames) if frames.file is file else None

    def _ordered(self, module: int, rows: ModuleRows) -> ModuleFrames:
        """Sort a module's frames; of those with the same ids the first in the files is kept."""
        impossible = rows.train >= _IMPOSSIBLE_TRAIN
        if impossible.any():
            for t in np.unique(rows.train[impossible]):
                file = self._files[rows.file[np.flatnonzero(rows.train == t)[0]]]
                self._problems.append(_foreign(file, module, t))
            rows = rows.keep(~impossible)
        key = (rows.train.astype(np.int64) << _CELL_BITS) + rows.cell
        if (key[1:] > key[:-1]).all():
            # as a rule they are in order in the files
            frames = ModuleFrames(key, rows.pulse, rows.file, rows.row)
        else:
            _, first = np.unique(key, return_index=True)
            if len(first) < len(key):
                self._problems += _repeated(module, rows, first, self._files)
            frames = ModuleFrames(key[first], rows.pulse[first], rows.file[first], rows.row[first])
        for other in self.modules.values():
            # ids of modules that have the same ones are kept once
            if np.array_equal(other.key, frames.key) and np.array_equal(other.pulse, frames.pulse):
                return replace(frames, key=other.key, pulse=other.pulse)
        return frames


def _all_same(parts: list[FileFrames], others: list[FileFrames]) -> bool:
    return len(parts) == len(others) and all(
        a.same_as(b) for a, b in zip(parts, others, strict=True)
    )


def _repeated(module: int, rows: ModuleRows, first: np.ndarray, files) -> list[Problem]:
    repeated = np.ones(len(rows.train), bool)
    repeated[first] = False
    problems = []
    for t in np.unique(rows.train[repeated]):
        again = np.flatnonzero(repeated & (rows.train == t))
        what = f"{len(again)} frames have ids that were there before"
        file = Path(files[rows.file[again[0]]].path).name
        problems.append(Problem(what, file, module, int(t), "first ones kept, these left out"))
    return problems


def _foreign(file: ModuleFile, module: int, train) -> Problem:
    name = Path(file.path).name
    return Problem("train ID far outside the run", name, module, int(train), "frames left out")


def drop_foreign_trains(modules: dict[int, ModuleFrames], files, problems) -> None:
    """Leave out, in place, frames whose train ID cannot be of this run."""
    if not modules:
        return
    # modules that have the same frames share their ids, and are asked once
    of_ids: dict[int, np.ndarray] = {}
    for module in modules.values():
        if id(module.key) not in of_ids:
            of_ids[id(module.key)] = _distinct(module.key >> _CELL_BITS)
    trains = np.concatenate([of_ids[id(module.key)] for module in modules.values()])
    middle = np.sort(trains)[len(trains) // 2] if len(trains) else 0
    if not (np.abs(trains - middle) > FARTHEST_TRAIN).any():
        return
    for number, module in modules.items():
        train = module.key >> _CELL_BITS
        far = np.abs(train - middle) > FARTHEST_TRAIN
        for t in np.unique(train[far]):
            file = files[module.file[np.flatnonzero(train == t)[0]]]
            problems.append(_foreign(file, number, t))
        modules[number] = module.keep(~far)


def _distinct(ascending: np.ndarray) -> np.ndarray:
    """Return the different values of ascending ones."""
    return ascending[differs_from_last(ascending)]


def join_modules(
    modules: dict[int, ModuleFrames], n_modules: int, problems: list[Problem]
) -> FrameTable:
    """Join the modules of a detector, of which it has `n_modules`, by their frames' ids.

    `modules` is emptied on the way, to save memory.
    """
    settle_cells(modules, _CELL_BITS, problems)
    union = next(iter(modules.values())).key
    for module in modules.values():
        if module.key is not union and not np.array_equal(module.key, union):
            union = np.union1d(union, module.key)
    pulse = settle_pulses(union, modules, _CELL_BITS, problems)
    n = len(union)
    whole = {m: modules.pop(m) for m in sorted(modules) if modules[m].key is union}
    # as a rule all modules have a frame in the same row of their files, which is kept once
    rows = [module.row for module in whole.values()]
    same = len(rows) == n_modules and all(
        other is rows[0] or np.array_equal(other, rows[0]) for other in rows[1:]
    )
    row = rows[0][:, None] if same else np.zeros((n, n_modules), np.int32)
    file = {m: module.file for m, module in whole.items()}
    # a block of rows for all modules at a time: it stays in the processor's cache meanwhile
    for start in range(0, 0 if same else n, _AT_ONCE):
        block = slice(start, start + _AT_ONCE)
        for m, module in whole.items():
            row[block, m] = module.row[block]
    whole.clear()
    for m in sorted(modules):
        module = modules.pop(m)
        at = np.searchsorted(union, module.key)
        file[m] = np.full(n, -1, file_type(module.file.max(initial=0)))
        file[m][at] = module.file
        row[at, m] = module.row
    train_id = (union >> _CELL_BITS).astype(np.uint64)
    row = np.broadcast_to(row, (n, n_modules))
    return FrameTable.of_columns(train_id, union.astype(np.uint16), pulse, file, row)
