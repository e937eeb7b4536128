"""Level and width of the scores of frames without a particle, whatever the hit rate. Pure.

The estimate of ``--decide auto``; docs/hit-finding.md has how it works and what it was measured to
do. A background fit looks only at the scores around the lowest dense part of a group, and corrects
for what it so leaves out: hits have no part in it as long as they stand out, up to 60 % of all
frames and beyond.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LEVEL_FRAMES, WIDTH_FRAMES = 2, 10
"""Background frames for a level and for a width, in ``--min-scores``: at 4 sigma the false hits
double if the level is 0.16 widths too low, or the width 4 % too small."""

MOST_GROWTH = 8
"""A window of few background frames grows to so many times its size at most."""

BELOW, ABOVE = 3.0, 1.5
"""Widths below and above the level between which a fit takes the scores: few hits are so faint."""

_LOWEST, _DENSE = 0.4, 0.25
"""Shares of a group: a fit starts from the narrowest `_DENSE` of its `_LOWEST` scores."""

_START_WIDTH = 0.89
"""Half the narrowest 25 % of the scores, in widths, if the background is 40 % of them: the widest
that it can be, so that a fit starts narrow and grows."""

_MOST_STEPS, _CLOSE = 60, 1e-3
"""A fit ends when level and width change by less than this share of the width."""

_AT_ONCE = 1 << 17
"""Scores in one array of a fit, about. A fit has ten such arrays; with longer ones, which fit no
cache, it takes half as long again."""


def _truncated_normal(below: float, above: float) -> tuple[float, float, float]:
    """Return mean, variance and share of a standard normal between -`below` and `above`."""
    edges = (-below, above)
    density = [math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in edges]
    share = (math.erf(above / math.sqrt(2)) + math.erf(below / math.sqrt(2))) / 2
    mean = (density[0] - density[1]) / share
    variance = 1 + (edges[0] * density[0] - edges[1] * density[1]) / share - mean**2
    return mean, variance, share


_MEAN, _VARIANCE, _SHARE = _truncated_normal(BELOW, ABOVE)


def fit_background(
    scores: np.ndarray, count: np.ndarray, least_width: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return level, width and number of background frames of some groups, float64 (group,) each.

    Mean and standard deviation of the scores from `BELOW` widths below the level to `ABOVE` above
    it, corrected for what a normal distribution has outside, until they no longer change.

    Parameters
    ----------
    scores : ndarray, float64 (group, most frames)
        Each row ascending, filled up with inf.
    count : ndarray, int (group,)
        Scores of each group, at least one.
    least_width : callable
        Smallest possible width (group,), told the level.
    """
    level, width = _densest(scores, count)
    width = np.maximum(width / _START_WIDTH, least_width(level))
    # sums of the lowest scores of a row are not touched by the brightest hits
    offset = np.where(np.isfinite(scores), scores - level[:, None], 0.0)
    sums, squares, centre = _sums_before(offset), _sums_before(offset * offset), level.copy()
    n_taken = np.zeros(len(scores))
    # a group ends by itself: its numbers must not depend on those fitted with it
    running = np.arange(len(scores))
    for _ in range(_MOST_STEPS):
        values, old, old_width = scores[running], level[running], width[running]
        first = (values < (old - BELOW * old_width)[:, None]).sum(axis=1)
        end = (values <= (old + ABOVE * old_width)[:, None]).sum(axis=1)
        n = np.maximum(end - first, 1)
        mean = (sums[running, end] - sums[running, first]) / n
        variance = (squares[running, end] - squares[running, first]) / n - mean**2
        new_width = np.sqrt(np.maximum(variance, 0) * n / np.maximum(n - 1, 1) / _VARIANCE)
        new_width = np.maximum(new_width, least_width(old))
        new = centre[running] + mean - _MEAN * new_width
        level[running], width[running], n_taken[running] = new, new_width, n
        change = np.abs(new - old) + np.abs(new_width - old_width)
        running = running[change > _CLOSE * new_width]
        if not len(running):
            break
    return level, width, np.minimum(n_taken / _SHARE, count)


