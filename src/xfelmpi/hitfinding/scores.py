"""What goes into a decision: which frames can be decided, normalised scores, windows. Pure."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from xfelmpi.core.frame_table import differs_from_last


@dataclass(frozen=True)
class ScoredFrames:
    """What a decision must know of some frames, in ascending (trainId, cellId) order.

    Parameters
    ----------
    train_id : ndarray, uint64 (frame,)
    cell_id : ndarray, uint16 (frame,)
    score : ndarray, float32 (frame,)
        NaN where there is none.
    usable : ndarray, bool (frame,)
        Frames that take part in statistics and can be decided.
    """

    train_id: np.ndarray
    cell_id: np.ndarray
    score: np.ndarray
    usable: np.ndarray


@dataclass(frozen=True)
class Windows:
    """The frames around each train whose statistics decide it.

    Parameters
    ----------
    edges : ndarray, int (train + 1,)
        First frame of every train, and the number of frames.
    low, high : ndarray, int (train,)
        First and end of the train's window, counted in the usable frames of the run.
    """

    edges: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def each(self, statistics, run_values: np.ndarray, n: int) -> np.ndarray:
        """Return numbers about the window of every frame's train, float64 (frame, n).

        Parameters
        ----------
        statistics : callable
            From the values of a window to n numbers.
        run_values : ndarray (usable frame,)
            Of the whole run.
        n : int
        """
        found = np.full((self.edges[-1], n), np.nan)
        last, numbers = None, None
        for (a, b), *window in zip(pairwise(self.edges), self.low, self.high, strict=True):
            # at both ends of a run, and in a short one, many trains have the same window
            if window != last:
                last, numbers = window, statistics(run_values[slice(*window)])
            found[a:b] = numbers
        return found


def train_edges(train_id: np.ndarray) -> np.ndarray:
    """Return the first frame of every train, and the number of frames."""
    return np.append(np.flatnonzero(differs_from_last(train_id)), len(train_id))


def windows(
    train_id: np.ndarray, usable: np.ndarray, before: int, total: int, min_scores: int
) -> Windows:
    """Return the windows of all trains of this rank.

    A train of at least `min_scores` usable frames is its own window. Else the window grows evenly
    on both sides, at the ends of the run as far as there are frames. To the frame, it is the window
    of EXtra-redu 1.1 (`SpiHitfinder`), so that both find the same thresholds: that one leaves out
    the outermost frame on each side, rounds down, and counts an unusable first frame of the train
    as its own but takes one more in front. A window may so lack up to three of `min_scores`.

    Parameters
    ----------
    train_id : ndarray, uint64 (frame,)
        Ascending; whole trains.
    usable : ndarray, bool (frame,)
    before, total : int
        Usable frames of the run before these, and altogether.
    min_scores : int
    """
    edges = train_edges(train_id)
    count = np.concatenate([[0], np.cumsum(usable)]) + before
    first, end = count[edges[:-1]], count[edges[1:]]
    leads = usable[edges[:-1]].astype(np.int64)
    extent = (min_scores - (end - first + 1 - leads)) // 2
    grows = extent > 0
    low = np.where(grows, np.maximum(first + leads - extent, 0), first)
    high = np.where(grows, np.minimum(end + extent - 1, total), end)
    return Windows(edges, low, high)


def usable_frames(
    seen: np.ndarray,
    cell_id: np.ndarray,
    pulse_energy: np.ndarray,
    *,
    excluded: tuple[int, ...] = (),
    first_cell: int = 0,
    min_energy: float | None = None,
) -> np.ndarray:
    """Return which frames can be decided, bool (frame,).

    Parameters
    ----------
    seen : ndarray, bool (frame,)
        Frames that are complete, and have an X-ray pulse as far as is known.
    cell_id : ndarray, uint16 (frame,)
    pulse_energy : ndarray, float64 (frame,)
        J, NaN where unknown.
    excluded : tuple of int
        Cells that are left out.
    first_cell : int
        Cells below it are left out.
    min_energy : float or None
        J; None: the energy does not matter. Below it, or unknown: left out.
    """
    usable = seen & (cell_id >= first_cell)
    if excluded:
        usable &= ~np.isin(cell_id, excluded)
    if min_energy is not None:
        # false for NaN
        usable &= pulse_energy >= min_energy
    return usable


def mean_energy(energies: np.ndarray) -> float:
    """Return the mean, NaN of none; the sum is exact, so that no order of frames matters."""
    return math.fsum(energies.tolist()) / len(energies) if len(energies) else math.nan


def energy_factor(
    pulse_energy: np.ndarray, local_mean: np.ndarray, min_energy: float | None
) -> np.ndarray:
    """Return local mean energy / energy, float64 (frame,), NaN where the energy will not do."""
    enough = (pulse_energy > 0) & np.isfinite(pulse_energy)
    if min_energy is not None:
        enough &= pulse_energy >= min_energy
    return np.divide(local_mean, pulse_energy, out=np.full(len(enough), np.nan), where=enough)


def unmasked_factor(good_pixels: np.ndarray, region_pixels: int) -> np.ndarray:
    """Return pixels of the region / good ones, float64, NaN where none is good."""
    factor = np.full(len(good_pixels), np.nan)
    return np.divide(region_pixels, good_pixels, out=factor, where=good_pixels > 0)
