"""Scores → hits and misses. Pure: the pipeline gathers what spans ranks."""

from dataclasses import dataclass

import numpy as np

WIDTH_OF_QUARTILE = 1.4826
"""Standard deviation of a normal distribution over (median - lower quartile)."""


@dataclass(frozen=True)
class Decision:
    """What was decided for every frame, with NaN where nothing could be.

    Parameters
    ----------
    is_hit : ndarray, bool (frame,)
    decidable : ndarray, bool (frame,)
        Complete frames of a group with statistics.
    median, std, threshold, sigma : ndarray, float32 (frame,)
        Statistics of the frame's group; sigma = (score - median) / std.
    """

    is_hit: np.ndarray
    decidable: np.ndarray
    median: np.ndarray
    std: np.ndarray
    threshold: np.ndarray
    sigma: np.ndarray


def score_statistics(scores: np.ndarray) -> tuple[float, float]:
    """Return median and width of the scores of a group, (nan, nan) of an empty one.

    The width is 1.4826 × (median − lower quartile), from the side where no hits are, and never
    below the shot noise √median nor 1.
    """
    if not len(scores):
        return float("nan"), float("nan")
    low, median = np.percentile(scores.astype(np.float64), (25, 50))
    return float(median), max(WIDTH_OF_QUARTILE * (median - low), np.sqrt(median), 1.0)


def decide_by_train(
    score: np.ndarray, complete: np.ndarray, train_id: np.ndarray, n_sigma: float
) -> Decision:
    """Decide every train by the statistics of its own complete frames.

    Parameters
    ----------
    score : ndarray, float32 (frame,)
    complete : ndarray, bool (frame,)
    train_id : ndarray, uint64 (frame,)
        Ascending.
    n_sigma : float
    """
    median, std = np.full((2, len(score)), np.nan)
    edges = np.flatnonzero(np.diff(train_id)) + 1
    for a, b in zip([0, *edges], [*edges, len(score)], strict=True):
        median[a:b], std[a:b] = score_statistics(score[a:b][complete[a:b]])
    return _decide(score, complete & ~np.isnan(median), median, std, median + n_sigma * std)


def decide_by_run(
    score: np.ndarray, complete: np.ndarray, run_scores: np.ndarray, n_sigma: float
) -> Decision:
    """Decide by the statistics of all complete frames of the run, `run_scores`, float32."""
    median, std = (np.full(len(score), value) for value in score_statistics(run_scores))
    return _decide(score, complete & ~np.isnan(median), median, std, median + n_sigma * std)


def decide_fixed(score: np.ndarray, complete: np.ndarray, threshold: float) -> Decision:
    """Decide by one threshold; there are no statistics then."""
    nan = np.full(len(score), np.nan)
    return _decide(score, complete, nan, nan, np.full(len(score), float(threshold)))


def _decide(score, decidable, median, std, threshold) -> Decision:
    def column(values):
        return np.where(decidable, values, np.nan).astype(np.float32)

    return Decision(
        decidable & (score > threshold),
        decidable,
        column(median),
        column(std),
        column(threshold),
        column((score - median) / std),
    )


def lottery_number(train_id: np.ndarray, cell_id: np.ndarray) -> np.ndarray:
    """Return a number for every frame, uint64, evenly spread, from its ids alone.

    The finalizer of SplitMix64 (Steele, Lea, Flood 2014), a bijection: different frames never tie.
    """
    z = train_id.astype(np.uint64) * np.uint64(512) + cell_id.astype(np.uint64)
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def draw_limit(numbers: np.ndarray, n_wanted: int) -> int:
    """Return the largest lottery number that wins when the `n_wanted` lowest do, -1 if none.

    Parameters
    ----------
    numbers : ndarray, uint64
        Of all frames of the run that take part.
    n_wanted : int
        How many to draw; all win if there are fewer.
    """
    n = min(n_wanted, len(numbers))
    return int(np.partition(numbers, n - 1)[n - 1]) if n else -1


def winners(numbers: np.ndarray, takes_part: np.ndarray, limit: int) -> np.ndarray:
    """Return which frames were drawn, bool (frame,)."""
    if limit < 0:
        return np.zeros(len(numbers), bool)
    return takes_part & (numbers <= np.uint64(limit))