def _sums_before(values: np.ndarray) -> np.ndarray:
    """Return the sums of the first 0, 1, 2 … values of every row."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def _densest(scores: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return middle and half width of the narrowest part of the lowest scores of every row."""
    rows = np.arange(len(scores))
    step = np.ceil(_DENSE * count).astype(int) - 1
    starts = np.maximum(np.ceil(_LOWEST * count).astype(int) - step, 1)
    first = np.arange(starts.max())
    at = np.minimum(first, starts[:, None] - 1)
    extent = np.take_along_axis(scores, at + step[:, None], axis=1)
    extent -= np.take_along_axis(scores, at, axis=1)
    best = np.argmin(extent, axis=1)
    low, high = scores[rows, best], scores[rows, best + step]
    return (low + high) / 2, (high - low) / 2


def fit_groups(
    scores: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    least_width: Callable[[np.ndarray], np.ndarray],
    *,
    spread: bool = False,
) -> np.ndarray:
    """Return level, width and background frames of groups low … high of the scores, (3, group).

    NaN, NaN and 0 of an empty group. A group's numbers depend on its own scores alone. With
    `spread`, these are whole numbers, as counts are; see `_spread_ties`.
    """
    found = np.full((3, len(low)), np.nan)
    found[2] = 0
    count = high - low
    filled = np.flatnonzero(count)
    # groups of like size are fitted together
    filled = filled[np.argsort(count[filled], kind="stable")]
    while len(filled):
        n = max(int(np.searchsorted(count[filled].cumsum(), _AT_ONCE)), 1)
        some, filled = filled[:n], filled[n:]
        at = low[some][:, None] + np.arange(count[some].max())
        values = scores[np.minimum(at, len(scores) - 1)].astype(np.float64)
        values[at >= high[some][:, None]] = np.inf
        values.sort(axis=1)
        if spread:
            _spread_ties(values)
        found[:, some] = fit_background(values, count[some], least_width)
    return found


def _spread_ties(scores: np.ndarray) -> None:
    """Spread whole numbers over the unit around them, in ascending rows, evenly and in place.

    Cuts in the middle of a few wide steps would bias a fit.
    """
    column = np.arange(scores.shape[1])
    is_new = np.ones(scores.shape, bool)
    is_new[:, 1:] = scores[:, 1:] != scores[:, :-1]
    first = np.maximum.accumulate(np.where(is_new, column, 0), axis=1)
    is_last = np.ones(scores.shape, bool)
    is_last[:, :-1] = is_new[:, 1:]
    end = np.where(is_last, column + 1, scores.shape[1])
    end = np.minimum.accumulate(end[:, ::-1], axis=1)[:, ::-1]
    scores += (column - first + 0.5) / (end - first) - 0.5


