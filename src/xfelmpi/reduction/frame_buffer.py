"""Sparse frames kept in memory under a budget; what was not kept is read again when needed."""

import numpy as np

from xfelmpi.core.sparse_frames import ENTRY_BYTES, FrameBlock, SparseFrames, gather


class FrameBuffer:
    """The frames of a rank that will probably be needed after the decision.

    They lie one after the other in one array, whose pages take memory when they are written: many
    small arrays between those of the pass would leave as much again unused between them.

    Parameters
    ----------
    n_frames : int
        Frames of this rank.
    budget : int
        Bytes at most.

    Attributes
    ----------
    used, room : int
        Entries so far, and at most.
    """

    def __init__(self, n_frames: int, budget: int):
        self._n_frames = n_frames
        self._make_room(budget // ENTRY_BYTES)

    def _make_room(self, entries: int) -> None:
        self._pixel = np.empty(entries, np.uint32)
        self._count = np.empty(entries, np.uint16)
        self.used, self.room = 0, entries
        self._start = np.full(self._n_frames, -1, np.int64)
        self._stop = np.zeros(self._n_frames, np.int64)

    def release(self) -> None:
        """Keep nothing any longer, and give the memory back."""
        self._make_room(0)

    def append(
        self, first: int, block: FrameBlock, wanted: np.ndarray, most: int | None = None
    ) -> None:
        """Keep the `wanted` frames (bool) of a block whose first frame is `first`, if they fit.

        With these, there are `most` entries at most.
        """
        frames = np.flatnonzero(wanted & block.stored)
        ends = self.used + np.cumsum(block.sums.entries[frames], dtype=np.int64)
        frames = frames[ends <= (self.room if most is None else min(most, self.room))]
        if not len(frames):
            return
        self.store(first + frames, block.take(frames))

    def store(self, frames: np.ndarray, sparse: SparseFrames) -> None:
        """Keep the first of some frames, int (frame,), as many as fit."""
        n = int((self.used + sparse.indptr[1:] <= self.room).sum())
        indptr = self.used + sparse.indptr[: n + 1]
        end = int(indptr[-1])
        self._pixel[self.used : end] = sparse.pixel[: end - self.used]
        self._count[self.used : end] = sparse.count[: end - self.used]
        self._start[frames[:n]] = indptr[:-1]
        self._stop[frames[:n]] = indptr[1:]
        self.used = end

    def keep_only(self, frames: np.ndarray) -> None:
        """Forget all but some frames, int (frame,), so that there is room for others."""
        wanted = frames[self.has(frames)]
        wanted = wanted[np.argsort(self._start[wanted])]
        start, stop = self._start[wanted], self._stop[wanted]
        self.used = 0
        self._start[:] = -1
        for frame, a, b in zip(wanted.tolist(), start.tolist(), stop.tolist(), strict=True):
            end = self.used + b - a
            self._pixel[self.used : end] = self._pixel[a:b]
            self._count[self.used : end] = self._count[a:b]
            self._start[frame], self._stop[frame] = self.used, end
            self.used = end

    def has(self, frames: np.ndarray) -> np.ndarray:
        """Return which of the frames, int (frame,), are kept."""
        return self._start[frames] >= 0

    def since(self, used: int, frames: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the entries after the first `used` ones, and where those of the frames are.

        Parameters
        ----------
        used : int
        frames : ndarray, int (frame,)
            That have no entries before.

        Returns
        -------
        start, stop : ndarray, int64 (frame,)
            In what is returned; start -1: the frame is not kept.
        pixel : ndarray, uint32 (entry,)
        count : ndarray, uint16 (entry,)
        """
        start, stop = self._start[frames], self._stop[frames]
        start, stop = np.where(start < 0, -1, start - used), stop - used
        return start, stop, self._pixel[used : self.used], self._count[used : self.used]

    def take(self, frames: np.ndarray) -> SparseFrames:
        """Return kept frames, int (frame,)."""
        return gather(self._start[frames], self._stop[frames], self._pixel, self._count)
