"""Reproducible random choice of frames, by their own ids."""

import numpy as np


def sampling_key(train_id: np.ndarray, cell_id: np.ndarray) -> np.ndarray:
    """Return a number for every frame, uint64, evenly spread, from its ids alone.

    The finalizer of SplitMix64 (Steele, Lea, Flood 2014), a bijection: different frames never tie.
    Train IDs are below 2⁴⁷ (see `order_frames`), cells below 2¹⁶. Of the cell, the lowest nine bits
    follow those of the train, and the others, which few detectors have, go where no train reaches.
    """
    train, cell = train_id.astype(np.uint64, copy=False), cell_id.astype(np.uint64)
    with np.errstate(over="ignore"):
        z = (
            (train << np.uint64(9))
            + (cell & np.uint64(511))
            + (cell >> np.uint64(9) << np.uint64(56))
        )
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def lowest_keys(keys: np.ndarray, n_wanted: int) -> np.ndarray:
    """Return the `n_wanted` lowest sampling keys, uint64, in any order; all if there are fewer."""
    return keys if n_wanted >= len(keys) else np.partition(keys, n_wanted)[:n_wanted]


def sampling_cutoff(keys: np.ndarray, n_wanted: int) -> int:
    """Return the largest sampling key that is drawn when the `n_wanted` lowest are, -1 if none.

    Parameters
    ----------
    keys : ndarray, uint64
        Of all frames of the run that take part, or the `n_wanted` lowest ones of each rank.
    n_wanted : int
        How many to draw; all if there are fewer.
    """
    lowest = lowest_keys(keys, n_wanted)
    return int(lowest.max()) if len(lowest) else -1


def sampled(keys: np.ndarray, takes_part: np.ndarray, cutoff: int) -> np.ndarray:
    """Return which frames were drawn, bool (frame,)."""
    if cutoff < 0:
        return np.zeros(len(keys), bool)
    return takes_part & (keys <= np.uint64(cutoff))
