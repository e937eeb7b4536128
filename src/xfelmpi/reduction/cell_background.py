"""The background of every memory cell, for ``--background cell``: its frames that are no hits."""

from dataclasses import dataclass

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.errors import UsageError
from xfelmpi.core.log import plural, size_text
from xfelmpi.detectors.base import Detector
from xfelmpi.reduction.background import mean_background
from xfelmpi.reduction.frame_reader import HitReader
from xfelmpi.reduction.memory_budget import base_memory
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.reduction.run_sums import sum_powder

_OUTLIER = 5.0
"""Widths from the median beyond which a cell is an outlier; one good cell in 10⁶ is."""

_MAD_OF_NORMAL = 0.6745
"""Median absolute deviation of a normal distribution, in standard deviations."""

_SUM_BYTES = 12
"""Of a pixel in a `PowderSum`."""


@dataclass(frozen=True)
class CellBackground:
    """Mean photons of the non-hits of memory cells.

    Parameters
    ----------
    cells : ndarray, int32 (cell,)
        Those that have a background of their own, ascending.
    mean : ndarray, float32 (cell, module, pixel)
        Mean photons per good frame, NaN where none was good; on rank 0, elsewhere no cells.
    outliers, empty : tuple of int
        Cells that have none: outliers, and cells without non-hits.
    """

    cells: np.ndarray
    mean: np.ndarray
    outliers: tuple[int, ...] = ()
    empty: tuple[int, ...] = ()

    def row_of(self, cell_id: np.ndarray) -> np.ndarray:
        """Return which background frames have, uint32 (frame,): 0, the run's, or 1 + the cell."""
        return background_row(self.cells, cell_id)

    def words(self) -> str:
        """Return what there is to say of cells without a background of their own, or nothing."""
        found = [
            f"{len(cells)} {plural(len(cells), 'memory cell')} {why} ({_some(cells)})"
            for cells, why in (
                (self.outliers, "with an outlying background"),
                (self.empty, "without non-hits"),
            )
            if cells
        ]
        return f"background: {' and '.join(found)} get that of the run" if found else ""


def background_row(cells: np.ndarray, cell_id: np.ndarray) -> np.ndarray:
    """Return the row of the backgrounds that frames have, uint32 (frame,).

    Parameters
    ----------
    cells : ndarray, int (cell,)
        Cells of rows 1, 2 … , ascending; row 0 is that of the run.
    cell_id : ndarray, int (frame,)
    """
    place = np.searchsorted(cells, cell_id)
    known = np.append(cells, -1)[place] == cell_id
    return np.where(known, place + 1, 0).astype(np.uint32)


def _some(cells: tuple[int, ...]) -> str:
    return ", ".join(map(str, cells[:10])) + (" …" if len(cells) > 10 else "")


def check_cell_memory(n_cells: int, detector: Detector, spare: int) -> None:
    """Check that the backgrounds of all memory cells fit beside kept frames.

    Raises
    ------
    UsageError
        If they do not.
    """
    needed = 4 * n_cells * detector.frame_pixels
    if needed > spare // 2:
        raise UsageError(
            f"--background cell: the backgrounds of {n_cells} memory cells take "
            f"{size_text(needed)}, expected at most {size_text(max(spare // 2, 0))}, half of what "
            f"--memory-per-rank leaves; give --memory-per-rank "
            f"{-(-(2 * needed + 2 * base_memory(detector.frame_pixels)) // (1 << 20))}M"
        )


def cell_background(
    comm,
    reader: HitReader,
    masks: Masks,
    detector: Detector,
    cells: np.ndarray,
    cell_id: np.ndarray,
    spare: int,
) -> CellBackground:
    """Return the background of every memory cell; reads the non-hits once more; collective.

    Sums are whole numbers, so that the means are the same on any number of ranks.

    Parameters
    ----------
    comm : Intracomm
    reader : HitReader
    masks : Masks
    detector : Detector
    cells : ndarray, int (cell,)
        All of the run, ascending.
    cell_id : ndarray, int (frame,)
        Of the rank's frames; -1 where a frame is a hit or does not count.
    spare : int
        Bytes that a rank has for frames: cells are summed as many at a time as fit into a part.
    """
    of_cell = masks.good.shape[1], detector
    at_once = max(1, spare // 4 // (_SUM_BYTES * detector.frame_pixels))
    # all ranks take as many turns
    at_once = mpi.allreduce_min(comm, at_once)
    n_kept = len(cells) if comm.rank == 0 else 0
    mean = np.empty((n_kept, *masks.good.shape[:1], masks.module_pixels), np.float32)
    totals = np.zeros((len(cells), 2))
    for start in range(0, len(cells), at_once):
        some = cells[start : start + at_once]
        sums = [PowderSum.zeros(*of_cell) for _ in some]
        rows = np.flatnonzero(np.isin(cell_id, some))
        with mpi.fail_together(comm):
            reader.add_to(sums, np.searchsorted(some, cell_id[rows]), rows)
        for number, own in enumerate(sums, start):
            of_run = sum_powder(comm, masks, own)
            if of_run:
                totals[number] = [values.sum() for values in of_run]
                mean[number] = mean_background(of_run)
    totals = comm.bcast(totals)
    accepted = accepted_cells(*totals.T)
    number = np.arange(len(cells))
    empty = totals[:, 1] == 0
    if comm.rank == 0:
        # in place: each row moves up
        for to, at in enumerate(number[accepted]):
            mean[to] = mean[at]
        mean = mean[: accepted.sum()]
    return CellBackground(
        cells[accepted].astype(np.int32),
        mean,
        tuple(cells[~accepted & ~empty].tolist()),
        tuple(cells[empty].tolist()),
    )


def accepted_cells(photons: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Return which cells get a background of their own, bool (cell,).

    Those whose photons per pixel are near the median: within `_OUTLIER` standard deviations, from
    the median absolute deviation (MAD) and the cell's own shot noise.

    Parameters
    ----------
    photons, good : ndarray, float64 (cell,)
        Sums over frames and pixels: photons, and good pixels.
    """
    there = good > 0
    level = np.divide(photons, good, out=np.full(len(good), np.nan), where=there)
    if not there.any():
        return there
    median = np.median(level[there])
    away = np.abs(level - median)
    width = np.median(away[there]) / _MAD_OF_NORMAL
    noise = np.sqrt(np.maximum(median * good, 1)) / np.where(there, good, 1)
    return there & (away <= _OUTLIER * np.hypot(width, noise))
