"""Sums over all ranks: the powder, and how much background every frame has."""

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.event_table import EventColumns
from xfelmpi.reduction import background
from xfelmpi.reduction.powder import PowderSum, mask_good_frames


def background_weights(
    comm,
    events: EventColumns,
    modules_in_run: int,
    read: np.ndarray,
    rows: np.ndarray | slice = slice(None),
) -> np.ndarray:
    """Return the background weighting of some frames of this rank, float64 (row,); collective.

    Parameters
    ----------
    comm : Intracomm
    events : EventColumns
        Rows of this rank.
    modules_in_run : int
        Bit field.
    read : ndarray, bool (frame,)
        Frames that were read, of which the photons are known.
    rows : ndarray, int (row,), or slice
        The frames whose weighting is wanted.
    """
    background_frame = ~events.is_hit & ~events.is_dark & read
    counts = (events.modules == modules_in_run) & background_frame
    number, photons = mpi.allreduce_sum(
        comm, np.array([counts.sum(), events.photons.sum(where=counts)], np.int64)
    )
    # joined in frame order first, so that the sum is the same for any number of ranks
    known = background_frame & np.isfinite(events.pulse_energy)
    energy = mpi.allgather_concat(comm, events.pulse_energy[known])
    mean_energy = energy.mean() if len(energy) else np.nan
    del energy
    return background.background_weighting(
        events.pulse_energy[rows],
        mean_energy,
        background.mean_by_train(events.trainId, events.photons, counts, rows),
        photons / number if number else np.nan,
    )


def sum_powder(comm, masks: Masks, powder: PowderSum) -> tuple[np.ndarray, np.ndarray] | None:
    """Sum the powder of all ranks; collective.

    Returns
    -------
    photons : ndarray, uint64 (module, pixel)
        On rank 0, None elsewhere.
    good : ndarray, uint32 (module, pixel)
        In how many frames the pixel was good.
    """
    frames = mpi.allreduce_sum(comm, powder.frames)
    good = np.zeros(powder.photons.shape, np.uint32)
    for module in range(comm.rank, len(good), comm.size):
        good[module] = mask_good_frames(masks.good[module], frames[module])
    photons = mpi.reduce_sum(comm, powder.photons)
    good = mpi.reduce_sum(comm, good)
    # corrected data hardly ever have such pixels
    has_invalid = mpi.allreduce_max(comm, powder.invalid.any())
    invalid = mpi.reduce_sum(comm, powder.invalid) if has_invalid else 0
    return (photons, good - invalid) if comm.rank == 0 else None
