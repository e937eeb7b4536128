"""Scores → hits and misses. Pure functions: `hit_finder` gathers what spans ranks."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from xfelmpi.hitfinding.background import tail_threshold
from xfelmpi.hitfinding.scores import Windows, train_edges

WIDTH_OF_QUARTILE = 1.4826
"""Standard deviation of a normal distribution over (median - lower quartile)."""

_AT_ONCE = 1 << 16
"""Frames that are decided at a time."""

IQR_OF_NORMAL = 1.34896
"""Inter-quartile range of a normal distribution over its standard deviation, as EXtra-redu has
it; half of it is not quite 1 / 1.4826."""


@dataclass(frozen=True)
class ThresholdRule:
    """How statistics become hits.

    Parameters
    ----------
    sigma : float
        A hit scores more than median + sigma x width.
    width : str
        ``lower``: 1.4826 x (median - lower quartile), from the side where no hits are; ``half``:
        2 (median - lower quartile) / 1.34896; ``iqr``: (upper - lower quartile) / 1.34896.
    floor : bool
        Whether the width is never below the shot noise √median, nor 1.
    min_score, max_score : float
        A hit scores neither less nor more.
    """

    sigma: float = 4.0
    width: str = "lower"
    floor: bool = True
    min_score: float = -np.inf
    max_score: float = np.inf


@dataclass(frozen=True)
class Decision:
    """What was decided for every frame, with NaN where nothing could be.

    Parameters
    ----------
    is_hit : ndarray, bool (frame,)
    decidable : ndarray, bool (frame,)
        Usable frames of a group with statistics.
    is_non_hit : ndarray, bool (frame,)
        Decidable and no hit, but for those above the maximum score: misses are drawn from these.
    median, std, threshold, sigma : ndarray, float32 (frame,)
        Statistics of the frame's group; sigma = (score - median) / std, NaN if std is 0.
    note : str
        What the user should know about the groups; empty if nothing.
    """

    is_hit: np.ndarray
    decidable: np.ndarray
    is_non_hit: np.ndarray
    median: np.ndarray
    std: np.ndarray
    threshold: np.ndarray
    sigma: np.ndarray
    note: str = ""


def score_statistics(
    scores: np.ndarray, rule: ThresholdRule = ThresholdRule()
) -> tuple[float, float]:
    """Return median and width of the scores of a group, (nan, nan) of an empty one."""
    if not len(scores):
        return float("nan"), float("nan")
    wanted = (25, 50, 75) if rule.width == "iqr" else (25, 50)
    low, median, *high = np.percentile(scores.astype(np.float64), wanted, overwrite_input=True)
    if rule.width == "iqr":
        width = (high[0] - low) / IQR_OF_NORMAL
    elif rule.width == "half":
        width = 2 * (median - low) / IQR_OF_NORMAL
    else:
        width = WIDTH_OF_QUARTILE * (median - low)
    return float(median), max(width, np.sqrt(median), 1.0) if rule.floor else width


def decide_by_train(
    score: np.ndarray, usable: np.ndarray, train_id: np.ndarray, rule: ThresholdRule
) -> Decision:
    """Decide every train by the statistics of its own usable frames.

    Parameters
    ----------
    score : ndarray, float32 (frame,)
    usable : ndarray, bool (frame,)
    train_id : ndarray, uint64 (frame,)
        Ascending.
    rule : ThresholdRule
    """
    median, std = np.full((2, len(score)), np.nan)
    edges = train_edges(train_id)
    for a, b in pairwise(edges):
        median[a:b], std[a:b] = score_statistics(score[a:b][usable[a:b]], rule)
    return _decide_by(score, usable, median, std, rule)


def decide_by_window(
    score: np.ndarray,
    usable: np.ndarray,
    windows: Windows,
    run_scores: np.ndarray,
    rule: ThresholdRule,
) -> Decision:
    """Decide every train by the usable frames around it.

    Parameters
    ----------
    score : ndarray, float32 (frame,)
    usable : ndarray, bool (frame,)
    windows : Windows
        Of these frames.
    run_scores : ndarray, float32 (usable frame,)
        Of the whole run, in order.
    rule : ThresholdRule
    """
    found = windows.each(lambda values: score_statistics(values, rule), run_scores, 2)
    median, std = found.T
    return _decide_by(score, usable, median, std, rule)


def decide_by_run(
    score: np.ndarray, usable: np.ndarray, run_scores: np.ndarray, rule: ThresholdRule
) -> Decision:
    """Decide by the statistics of all usable frames of the run, `run_scores`, float32."""
    median, std = score_statistics(run_scores, rule)
    decidable = usable & ~np.isnan(median)
    # one number stands for all frames
    middle, width, limit = (
        np.broadcast_to(value, len(score)) for value in (median, std, median + rule.sigma * std)
    )
    return _decide(score, decidable, middle, width, limit, rule)


def decide_by_background(
    score: np.ndarray,
    usable: np.ndarray,
    n_frames: np.ndarray,
    level: np.ndarray,
    width: np.ndarray,
    rule: ThresholdRule,
) -> Decision:
    """Decide by level and width of the background around every train.

    Parameters
    ----------
    score : ndarray, float32 (frame,)
    usable : ndarray, bool (frame,)
    n_frames : ndarray, int (train,)
        Frames of every train, one train after the other.
    level, width : ndarray, float64 (train,)
    rule : ThresholdRule
    """
    threshold = tail_threshold(level, width, rule.sigma, floor=rule.floor)
    train = np.repeat(np.arange(len(level), dtype=np.int32), n_frames)
    decidable = usable & ~np.isnan(level)[train]
    return _decide(score, decidable, level, width, threshold, rule, train)


def decide_fixed(
    score: np.ndarray,
    usable: np.ndarray,
    threshold: float,
    rule: ThresholdRule = ThresholdRule(),
) -> Decision:
    """Decide by one threshold; there are no statistics then."""
    nan, limit = (np.broadcast_to(value, len(score)) for value in (np.nan, float(threshold)))
    return _decide(score, usable, nan, nan, limit, rule)


def named_decision(
    is_hit: np.ndarray,
    usable: np.ndarray,
    score: np.ndarray,
    median: np.ndarray,
    width: np.ndarray,
    threshold: np.ndarray,
) -> Decision:
    """Return a decision that somebody else made, with its statistics, (frame,) each."""
    rule = ThresholdRule()
    decision = _decide(score, usable, median, width, threshold, rule)
    return replace(decision, is_hit=is_hit & usable, is_non_hit=usable & ~is_hit)


def _decide_by(score, usable, median, std, rule) -> Decision:
    decidable = usable & ~np.isnan(median)
    return _decide(score, decidable, median, std, median + rule.sigma * std, rule)


def _decide(score, decidable, median, std, threshold, rule, group=None) -> Decision:
    """Decide by statistics of every frame, or of the `group` of every frame, float64 each."""
    n = len(score)
    is_hit, is_non_hit = np.zeros((2, n), bool)
    columns = np.full((4, n), np.nan, np.float32)
    # in blocks: what is computed of all frames at once would be the most memory of this stage
    for start in range(0, n, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        known, value = decidable[part], score[part]
        of = part if group is None else group[part]
        middle, width, limit = median[of], std[of], threshold[of]
        hit = known & (value > limit)
        hit &= (value >= rule.min_score) & (value <= rule.max_score)
        is_hit[part] = hit
        is_non_hit[part] = known & ~hit & (value <= rule.max_score)
        sigma = np.full(len(value), np.nan)
        np.divide(value - middle, width, out=sigma, where=width > 0)
        for column, values in zip(columns, (middle, width, limit, sigma), strict=True):
            np.copyto(column[part], values, where=known, casting="same_kind")
    return Decision(is_hit, decidable, is_non_hit, *columns)
