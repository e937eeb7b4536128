"""Which rank works on which trains: plain arithmetic, the same on every rank."""

import numpy as np


def split_trains(work_per_train: np.ndarray, n_ranks: int) -> np.ndarray:
    """Give every rank a contiguous run of whole trains, balanced by work.

    A train goes to the rank in whose equal share of the work its middle falls, so no rank
    exceeds its share by more than one train, and the order of the frames is the order of ranks.

    Parameters
    ----------
    work_per_train : ndarray, int (train,)
        Work of every train, e.g. its number of frames, in train order.
    n_ranks : int
        Number of ranks; may exceed the number of trains.

    Returns
    -------
    ndarray, int64 (rank + 1,)
        Rank r has the trains ``bounds[r]:bounds[r + 1]``, possibly none.
    """
    work = np.asarray(work_per_train, np.int64)
    end = np.cumsum(work)
    total = int(end[-1]) if len(end) else 0
    # twice the middle, to stay in integers
    middle = 2 * end - work
    shares = 2 * np.arange(n_ranks + 1, dtype=np.int64) * total
    bounds = np.searchsorted(middle * n_ranks, shares, side="left")
    bounds[-1] = len(work)
    return bounds.astype(np.int64)
