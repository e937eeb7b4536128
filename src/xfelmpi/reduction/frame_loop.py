"""The pass: frames are read once, block by block, and observers make of them what a job needs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from xfelmpi.core.frame_table import FrameTable
from xfelmpi.core.sparse_frames import FrameBlock, FrameSums

MOST_TRAINS = {"proc": 4, "raw": 16}
"""Trains in a block at most, by kind of data; more would not help further."""

FEWEST_BLOCKS = 16
"""Blocks of a rank's corrected data at least, if it has as many trains: between two blocks a job
stops, saves what it has, and shows how far it is."""


@dataclass(frozen=True)
class SourceBlock:
    """Frames to read next.

    Parameters
    ----------
    rows : slice or ndarray, int (frame,)
        Which of the rank's frames they are.
    frames : FrameTable
        Where they are; modules that are not wanted are left out.
    again : bool
        They were read in the block before, but their lists did not fit.
    """

    rows: slice | np.ndarray
    frames: FrameTable
    again: bool = False


class Observer(Protocol):
    """Gets every block of a pass."""

    def block(self, source: SourceBlock, block: FrameBlock) -> None:
        """Take what is wanted of a block; its sparse lists are there until the next one is read."""
        ...

    def finish(self) -> None:
        """Complete the work when all blocks of this rank have been read."""


def run_pass(
    source: Iterable[SourceBlock],
    read: Callable[[FrameTable], FrameBlock],
    observers: Sequence[Observer],
    whole: Callable[[], AbstractContextManager] = nullcontext,
) -> None:
    """Read all blocks of a source and give each to the observers, in their order.

    Communicates only if observers do.

    Parameters
    ----------
    source : iterable of SourceBlock
        May ask the observers for the next block: it goes on when they are done with the last one.
    read : callable
        Turns frames into sparse lists, e.g. `Sparsifier.frames` with a powder sum.
    observers : sequence of Observer
    whole : callable
        Returns what each block is processed in; `defer_shutdown` where no observer must be
        stopped with half a block.
    """
    for part in source:
        with whole():
            block = read(part.frames)
            for observer in observers:
                observer.block(part, block)
    for observer in observers:
        observer.finish()


def train_source(
    frames: FrameTable, sums: FrameSums, capacity: int, kind: str, skip: np.ndarray | None = None
) -> Iterator[SourceBlock]:
    """Yield the blocks of `train_blocks`."""
    for first, end in train_blocks(frames, sums, capacity, kind, skip):
        yield SourceBlock(slice(first, end), frames[first:end])


def train_blocks(
    frames: FrameTable, sums: FrameSums, capacity: int, kind: str, skip: np.ndarray | None = None
) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of blocks of whole trains, as many as fit the sparse buffer.

    Parameters
    ----------
    frames : FrameTable
    sums : FrameSums
        Of the same frames, filled between the blocks; see `SumKeeper`.
    capacity : int
        Entries of the sparse buffer.
    kind : str
        ``proc`` or ``raw``.
    skip : ndarray, bool (frame,), optional
        True for all frames of a train: it is in no block, and its sums are there.

    Notes
    -----
    Frames of raw data are processed cell by cell within a block, so that the constants of a cell
    serve several trains. Corrected data gain what a call takes that is not work on frames. How many
    sparse entries a frame has is known from the blocks before.
    """
    edges = [0, *(np.flatnonzero(np.diff(frames.train_id)) + 1).tolist(), len(frames)]
    train, n_trains = 0, len(edges) - 1
    most = MOST_TRAINS[kind]
    if kind == "proc":
        most = min(most, max(1, n_trains // FEWEST_BLOCKS))
    skipped = np.zeros(len(edges), bool) if skip is None else np.append(skip, False)[edges]
    while train < n_trains:
        if skipped[train]:
            train += 1
            continue
        first, stop = edges[train], train + 1
        # the first train is alone: it says how many entries to expect
        if first:
            per_frame = int(sums.entries[:first].sum()) / first
            last = min(train + most, n_trains)
            while stop < last and not skipped[stop]:
                if per_frame * (edges[stop + 1] - first) > capacity:
                    break
                stop += 1
        yield first, edges[stop]
        train = stop
