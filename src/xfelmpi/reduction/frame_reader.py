"""Frames as sparse lists: from the buffer, or read again."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core import shutdown
from xfelmpi.core.errors import InputError
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.reduction.frame_buffer import FrameBuffer
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.reduction.sparsifier import Sparsifier


class HitReader:
    """Gives any frames of a rank as sparse lists: from memory, or read again.

    What is kept changes only inside `defer_shutdown`: a job that is stopped meanwhile may save it
    in a checkpoint.

    Parameters
    ----------
    table : FrameTable
        The rank's frames.
    sums : FrameSums
        From the first reading, which a second one must meet.
    sparsifier : Sparsifier
    masks : Masks
    kept : FrameBuffer, optional
        Frames that need not be read again.
    unused : PowderSum, optional
        What nobody needs any longer. The kernels add frames to a powder in any case.
    """

    BLOCK_FRAMES = 64
    """Frames of a block at most, all sparse. Every block takes collective calls and writes, which
    with many ranks last longer than the work."""

    LOADED_FRAMES = 1024
    """Frames of a file that are read together at most if only this rank needs them, to be kept: the
    file is then opened and searched once."""

    LOADED_ENTRIES = 1 << 21
    """Entries of these at most, which take memory until they are packed."""

    def __init__(
        self,
        table,
        sums,
        sparsifier: Sparsifier,
        masks: Masks,
        kept: FrameBuffer | None = None,
        unused: PowderSum | None = None,
    ):
        self._kept = kept
        self._table = table
        self._sums = sums
        self._sparsifier = sparsifier
        self._masks = masks
        self._given = unused

    @cached_property
    def _unused(self) -> PowderSum:
        return self._given or PowderSum.zeros(self._masks.good.shape[1], self._masks)

    def keep_only(self, frames: np.ndarray) -> None:
        """Let go of all kept frames but some, int (frame,): only these are going to be read."""
        if self._kept:
            with shutdown.defer_shutdown():
                self._kept.keep_only(frames)

    def load(self, *selections: np.ndarray) -> None:
        """Read and keep what is lacking of the first selection that there is room for, if any.

        What is read like this, in one go over the files, takes half of the time.

        Parameters
        ----------
        *selections : ndarray, int (frame,)
            Ascending positions among the rank's frames.

        Raises
        ------
        InputError
            If a frame reads differently the second time.
        """
        if not self._kept:
            return
        for frames in selections:
            lacking = frames[~self._kept.has(frames)]
            if self._kept.has_room(self._sums.entries[lacking]):
                limits = self.LOADED_FRAMES, self.LOADED_ENTRIES
                for part in _by_file(lacking, self._table[lacking].file):
                    for block in self._blocks(part, *limits):
                        self._keep(block, self._read_again(block, None))
                return

    def check_unchanged(self) -> None:
        """Check that the files that frames were read from are still the same.

        Raises
        ------
        InputError
            If one was replaced or written to.
        """
        self._sparsifier.files.check_unchanged()

    def release(self) -> None:
        """Let go of what was kept: nothing is going to be read again."""
        if self._kept:
            with shutdown.defer_shutdown():
                self._kept.release()

    def _keep(self, frames: np.ndarray, sparse: SparseFrames) -> None:
        with shutdown.defer_shutdown():
            self._kept.store(frames, sparse)

    def stream(
        self, frames: np.ndarray, powder: PowderSum | None = None
    ) -> Iterator[tuple[np.ndarray, SparseFrames]]:
        """Yield frames in order, in blocks, and add them to a powder sum, if one is given.

        Parameters
        ----------
        frames : ndarray, int (frame,)
            Ascending positions among the rank's frames.
        powder : PowderSum, optional

        Yields
        ------
        frames : ndarray, int (block,)
        sparse : SparseFrames

        Raises
        ------
        InputError
            If a frame reads differently the second time.
        """
        for block in self._blocks(frames, self.BLOCK_FRAMES, self._sparsifier.capacity):
            yield block, self._read(block, powder)

    def add_to(self, sums: list[PowderSum], which: np.ndarray, frames: np.ndarray) -> None:
        """Read frames, and add each of them to one of several sums.

        Parameters
        ----------
        sums : list of PowderSum
        which : ndarray, int (frame,)
            Number of the sum.
        frames : ndarray, int (frame,)
            Ascending positions among the rank's frames.

        Raises
        ------
        InputError
            As `stream`.
        """
        done = 0
        for block, sparse in self.stream(frames):
            numbers = which[done : done + len(block)]
            done += len(block)
            for number in np.unique(numbers):
                own = np.flatnonzero(numbers == number)
                rows = block[own]
                self._add(sums[number], sparse.take(own), rows)

    def _blocks(self, frames: np.ndarray, most: int, entries: int) -> Iterator[np.ndarray]:
        """Yield up to so many frames with up to so many entries, or a single frame."""
        capacity = min(entries, self._sparsifier.capacity)
        a = 0
        while a < len(frames):
            part = frames[a : a + most]
            fits = np.cumsum(self._sums.entries[part].astype(np.int64)) <= capacity
            block = part[: max(1, int(fits.sum()))]
            yield block
            a += len(block)

    def _read(self, block: np.ndarray, powder: PowderSum | None) -> SparseFrames:
        if not self._kept:
            return self._read_again(block, powder)
        in_memory = self._kept.has(block)
        old, new = block[in_memory], block[~in_memory]
        sparse = self._kept.take(old)
        if powder is not None:
            self._add(powder, sparse, old)
        if not len(new):
            return sparse
        again = self._read_again(new, powder)
        self._keep(new, again)
        return SparseFrames.join([sparse, again]).take(np.argsort(np.concatenate([old, new])))

    def _add(self, powder: PowderSum, sparse: SparseFrames, frames: np.ndarray) -> None:
        mask_row = self._masks.row_of_cell[self._table.cell_id[frames]]
        powder.add_sparse(sparse, self._sums.modules[frames], mask_row)

    def _read_again(self, frames: np.ndarray, powder: PowderSum | None) -> SparseFrames:
        powder = powder or self._unused
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


def _by_file(frames: np.ndarray, file: np.ndarray) -> list[np.ndarray]:
    """Return frames, int (frame,), cut where a module goes on to its next file.

    Numbers of the modules' files, int (frame, module), ascend; those of missing frames are -1.
    """
    latest = np.maximum.accumulate(file, axis=0)
    next_file = (latest[1:] > latest[:-1]).any(axis=1)
    return np.split(frames, np.flatnonzero(next_file) + 1)
