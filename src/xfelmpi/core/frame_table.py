"""Which frame is where: the table that the index makes and every later stage reads."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

FARTHEST_TRAIN = 1_000_000
"""Trains (28 hours) from the run's median train beyond which a train ID cannot be of this run."""

_AT_ONCE = 4096
"""Frames that are compared with the next at a time: they stay in the processor's cache."""


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
        Path of the frames in the file: (frame, ss, fs), or (train, cell, ss, fs).
    dtype : str
        Of the frames, in numpy's notation, e.g. ``<f4``; empty if nobody needs it.
    has_mask : bool
        A mask of every frame lies beside them.
    stamp : str
        Inode, size and time of the file when it was indexed; empty if nobody looked.
    frames_per_train : int
        Frames along the second axis, if the dataset has one for them; else 0. A frame's row counts
        the frames of all trains.
    """

    path: str
    module: int
    dataset: str
    dtype: str = ""
    has_mask: bool = False
    stamp: str = ""
    frames_per_train: int = 0

    @property
    def frame_axes(self) -> int:
        """How many axes number the frames."""
        return 2 if self.frames_per_train else 1

    @property
    def mask_dataset(self) -> str:
        """Path of the frames' masks in the file, if there are any."""
        return self.dataset.rpartition("/")[0] + "/mask"


