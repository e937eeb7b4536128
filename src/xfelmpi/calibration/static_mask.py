"""What the masks of corrected frames call bad all the time, by memory cell; whether it stays so.

A bit counts if it is set in all of the first frames of a module and cell.
"""

import numpy as np

from xfelmpi.core.problems import Problem
from xfelmpi.detectors.pixel_bits import pack_flat
from xfelmpi.mpi import NodeSharedArray, allreduce_sum, fail_together
from xfelmpi.run.frames.file_pool import FilePool
from xfelmpi.run.frames.frame_bytes import FRAME_STATUS, READ_ERRORS
from xfelmpi.run.frames.frame_masks import MaskReader
from xfelmpi.run.mask_samples import CellFrames, MaskSamples

CELLS_AT_ONCE = 32
"""Cells of a module whose masks are joined together; each takes 256 KiB meanwhile."""

DRIFT = 1e-5
"""Share of the pixels that may change before it is worth a warning: 10 of a frame."""


def add_static(
    shared: NodeSharedArray, files: FilePool, frames: CellFrames, bits: int
) -> list[Problem]:
    """Take out of the masks of a node what those of the frames call bad.

    The ranks of a node share the work: some cells of one module each. Returns what cannot be read.

    Parameters
    ----------
    shared : NodeSharedArray
        Bits of the good pixels, uint8 (module, cell, byte).
    files : FilePool
    frames : CellFrames
    bits : int
        Bits that make a pixel bad.
    """
    found = _StaticMask(files, bits, 8 * shared.array.shape[-1])
    n_modules, n_cells, _ = frames.file.shape
    parts = [(m, c) for m in range(n_modules) for c in range(0, n_cells, CELLS_AT_ONCE)]
    for module, first in parts[shared.node_rank :: shared.node_size]:
        cells = slice(first, first + CELLS_AT_ONCE)
        good, _ = found.good_pixels(frames.of_cells(cells), module)
        shared.array[module, cells] &= pack_flat(good)
    return found.problems


def find_drift(
    comm, files: FilePool, samples: MaskSamples, bits: int, n_pixels: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Compare later trains with the first ones, in a few cells; collective.

    What cannot be read, or has fewer frames than at first, is left out.

    Parameters
    ----------
    comm : Intracomm
    files : FilePool
    samples : MaskSamples
    bits : int
        Bits that make a pixel bad.
    n_pixels : int
        Of a module.

    Returns
    -------
    notes, warnings : tuple of str
        For the log.
    """
    changed = np.zeros((len(samples.later), 3), np.int64)
    with fail_together(comm):
        found = _StaticMask(files, bits, n_pixels)
        early = samples.first.of_cells(samples.checked)
        n_modules = len(early.file)
        for module in range(comm.rank, n_modules, comm.size) if samples.later else ():
            before, n_before = found.good_pixels(early, module)
            for i, frames in enumerate(samples.later):
                after, n_after = found.good_pixels(frames, module)
                same = (n_before > 0) & (n_after == n_before)
                new, gone = before & ~after, after & ~before
                changed[i] += (new[same].sum(), gone[same].sum(), same.sum() * n_pixels)
    changed = allreduce_sum(comm, changed)
    changed = changed[changed[:, 2] > 0]
    if not len(changed):
        return (), ()
    new, gone, pixels = changed[np.argmax(changed[:, :2].sum(axis=1))].tolist()
    text = (
        f"masks in the data: in {len(samples.checked)} of the cells, later trains have {new:,} bad "
        f"pixels more and {gone:,} fewer than the first ones, of {pixels:,}"
    )
    if new + gone > DRIFT * pixels:
        return (), (f"{text}: the static mask drifts, consider --mask run",)
    return (text,), ()


class _StaticMask:
    # joins the masks of some frames; collects what cannot be read

    def __init__(self, files: FilePool, bits: int, n_pixels: int):
        self._files = files
        self._n_pixels = n_pixels
        self._reader = MaskReader(files)
        self._bits = bits
        self.problems: list[Problem] = []

    def good_pixels(self, frames: CellFrames, module: int) -> tuple[np.ndarray, np.ndarray]:
        """Return pixels without a bit that is set in all of a module's frames of each cell.

        Returns
        -------
        good : ndarray, bool (cell, pixel)
            All, of a cell without any mask.
        n : ndarray, int64 (cell,)
            How many masks there were.
        """
        file, row = frames.file[module], frames.row[module]
        n_read = np.zeros(len(file), np.int64)
        held = np.full((len(file), self._n_pixels), self._bits, np.uint32)
        lost: dict[tuple[int, str], int] = {}
        for number in np.unique(file[file >= 0]).tolist():
            # one cell after the other: its masks are often the same
            cell, train = np.nonzero(file == number)
            for what, which in self._join(number, row[cell, train], cell, held):
                if what:
                    lost[number, what] = lost.get((number, what), 0) + len(which)
                else:
                    n_read += np.bincount(which, minlength=len(file))
        self.problems += [
            Problem(
                f"{n} frames: image/mask {what}",
                self._files.name(number),
                module,
                0,
                "left out of the static mask",
            )
            for (number, what), n in lost.items()
        ]
        good = held == 0
        good[n_read == 0] = True
        return good, n_read

    def _join(self, number: int, rows, slot, held):
        """Join masks of one file to `held`; yields what happened (empty: read), and to which."""
        try:
            status = self._reader.join(number, rows, slot.astype(np.int32), held)
        except READ_ERRORS as error:
            yield f"cannot be used: {error}", slot
            return
        for code in np.unique(status).tolist():
            yield FRAME_STATUS.get(code, ""), slot[status == code]
