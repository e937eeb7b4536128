"""Sparse frames kept in memory under a budget; what was not kept is read again when needed."""

from collections.abc import Iterator

import numpy as np

from xfelmpi.errors import InputError
from xfelmpi.masks import Masks
from xfelmpi.photons import Sparsifier
from xfelmpi.powder import PowderSum
from xfelmpi.sparse import FrameBlock, SparseFrames


class KeptFrames:
    """The frames of a rank that will probably be needed after the decision.

    Parameters
    ----------
    n_frames : int
        Frames of this rank.
    budget : int
        Bytes at most.
    """

    def __init__(self, n_frames: int, budget: int):
        self._left = budget
        self._parts: list[SparseFrames] = []
        self._part = np.full(n_frames, -1, np.int32)
        self._index = np.zeros(n_frames, np.int32)

    def keep(self, first: int, block: FrameBlock, wanted: np.ndarray) -> None:
        """Keep the `wanted` frames (bool) of a block whose first frame is `first`, if they fit."""
        frames = np.flatnonzero(wanted & block.stored)
        need = int(block.sums.entries[frames].sum()) * 6 + 8 * (len(frames) + 1)
        if not len(frames) or need > self._left:
            return
        self._left -= need
        self._part[first + frames] = len(self._parts)
        self._index[first + frames] = np.arange(len(frames))
        self._parts.append(block.take(frames))

    def has(self, frames: np.ndarray) -> np.ndarray:
        """Return which of the frames, int (frame,), are kept."""
        return self._part[frames] >= 0

    def take(self, frames: np.ndarray) -> SparseFrames:
        """Return kept frames, ascending, int (frame,)."""
        parts = self._part[frames]
        by_part = SparseFrames.join(
            [self._parts[p].take(self._index[frames[parts == p]]) for p in np.unique(parts)]
        )
        return by_part.take(np.argsort(np.argsort(parts, kind="stable")))


class HitReader:
    """Gives any frames of a rank as sparse lists: from memory, or read again.

    Parameters
    ----------
    kept : KeptFrames
    table : FrameTable
        The rank's frames.
    sums : FrameSums
        From the first reading, which a second one must meet.
    sparsifier : Sparsifier
    masks : Masks
    """

    BLOCK_FRAMES = 8
    """Frames of a block; the CXI file needs 6 MiB of dense arrays for each."""

    def __init__(self, kept: KeptFrames, table, sums, sparsifier: Sparsifier, masks: Masks):
        self._kept = kept
        self._table = table
        self._sums = sums
        self._sparsifier = sparsifier
        self._mask_row = masks.row_of_cell[table.cell_id]

    @staticmethod
    def nothing() -> tuple[np.ndarray, SparseFrames]:
        """Return a block without frames."""
        return np.empty(0, np.int64), SparseFrames.empty()

    def stream(
        self, frames: np.ndarray, powder: PowderSum
    ) -> Iterator[tuple[np.ndarray, SparseFrames]]:
        """Yield frames in order, in blocks, and add them to a powder sum.

        Parameters
        ----------
        frames : ndarray, int (frame,)
            Ascending positions among the rank's frames.
        powder : PowderSum

        Yields
        ------
        frames : ndarray, int (block,)
        sparse : SparseFrames

        Raises
        ------
        InputError
            If a frame reads differently the second time.
        """
        a = 0
        while a < len(frames):
            part = frames[a : a + self.BLOCK_FRAMES]
            fits = np.cumsum(self._sums.entries[part].astype(np.int64)) <= self._sparsifier.room
            block = part[: max(1, int(fits.sum()))]
            yield block, self._read(block, powder)
            a += len(block)

    def _read(self, block: np.ndarray, powder: PowderSum) -> SparseFrames:
        in_memory = self._kept.has(block)
        old, new = block[in_memory], block[~in_memory]
        sparse = self._kept.take(old)
        powder.add_sparse(sparse, self._sums.modules[old], self._mask_row[old])
        if not len(new):
            return sparse
        again = self._read_again(new, powder)
        return SparseFrames.join([sparse, again]).take(np.argsort(np.concatenate([old, new])))

    def _read_again(self, frames: np.ndarray, powder: PowderSum) -> SparseFrames:
        block = self._sparsifier.frames(self._table[frames], powder)
        # offsets in the EMC file and the type of the CXI file stand on these sums
        for name in ("lit", "photons", "ones", "peak", "entries", "modules"):
            differs = getattr(block.sums, name) != getattr(self._sums, name)[frames]
            if differs.any():
                raise InputError(
                    f"train {self._table.train_id[frames[differs][0]]}: frames read differently "
                    "the second time; is the run still being written?"
                )
        return block.take(np.arange(len(frames)))