def grown_windows(
    count: np.ndarray, trains: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return first and end of the fewest trains around some trains that have the wanted frames.

    As many trains on both sides, at the ends of the run as far as there are any.

    Parameters
    ----------
    count : ndarray, int (train of the run,)
        Frames of every train of the run.
    trains : ndarray, int (train,)
    wanted : ndarray, float (train,)
    """
    before = np.concatenate([[0], np.cumsum(count)])

    def edges(extent):
        return np.maximum(trains - extent, 0), np.minimum(trains + extent + 1, len(count))

    # the smallest extent with enough frames, by halving
    small, large = np.full(len(trains), -1), np.full(len(trains), max(len(count) - 1, 0))
    while (large - small > 1).any():
        middle = (small + large) // 2
        first, end = edges(middle)
        enough = before[end] - before[first] >= wanted
        large, small = np.where(enough, middle, large), np.where(enough, small, middle)
    return edges(large)


@dataclass(frozen=True)
class Levels:
    """Of some trains: the level of the background, and what it was taken from.

    Parameters
    ----------
    level : ndarray, float64 (train,)
        NaN where no frame is near.
    share : ndarray, float64 (train,)
        Of the frames around it, those without a particle, about.
    n_trains : ndarray, int (train,)
        Trains that it was taken from.
    """

    level: np.ndarray
    share: np.ndarray
    n_trains: np.ndarray


def train_levels(
    run_scores: np.ndarray, count: np.ndarray, trains: np.ndarray, wanted: int, *, floor: bool
) -> Levels:
    """Return the levels of some trains, from the fewest trains with enough background frames.

    Short trains have one level for as many as have a quarter of the frames.

    Parameters
    ----------
    run_scores : ndarray, float32 (usable frame of the run,)
    count : ndarray, int (train of the run,)
        Usable frames of every train.
    trains : ndarray, int (train,)
        Numbers of the trains that are asked for, ascending.
    wanted : int
        Background frames.
    floor : bool
        Whether no width is below the shot noise √level, nor 1.
    """
    wanted = min(wanted, len(run_scores))
    edges = blocks_of_trains(count, wanted / 4)
    blocks, own = np.unique(np.searchsorted(edges, trains, side="right") - 1, return_inverse=True)
    before = np.concatenate([[0], np.cumsum(count)])[edges]
    in_block = np.diff(before)
    first, end = grown_windows(in_block, blocks, np.full(len(blocks), wanted))
    level, n_background = _fit_windows(run_scores, before[first], before[end], floor)
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.clip(wanted / n_background, 1, MOST_GROWTH)
    grown = growth > 1
    n_frames = np.where(grown, growth * (before[end] - before[first]), wanted)
    first, end = grown_windows(in_block, blocks, n_frames)
    # the others are the same as before
    again = _fit_windows(run_scores, before[first[grown]], before[end[grown]], floor)
    level[grown], n_background[grown] = again
    share = n_background / np.maximum(before[end] - before[first], 1)
    return Levels(level[own], share[own], (edges[end] - edges[first])[own])


def _fit_windows(run_scores, low, high, floor) -> tuple[np.ndarray, np.ndarray]:
    # at the ends of a run, and in a short one, many trains have the same window
    windows, same = np.unique(np.stack([low, high]), axis=1, return_inverse=True)

    def least_width(level):
        return shot_noise(level) if floor else np.zeros(len(level))

    spread = floor and bool((run_scores == np.rint(run_scores)).all())
    low, high = windows
    level, _, n_background = fit_groups(run_scores, low, high, least_width, spread=spread)
    same = same.reshape(-1)
    return level[same], n_background[same]


def shot_noise(level: np.ndarray) -> np.ndarray:
    """Return the width that counts of this mean have at least, never below 1."""
    return np.sqrt(np.maximum(level, 1))


def train_widths(
    run_scores: np.ndarray,
    count: np.ndarray,
    level: np.ndarray,
    share: np.ndarray,
    trains: np.ndarray,
    wanted: int,
    *,
    floor: bool,
) -> np.ndarray:
    """Return the widths of some trains, float64 (train,).

    A width needs more frames than a level. It is taken from blocks of trains, as a multiple of
    the shot noise, after every train's own level is subtracted.

    Parameters
    ----------
    run_scores, count, trains, floor
        As for `train_levels`.
    level, share : ndarray, float64 (train of the run,)
    wanted : int
        Background frames.
    """
    noise = shot_noise(np.nan_to_num(level))
    # in place: these are the longest arrays of the decision
    offset = np.repeat(level, count)
    np.subtract(run_scores, offset, out=offset)
    offset /= np.repeat(noise, count)
    edges = blocks_of_trains(count * share, wanted)
    block = np.searchsorted(edges, trains, side="right") - 1
    needed = np.unique(block)
    before = np.concatenate([[0], np.cumsum(count)])[edges]
    least = float(floor)
    _, width, _ = fit_groups(
        offset, before[needed], before[needed + 1], lambda level: np.full(len(level), least)
    )
    return width[np.searchsorted(needed, block)] * noise[trains]


def blocks_of_trains(count: np.ndarray, wanted: float) -> np.ndarray:
    """Return the edges of blocks of trains with the wanted frames; the last has what is left."""
    edges, total = [0], 0.0
    for end, n in enumerate(count.tolist(), 1):
        total += n
        if total >= wanted:
            edges.append(end)
            total = 0.0
    return np.array([*edges[:-1], len(count)] if len(edges) > 1 else [0, len(count)])


def tail_threshold(
    level: np.ndarray, width: np.ndarray, sigma: float, *, floor: bool = True
) -> np.ndarray:
    """Return the score that as few background frames exceed as a normal one exceeds `sigma`.

    Counts are not normal: their third moment, level + 3 (width² - level) if a Poisson
    distribution's mean varies, lifts the tail. First term of the expansion of Cornish and Fisher
    (1938).
    """
    moment = np.maximum(3 * width**2 - 2 * np.maximum(level, 0), 0)
    if floor:
        # a width of 1 is a floor, not what the counts have
        moment = np.where(level < 1, np.maximum(level, 0), moment)
    skew = np.divide(moment, width**3, out=np.zeros_like(width), where=width > 0)
    return level + width * (sigma + max(sigma**2 - 1, 0) * (sigma > 1) / 6 * skew)
