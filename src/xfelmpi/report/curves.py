"""Curves of a run from its columns: over trains, over cells, of scores, of radius. Pure."""

from dataclasses import dataclass

import numpy as np

MOST_POINTS = 600
"""Points of a curve over trains at most: more could not be told apart on a screen."""

MOST_BINS = 50
"""Bins of the hit rate at most: enough frames in each to see a trend."""

RUNNING = 15
"""Points of a running mean."""


@dataclass(frozen=True)
class TrainCurve:
    """Means over one or more trains each.

    Parameters
    ----------
    train : ndarray, float64 (point,)
        Middle of the trains, counted from the first one of the run.
    hit_rate, running : ndarray, float64 (point,)
        Hits over complete frames, and its running mean; NaN where there are none.
    pulse_energy : ndarray, float64 (point,)
        J, NaN where unknown.
    trains_per_point : int
    """

    train: np.ndarray
    hit_rate: np.ndarray
    running: np.ndarray
    pulse_energy: np.ndarray
    trains_per_point: int


def over_trains(
    train_id: np.ndarray, complete: np.ndarray, is_hit: np.ndarray, pulse_energy: np.ndarray
) -> TrainCurve:
    """Return hit rate and pulse energy against train."""
    if not len(train_id):
        empty = np.empty(0)
        return TrainCurve(empty, empty, empty, empty, 1)
    number = (train_id - train_id[0]).astype(np.int64)
    step = int(-(-(number[-1] + 1) // MOST_POINTS))
    point = number // step
    n = int(point[-1]) + 1
    frames = np.bincount(point, complete, n)
    hits = np.bincount(point, is_hit, n)
    known = np.isfinite(pulse_energy)
    energy = np.bincount(point[known], pulse_energy[known], n)
    window = np.ones(min(RUNNING, n))
    around = [np.convolve(a, window, "full")[len(window) // 2 :][:n] for a in (hits, frames)]
    return TrainCurve(
        np.arange(n) * step + (step - 1) / 2,
        _ratio(hits, frames),
        _ratio(*around),
        _ratio(energy, np.bincount(point[known], minlength=n)),
        step,
    )


@dataclass(frozen=True)
class BinnedRate:
    """Hit rate in bins of trains.

    Parameters
    ----------
    edges : ndarray, float64 (bin + 1,)
        In trains from the first one of the run.
    rate, low, high : ndarray, float64 (bin,)
        Hits over complete frames, and the limits of its uncertainty (one standard deviation,
        interval of E. B. Wilson, J. Am. Stat. Assoc. 22, 209, 1927); NaN where there is no frame.
    trains_per_bin : int
    """

    edges: np.ndarray
    rate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    trains_per_bin: int


def binned_rate(
    train_id: np.ndarray, complete: np.ndarray, is_hit: np.ndarray, most: int = MOST_BINS
) -> BinnedRate:
    """Return the hit rate in at most `most` bins, each of a round number of trains."""
    if not len(train_id):
        empty = np.empty(0)
        return BinnedRate(np.array([-0.5, 0.5]), empty, empty, empty, 1)
    number = (train_id - train_id[0]).astype(np.int64)
    n_trains = int(number[-1]) + 1
    step = next(
        m * 10**power for power in range(20) for m in (1, 2, 5) if n_trains <= most * m * 10**power
    )
    n = -(-n_trains // step)
    frames = np.bincount(number // step, complete, n)
    rate = _ratio(np.bincount(number // step, is_hit, n), frames)
    with np.errstate(divide="ignore", invalid="ignore"):
        width = np.sqrt(rate * (1 - rate) / frames + 1 / (4 * frames**2)) / (1 + 1 / frames)
        middle = (rate + 1 / (2 * frames)) / (1 + 1 / frames)
    low, high = np.maximum(middle - width, 0), np.minimum(middle + width, 1)
    edges = np.minimum(np.arange(n + 1) * step, n_trains) - 0.5
    return BinnedRate(edges, rate, low, high, step)


def over_cells(
    cell_id: np.ndarray, score: np.ndarray, is_hit: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (cell, hits, mean score) of every cell of the run; NaN scores do not count."""
    n = int(cell_id.max(initial=0)) + 1
    known = np.isfinite(score)
    mean = _ratio(
        np.bincount(cell_id[known], score[known].astype(float), n),
        np.bincount(cell_id[known], minlength=n),
    )
    used = np.flatnonzero(np.bincount(cell_id, minlength=n))
    return used, np.bincount(cell_id[is_hit], minlength=n)[used], mean[used]


def score_edges(score: np.ndarray, bins: int = 160) -> tuple[np.ndarray, bool]:
    """Return edges of about `bins` bins, float64 (bin + 1,), and whether they are logarithmic.

    They are if scores span a factor of more than 5; no bin is narrower than what whole-numbered
    scores can fill evenly.
    """
    score = score[np.isfinite(score)].astype(float)
    if not len(score):
        return np.array([0.0, 1.0]), False
    low, high = score.min(), score.max()
    whole = bool(np.all(score == np.round(score)))
    start = np.quantile(score, 0.001)
    logarithmic = bool(low > 0 and start > 1 and high > 5 * start)
    edges = (np.geomspace if logarithmic else np.linspace)(low, high, bins + 1)
    if whole:
        edges = np.unique(np.round(np.append(edges, high + 1))) - 0.5
    if len(edges) < 2 or edges[0] == edges[-1]:
        edges = np.array([low - 0.5, high + 0.5])
    return edges, bool(logarithmic and edges[0] > 0)


def histogram(score: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the number of scores in each bin, int64; the last bin has its upper edge, too."""
    return np.histogram(score[np.isfinite(score)], edges)[0]


def momentum_transfer(xyz: np.ndarray, wavelength: float) -> np.ndarray:
    """Return q = 4 π sin(θ) / λ of every pixel in 1/m, 2 θ being the scattering angle.

    Parameters
    ----------
    xyz : ndarray, float64 (3, pixel)
        Positions in m, the sample being the origin.
    wavelength : float
        m.
    """
    angle = np.arctan2(np.hypot(xyz[0], xyz[1]), xyz[2])
    return 4 * np.pi * np.sin(angle / 2) / wavelength


def radial_profile(
    radius: np.ndarray, images: list[tuple[np.ndarray, np.ndarray]], bins: int = 240
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return middles of radial bins, and the mean of every image in them.

    Parameters
    ----------
    radius : ndarray, float64 (pixel,)
    images : list of (ndarray, ndarray)
        Sums over frames and how many frames, (pixel,) each; pixels without frames do not count.
    bins : int

    Returns
    -------
    middle : ndarray, float64 (bin,)
    means : list of ndarray, float64 (bin,)
        NaN where there is no pixel.
    """
    middle, at = radial_bins(radius, bins)
    means = [_ratio(np.bincount(at, total, bins), np.bincount(at, n, bins)) for total, n in images]
    return middle, means


def radial_bins(radius: np.ndarray, bins: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Return middles of radial bins, and which of them each pixel is in, int64 (pixel,)."""
    edges = np.linspace(radius.min(), np.nextafter(radius.max(), np.inf), bins + 1)
    at = np.minimum(np.searchsorted(edges, radius, side="right") - 1, bins - 1)
    return (edges[:-1] + edges[1:]) / 2, at


LIMIT_BINS, _CLEAR, _OF_BACKGROUND = 5, 4.0, 0.02
"""For `signal_limit`: bins that are taken together, standard errors by which their signal must be
above 0, and the part of the background that it must be: so well its scale is known."""


def signal_limit(
    middle: np.ndarray, photons: np.ndarray, background: np.ndarray, variance: np.ndarray
) -> float:
    """Return how far from the beam there is signal above the background.

    Parameters
    ----------
    middle : ndarray, float64 (bin,)
        Of radial bins.
    photons, background : ndarray, float64 (bin,)
        Sum over the hits, and what the background makes of it.
    variance : ndarray, float64 (bin,)
        Of the background, which is known by a limited number of frames.

    Returns
    -------
    float
        Middle of the last of `LIMIT_BINS` bins with signal; NaN if there is none anywhere.
    """
    window = np.ones(LIMIT_BINS)
    sums = (photons, background, variance)
    total, ground, more = (np.convolve(values, window, "valid") for values in sums)
    least = np.maximum(_CLEAR * np.sqrt(total + more), _OF_BACKGROUND * ground)
    clear = np.flatnonzero((total - ground > least) & (total > 0))
    return float(middle[clear[-1] + LIMIT_BINS // 2]) if len(clear) else float("nan")


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b > 0, np.divide(a, b), np.nan)
