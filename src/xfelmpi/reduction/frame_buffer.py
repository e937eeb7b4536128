"""Sparse frames kept in memory under a budget; what was not kept is read again when needed."""

import mmap

import numpy as np

from xfelmpi._kernels._packed import pack, unpack
from xfelmpi.core.sparse_frames import FrameBlock, SparseFrames

WORD_BYTES = 2
"""Memory of most kept entries: the gap to the pixel before and the count share a word. A gap that
needs more than 12 bits takes two words more, a count of more than 14 photons one."""

COPIED_ENTRIES = 1 << 19
"""Entries that are copied at a time, unpacked in three times the memory; one frame more at most."""


class FrameBuffer:
    """The frames of a rank that will probably be needed after the decision.

    They are packed one after the other in one array, whose pages take memory when they are written:
    many small arrays between those of the pass would leave as much again unused between them.

    Parameters
    ----------
    n_frames : int
        Frames of this rank.
    budget : int
        Bytes at most.

    Attributes
    ----------
    used, capacity : int
        Words so far, and at most.
    """

    def __init__(self, n_frames: int, budget: int):
        self._n_frames = n_frames
        self._make_room(budget // WORD_BYTES)

    def _make_room(self, words: int) -> None:
        # pages take memory once they are written, and until they are given back
        # private: pages that are shared would stay with the system
        own = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._memory = mmap.mmap(-1, max(words * WORD_BYTES, 1), flags=own)
        self._words = np.frombuffer(self._memory, np.uint16, words)
        self.used, self.capacity = 0, words
        # of every frame among those that are kept, which most are not; -1: it is not
        self._place = np.full(self._n_frames, -1, np.int32)
        self._set_kept(np.zeros(0, np.int64), np.zeros(0, np.uint32))

    def _set_kept(self, ends: np.ndarray, entries: np.ndarray) -> None:
        """Note where the words of each kept frame end, and its entries, (kept frame,) each."""
        self._n_kept = len(ends)
        # the first one begins at 0, and every other one where the one before ends
        self._ends = np.append(np.int64(0), ends)
        self._entries = entries

    def _add_kept(self, ends: np.ndarray, entries: np.ndarray) -> None:
        n, total = self._n_kept, self._n_kept + len(ends)
        if total > len(self._entries):
            room = np.zeros(total, np.int64)
            self._ends = np.append(self._ends, room)
            self._entries = np.append(self._entries, room.astype(np.uint32))
        self._ends[n + 1 : total + 1] = ends
        self._entries[n:total] = entries
        self._n_kept = total

    def release(self) -> None:
        """Keep nothing any longer, and give the memory back."""
        self._make_room(0)
        # one number stands for all frames
        self._place = np.broadcast_to(np.int32(-1), self._n_frames)

    def append(
        self, first: int, block: FrameBlock, wanted: np.ndarray, most: int | None = None
    ) -> None:
        """Keep the `wanted` frames (bool) of a block whose first frame is `first`, if they fit.

        With these, there are `most` words at most.
        """
        frames = np.flatnonzero(wanted & block.stored)
        most = self.capacity if most is None else min(most, self.capacity)
        # an entry takes a word at least
        ends = self.used + np.cumsum(block.sums.entries[frames], dtype=np.int64)
        frames = frames[ends <= most]
        copies = np.cumsum(block.sums.entries[frames], dtype=np.int64) // COPIED_ENTRIES
        for some in np.split(frames, np.flatnonzero(np.diff(copies)) + 1):
            if len(some):
                self.store(first + some, block.take(some), most)

    def store(self, frames: np.ndarray, sparse: SparseFrames, most: int | None = None) -> None:
        """Keep the first of some frames, int (frame,), as many as fit into `most` words."""
        stop = np.empty(len(frames), np.int64)
        most = self.capacity if most is None else most
        n = pack(sparse.indptr, sparse.pixel, sparse.count, self._words, self.used, most, stop)
        if not n:
            return
        self._place[frames[:n]] = np.arange(self._n_kept, self._n_kept + n)
        self._add_kept(stop[:n], np.diff(sparse.indptr[: n + 1]))
        self.used = int(stop[n - 1])

    def keep_only(self, frames: np.ndarray) -> None:
        """Forget all but some frames, int (frame,), so that there is room for others."""
        wanted = frames[self.has(frames)]
        wanted = wanted[np.argsort(self._place[wanted])]
        place = self._place[wanted]
        start, stop = self._ends[place], self._ends[place + 1]
        self.used = 0
        for a, b in zip(start.tolist(), stop.tolist(), strict=True):
            self._words[self.used : self.used + b - a] = self._words[a:b]
            self.used += b - a
        self._place = np.full(self._n_frames, -1, np.int32)
        self._place[wanted] = np.arange(len(wanted))
        self._set_kept(np.cumsum(stop - start), self._entries[place])
        self._give_back_rest()

    def _give_back_rest(self) -> None:
        first_unused = -(-self.used * WORD_BYTES // mmap.PAGESIZE) * mmap.PAGESIZE
        if first_unused < len(self._memory):
            self._memory.madvise(mmap.MADV_DONTNEED, first_unused)

    def has(self, frames: np.ndarray) -> np.ndarray:
        """Return which of the frames, int (frame,), are kept."""
        return self._place[frames] >= 0

    def has_room(self, entries: np.ndarray) -> bool:
        """Whether frames with so many entries, int (frame,), fit if each entry takes a word."""
        return bool(self.used + entries.sum(dtype=np.int64) <= self.capacity)

    def since(self, used: int, frames: np.ndarray | slice) -> tuple[np.ndarray, ...]:
        """Return the words after the first `used` ones, and where those of the frames are.

        Parameters
        ----------
        used : int
        frames : ndarray, int (frame,), or slice
            That have no words before.

        Returns
        -------
        start, stop : ndarray, int64 (frame,)
            In what is returned; start -1: the frame is not kept.
        words : ndarray, uint16 (word,)
            For `unpacked`.
        """
        place = self._place[frames]
        start, stop = (np.where(place < 0, -1, self._ends[place + i] - used) for i in (0, 1))
        return start, stop, self._words[used : self.used]

    def take(self, frames: np.ndarray) -> SparseFrames:
        """Return kept frames, int (frame,)."""
        place = self._place[frames]
        return unpacked(self._ends[place], self._ends[place + 1], self._entries[place], self._words)


def unpacked(
    start: np.ndarray, stop: np.ndarray, entries: np.ndarray, words: np.ndarray
) -> SparseFrames:
    """Return frames that a buffer has packed.

    Parameters
    ----------
    start, stop : ndarray, int64 (frame,)
        Where in the words they are.
    entries : ndarray, int (frame,)
        Of each of them.
    words : ndarray, uint16 (word,)

    Raises
    ------
    ValueError
        If what is there are not so many entries.
    """
    indptr = np.concatenate([[0], np.cumsum(entries, dtype=np.int64)])
    total = int(indptr[-1])
    sparse = SparseFrames(indptr, np.empty(total, np.uint32), np.empty(total, np.uint16))
    if unpack(words, start, stop, indptr, sparse.pixel, sparse.count) != len(start):
        raise ValueError("packed frames have another number of entries than expected")
    return sparse
