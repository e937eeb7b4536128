"""The background of the hits, from the frames that are none. Pure."""

import numpy as np

from xfelmpi.core.frame_table import differs_from_last

_PIXELS_AT_ONCE = 1 << 16


def mean_background(whole, *left_out) -> np.ndarray:
    """Return the mean photons per good frame over all non-hits, float32, NaN where none was good.

    Parameters
    ----------
    whole : (ndarray, ndarray)
        Photons and good frames of every pixel, sums over all frames.
    *left_out : (ndarray, ndarray)
        The same over frames that do not count: the hits, and frames without an X-ray pulse.
    """
    mean = np.empty(np.shape(whole[0]), np.float32)
    sums = [[np.reshape(values, -1) for values in pair] for pair in (whole, *left_out)]
    flat = mean.reshape(-1)
    # in blocks: the temporary arrays of all pixels would be the most memory that a job takes
    for start in range(0, mean.size, _PIXELS_AT_ONCE):
        part = slice(start, start + _PIXELS_AT_ONCE)
        photons, number = sums[0][0][part], sums[0][1][part].astype(np.int64)
        for some_photons, some_good in sums[1:]:
            photons, number = photons - some_photons[part], number - some_good[part]
        with np.errstate(invalid="ignore"):
            flat[part] = photons / np.where(number > 0, number, np.nan)
    return mean


def background_weighting(
    pulse_energy: np.ndarray, mean_energy: float, train_mean: np.ndarray, run_mean: float
) -> np.ndarray:
    """Return what scales the mean background to each hit.

    (pulse energy / mean pulse energy) × (mean photons of the non-hits of that train / mean over
    the run); a factor that is unknown (NaN) or meaningless (division by 0) is 1.

    Parameters
    ----------
    pulse_energy : ndarray, float64 (hit,)
    mean_energy : float
        Mean over the non-hits of the run, whose mean the background is.
    train_mean : ndarray, float64 (hit,)
        Mean photons of the complete non-hits of each hit's train.
    run_mean : float
        The same over the run.
    """
    return _ratio(pulse_energy, mean_energy) * _ratio(train_mean, run_mean)


def _ratio(values: np.ndarray, reference: float) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.asarray(values, np.float64) / reference
    return np.where(np.isfinite(ratio), ratio, 1.0)


def mean_by_train(
    train_id: np.ndarray,
    photons: np.ndarray,
    counts: np.ndarray,
    rows: np.ndarray | slice = slice(None),
) -> np.ndarray:
    """Return the mean photons of the frames that count, of some frames' trains, float64 (row,).

    Parameters
    ----------
    train_id : ndarray, uint64 (frame,)
        Ascending.
    photons : ndarray, uint64 (frame,)
    counts : ndarray, bool (frame,)
        Frames that count; NaN for a train that has none.
    rows : ndarray, int (row,), or slice
        The frames that are asked for.
    """
    first = np.flatnonzero(differs_from_last(train_id))
    number = np.add.reduceat(counts, first, dtype=np.int64)
    total = np.add.reduceat(photons * counts, first)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / number
    return mean[np.searchsorted(train_id[first], train_id[rows])]
