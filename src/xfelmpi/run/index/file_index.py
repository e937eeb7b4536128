"""What a file says of its frames, and which of them can be used: checks without the file itself."""

from dataclasses import dataclass, replace

import numpy as np

from xfelmpi.core.frame_table import FARTHEST_TRAIN

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


@dataclass(frozen=True)
class FileFrames:
    """Frames of one file in its order: `ModuleRows` without the number of the file."""

    train: np.ndarray
    cell: np.ndarray
    pulse: np.ndarray
    row: np.ndarray

    def keep(self, which) -> "FileFrames":
        """Return some of the frames."""
        return FileFrames(*(getattr(self, name)[which] for name in self.__dataclass_fields__))

    def same_as(self, other: "FileFrames") -> bool:
        """Return whether these are the frames of another file, in the same rows."""
        return self is other or all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in self.__dataclass_fields__
        )


@dataclass(frozen=True)
class FileIndex:
    """What a file says of its trains and frames of one module, as it is.

    Parameters
    ----------
    train_ids, first, count : ndarray, int (train,)
        INDEX: every train, the row of its first frame, and its number of frames.
    suspect : ndarray, bool (train,)
        Trains that the file flags.
    ids : dict of str to ndarray
        ``trainId``, ``cellId``, ``pulseId`` of every frame.
    shape : tuple of int
    dtype : dtype
        Of the dataset of frames.
    has_mask : bool
    frame_axes : int
        Axes of the dataset before those of a frame.
    per_train : int
        Frames in a row.
    """

    train_ids: np.ndarray
    first: np.ndarray
    count: np.ndarray
    suspect: np.ndarray
    ids: dict[str, np.ndarray]
    shape: tuple[int, ...]
    dtype: np.dtype
    has_mask: bool
    frame_axes: int = 1
    per_train: int = 1

    def same_as(self, other: "FileIndex") -> bool:
        """Return whether another file says the same of its trains and frames, to the byte."""
        mine, others = ([x.train_ids, x.first, x.count, x.suspect] for x in (self, other))
        mine += self.ids.values()
        others += other.ids.values()
        about, of_other = ((x.shape, x.dtype, x.frame_axes, x.per_train) for x in (self, other))
        return about == of_other and all(map(np.array_equal, mine, others))

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame."""
        return self.shape[self.frame_axes :]

    @property
    def n_frames(self) -> int:
        """Frames that the dataset has room for."""
        return self.shape[0] * self.per_train

    def by_frame(self) -> "FileIndex":
        """Return the index of a file whose rows are trains with its frames as rows."""
        n = self.per_train
        ids = {**self.ids, "trainId": np.repeat(self.ids["trainId"], n)}
        return replace(self, first=self.first * n, count=self.count * n, ids=ids)


def check_order(train_ids: np.ndarray, problem) -> None:
    """Tell, by calling `problem`, that the trains of INDEX do not ascend."""
    ids = train_ids[(train_ids > 0) & (train_ids < _IMPOSSIBLE)].astype(np.int64)
    step = np.diff(ids)
    # what is farther off is a train of another run, and named as such
    back = np.flatnonzero((step < 0) & (step >= -FARTHEST_TRAIN))
    if len(back):
        problem("train IDs of INDEX decrease", ids[back[0] + 1], "frames matched by their IDs")


def indexed_rows(found: FileIndex, problem) -> tuple[np.ndarray, np.ndarray]:
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


def unlisted_frames(found: FileIndex, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return train and cell, int64 (frame,), of frames that the INDEX does not name.

    Only of trains that it lists: files have room for more frames than were recorded.

    Parameters
    ----------
    found : FileIndex
    row : ndarray, int (frame,)
        Rows that it names.
    """
    n = min(found.n_frames, *map(len, found.ids.values()))
    named = np.zeros(n, bool)
    named[row] = True
    train, cell = found.ids["trainId"][:n], found.ids["cellId"][:n]
    lost = ~named
    if lost.any():
        lost &= np.isin(train, found.train_ids[found.train_ids > 0])
    return train[lost].astype(np.int64), cell[lost].astype(np.int64)


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


def frames_with_possible_ids(train, row, ids, problem, max_cells: int) -> FileFrames:
    """Return the frames whose ids are possible; `problem` is called for each train with others."""
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