@dataclass(frozen=True)
class FrameTable:
    """Frames in ascending (trainId, cellId) order, and where each module has them.

    Frames that follow each other are in the same files, as a rule, which are named once for all.

    Parameters
    ----------
    train_id, pulse_id : ndarray, uint64 (frame,)
    cell_id : ndarray, uint16 (frame,)
    group : ndarray, int32 (frame,)
        Row of the frame in `files`.
    files : ndarray, int32 or int16 (group, module)
        Index of the file that has the module's frames, -1 where the module lacks them.
    row : ndarray, int32 (frame, module)
        Row in that file's dataset; not to be changed.
    """

    train_id: np.ndarray
    cell_id: np.ndarray
    pulse_id: np.ndarray
    group: np.ndarray
    files: np.ndarray
    row: np.ndarray

    @classmethod
    def of_places(cls, train_id, cell_id, pulse_id, file, row) -> "FrameTable":
        """Return the table of frames whose `file` and `row`, int (frame, module), are known."""
        return cls.of_columns(train_id, cell_id, pulse_id, dict(enumerate(file.T)), row)

    @classmethod
    def of_segments(cls, train_id, cell_id, pulse_id, segments, n_modules) -> "FrameTable":
        """Return the table with these `segments`, as compact as `compact` makes it."""
        shape = len(train_id), n_modules
        # between two of these, all modules have one file or none
        edges = np.unique(np.append(segments[:, 1:3], 0))
        edges = edges[edges < len(train_id)]
        files = np.full((len(edges), n_modules), -1, file_type(segments[:, 3].max(initial=0)))
        bounds = np.searchsorted(segments[:, 0], np.arange(n_modules + 1))
        parts = [segments[a:b, [1, 2, 4]] for a, b in pairwise(bounds.tolist())]
        same_rows = all(np.array_equal(part, parts[0]) for part in parts[1:])
        row = np.zeros((shape[0], 1) if same_rows else shape, np.int32)
        # segments of several modules with the same frames are written together, row by row
        segments = segments[np.lexsort(segments[:, :3].T)]
        new = (np.diff(segments[:, 1:3], axis=0) != 0).any(axis=1)
        for alike in np.split(segments, np.flatnonzero(new) + 1) if len(segments) else ():
            modules, (first, end) = alike[:, 0], alike[0, 1:3].tolist()
            columns = slice(None) if len(modules) == n_modules else modules
            files[slice(*np.searchsorted(edges, [first, end])), columns] = alike[:, 3]
            starts = alike[:1, 4] if same_rows else alike[:, 4]
            row[first:end, slice(None) if same_rows else columns] = (
                np.arange(end - first, dtype=np.int32)[:, None] + starts
            )
        changes = np.ones(len(files), bool)
        changes[1:] = (files[1:] != files[:-1]).any(axis=1)
        new = np.zeros(len(train_id), bool)
        new[edges[changes]] = True
        row = np.broadcast_to(row, shape)
        return cls(train_id, cell_id, pulse_id, _groups(new), files[changes], row)

    @classmethod
    def of_columns(
        cls, train_id, cell_id, pulse_id, file: dict[int, np.ndarray], row: np.ndarray
    ) -> "FrameTable":
        """Return the table, given each module's `file`, int (frame,); others have no frames."""
        new = np.zeros(len(train_id), bool)
        for column in file.values():
            new |= differs_from_last(column)
        largest = max(int(column.max(initial=0)) for column in file.values())
        files = np.full((int(new.sum()), row.shape[1]), -1, file_type(largest))
        for module, column in file.items():
            files[:, module] = column[new]
        return cls(train_id, cell_id, pulse_id, _groups(new), files, row)

    @property
    def file(self) -> np.ndarray:
        """The file of every frame and module, int (frame, module): made anew, large for a run."""
        return self.files[self.group]

    def file_of(self, frames, module) -> np.ndarray:
        """Return the file that a module has of some frames, int (frame,), or of one frame."""
        return self.files[self.group[frames], module]

    @cached_property
    def segments(self) -> np.ndarray:
        """The runs of frames that stand one after the other in a file, int32 (run, 5).

        Columns: module, first frame, end, file, row of the first; in the order of the first two.
        """
        n, n_modules = len(self), self.n_modules
        found = [np.arange(n_modules if n else 0)]
        # one column stands for all if the modules have the same rows
        rows = self.row[:, :1] if self.row.strides[1] == 0 else self.row
        for start in range(1, n, _AT_ONCE):
            part = slice(start - 1, start + _AT_ONCE)
            file, row = self.files[self.group[part]], rows[part]
            new = (row[1:] - row[:-1] != 1) & (file[1:] >= 0)
            new |= file[1:] != file[:-1]
            found.append(np.flatnonzero(new) + start * n_modules)
        first, module = np.divmod(np.concatenate(found), n_modules)
        order = np.argsort(module.astype(np.uint16), kind="stable")
        first, module = first[order], module[order]
        end = np.append(np.where(module[1:] == module[:-1], first[1:], n), [n] * (n > 0))
        columns = module, first, end, self.file_of(first, module), self.row[first, module]
        segments = np.stack([column.astype(np.int32) for column in columns], axis=1)
        return segments[segments[:, 3] >= 0]

    @property
    def n_modules(self) -> int:
        """Modules of the detector, whether they have frames or not."""
        return self.files.shape[1]

    def __len__(self) -> int:
        return len(self.train_id)

    def compact(self) -> "FrameTable":
        """Return the same table in less memory, if the run allows it.

        In most runs all modules have a frame in the same row of their files, which is kept once.
        """
        row = self.row
        is_one = row.strides[1] == 0
        if not is_one and all(np.array_equal(row[:, 0], column) for column in row.T[1:]):
            row = np.broadcast_to(row[:, :1].copy(), row.shape)
        return replace(self, row=row)

    def __getitem__(self, rows) -> "FrameTable":
        return FrameTable(
            self.train_id[rows],
            self.cell_id[rows],
            self.pulse_id[rows],
            self.group[rows],
            self.files,
            self.row[rows],
        )


def differs_from_last(column: np.ndarray) -> np.ndarray:
    """Return which values differ from the one before them, bool; the first one does."""
    new = np.ones(len(column), bool)
    np.not_equal(column[1:], column[:-1], out=new[1:])
    return new


def _groups(new: np.ndarray) -> np.ndarray:
    """Return the number of every frame's group, int32, told which frames, bool, begin one."""
    return np.cumsum(new, dtype=np.int32) - np.int32(1)


def file_type(largest) -> type[np.signedinteger]:
    """Return the type of numbers of files."""
    return np.int16 if largest <= np.iinfo(np.int16).max else np.int32
