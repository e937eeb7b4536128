"""The hit decision of a run: gathers what spans ranks for the functions of thresholds, scores."""

from dataclasses import dataclass, replace

import numpy as np

from xfelmpi import mpi
from xfelmpi.core.config.parts import HitSettings
from xfelmpi.core.event_table import EventColumns
from xfelmpi.hitfinding import background, sampling, thresholds
from xfelmpi.hitfinding.scores import (
    ScoredFrames,
    Windows,
    energy_factor,
    mean_energy,
    train_edges,
    usable_frames,
    windows,
)
from xfelmpi.hitfinding.thresholds import Decision, ThresholdRule

_AT_ONCE = 1 << 16
"""Frames that misses are drawn from at a time."""


def rule_of(settings: HitSettings) -> ThresholdRule:
    """Return how statistics become hits."""
    # the window decides as EXtra-redu does, to the last digit
    lower = "half" if settings.decide == "window" else "lower"
    return ThresholdRule(
        settings.sigma,
        lower if settings.width == "lower" else settings.width,
        settings.sigma_floor == "poisson",
        -np.inf if settings.min_score is None else settings.min_score,
        np.inf if settings.max_score is None else settings.max_score,
    )


def score_frames(
    comm,
    settings: HitSettings,
    train_id: np.ndarray,
    cell_id: np.ndarray,
    pulse_energy: np.ndarray,
    usable: np.ndarray,
    score: np.ndarray,
) -> ScoredFrames:
    """Normalise the scores by the pulse energy, if so wished; collective, or alone without `comm`.

    Parameters
    ----------
    comm : Intracomm or None
    settings : HitSettings
    train_id : ndarray, uint64 (frame,)
        Ascending; whole trains.
    cell_id : ndarray, uint16 (frame,)
    pulse_energy : ndarray, float64 (frame,)
        J, NaN where unknown.
    usable : ndarray, bool (frame,)
        Frames that are complete and not dark.
    score : ndarray, float64 (frame,)
        NaN where there is none.
    """
    usable = _usable(settings, cell_id, pulse_energy, usable, score)
    if settings.normalise == "pulse-energy":
        # the mean energy around a train is that of frames that have one
        usable &= ~np.isnan(energy_factor(pulse_energy, pulse_energy, settings.min_pulse_energy))
        around, energies = _around(comm, settings, train_id, usable, pulse_energy)
        local = around.each(lambda values: (mean_energy(values),), energies, 1)[:, 0]
        score = score * energy_factor(pulse_energy, local, settings.min_pulse_energy)
    return ScoredFrames(train_id, cell_id, score.astype(np.float32), usable)


def scored_before(
    settings: HitSettings, events: EventColumns, complete: np.ndarray
) -> ScoredFrames:
    """Return the scores of a finished run, which are normalised already; see `score_frames`."""
    score = events.hitscore
    seen = complete & ~events.is_dark
    usable = _usable(settings, events.cellId, events.pulse_energy, seen, score)
    return ScoredFrames(events.trainId, events.cellId, score, usable)


def _usable(settings, cell_id, pulse_energy, seen, score) -> np.ndarray:
    return ~np.isnan(score) & usable_frames(
        seen,
        cell_id,
        pulse_energy,
        excluded=settings.exclude_cells,
        first_cell=settings.first_cell,
        min_energy=settings.min_pulse_energy,
    )


def _around(comm, settings, train_id, usable, values) -> tuple[Windows, np.ndarray]:
    """Return the windows of the trains, and the values of the run's usable frames."""
    run_values, before = values[usable], 0
    if comm is not None:
        before, _ = mpi.exscan_and_total(comm, len(run_values))
        run_values = mpi.allgather_concat(comm, run_values)
    return windows(train_id, usable, before, len(run_values), settings.min_scores), run_values


def decide_alone(settings: HitSettings, frames: ScoredFrames) -> Decision:
    """Decide frames by what this rank knows: exact for ``train`` and ``fixed``, else a guess."""
    rule = rule_of(settings)
    if settings.decide == "auto":
        return _background(None, settings, frames).decide(settings, frames)
    if settings.fixed_threshold is not None:
        return thresholds.decide_fixed(frames.score, frames.usable, settings.fixed_threshold, rule)
    return thresholds.decide_by_train(frames.score, frames.usable, frames.train_id, rule)


@dataclass(frozen=True)
class _Background:
    """Level and width around every train, float64, and what the user should know of them.

    `n_frames` are those of every train, int; arrays are (train,) each.
    """

    n_frames: np.ndarray
    level: np.ndarray
    width: np.ndarray
    note: str

    def decide(self, settings: HitSettings, frames: ScoredFrames) -> Decision:
        of_trains = self.n_frames, self.level, self.width
        decision = thresholds.decide_by_background(
            frames.score, frames.usable, *of_trains, rule_of(settings)
        )
        return replace(decision, note=self.note)


def _background(comm, settings: HitSettings, frames: ScoredFrames) -> _Background:
    """Estimate the background around every train; collective, or alone without `comm`."""
    floor, edges = rule_of(settings).floor, train_edges(frames.train_id)
    own = np.add.reduceat(frames.usable, edges[:-1], dtype=np.int64)
    first_train = 0 if comm is None else mpi.exscan_and_total(comm, len(own))[0]

    def of_run(values: np.ndarray) -> np.ndarray:
        return values if comm is None else mpi.allgather_concat(comm, values)

    trains = first_train + np.arange(len(own))
    run_scores, count = of_run(frames.score[frames.usable]), of_run(own)
    wanted = background.LEVEL_FRAMES * settings.min_scores
    found = background.train_levels(run_scores, count, trains, wanted, floor=floor)
    level, share = of_run(found.level), of_run(found.share)
    n_width = background.WIDTH_FRAMES * settings.min_scores
    width = background.train_widths(run_scores, count, level, share, trains, n_width, floor=floor)
    n_background = float((count * share).sum())
    note = _pooling(of_run(found.n_trains), count, n_background, wanted)
    return _Background(np.diff(edges), found.level, width, note)


def _pooling(pooled: np.ndarray, count: np.ndarray, n_background: float, wanted: int) -> str:
    """Return what is worth saying about windows of `pooled` trains; empty if they are alone."""
    if n_background < wanted:
        return (
            f"only about {n_background:,.0f} frames without a particle in the run, fewer than the "
            f"{wanted:,} that the background is taken from: thresholds are uncertain"
        )
    middle = int(np.median(pooled))
    if middle < 2:
        return ""
    return (
        f"the background of a train is taken from {middle:,} trains around it, which have "
        f"{wanted:,} frames without a particle; a train has {np.median(count):,.0f} frames"
    )


def decide_run(comm, settings: HitSettings, frames: ScoredFrames) -> Decision:
    """Decide the frames of all ranks; collective."""
    score, usable = frames.score, frames.usable
    if settings.decide == "auto":
        return _background(comm, settings, frames).decide(settings, frames)
    if settings.decide == "run":
        run_scores = mpi.allgather_concat(comm, score[usable])
        return thresholds.decide_by_run(score, usable, run_scores, rule_of(settings))
    if settings.decide == "window":
        around, run_scores = _around(comm, settings, frames.train_id, usable, score)
        return thresholds.decide_by_window(score, usable, around, run_scores, rule_of(settings))
    return decide_alone(settings, frames)


def hits_by_sigma(
    settings: HitSettings, frames: ScoredFrames, sigmas: list[float]
) -> list[tuple[float, int, float]]:
    """Return (sigma, hits, median threshold) of all frames of a run, for each sigma; alone.

    The threshold is NaN if no frame can be decided.
    """
    rows, found = [], None
    if settings.decide == "auto":
        # one estimate serves every sigma
        found = _background(None, settings, frames)
    for sigma in sigmas:
        chosen = replace(settings, sigma=sigma)
        decision = (
            found.decide(chosen, frames) if found else decide_run(mpi.alone(), chosen, frames)
        )
        threshold = decision.threshold[decision.decidable]
        middle = float(np.median(threshold)) if len(threshold) else float("nan")
        rows.append((sigma, int(decision.is_hit.sum()), middle))
    return rows


def draw_misses(
    comm, settings: HitSettings, frames: ScoredFrames, decision: Decision
) -> np.ndarray:
    """Return which frames are misses, bool (frame,); collective."""
    of_base = decision.is_hit if settings.miss_base == "hits" else decision.is_non_hit
    base = int(mpi.allreduce_sum(comm, np.array([of_base.sum()]))[0])
    wanted = round(base * settings.miss_fraction)
    non_hit = decision.is_non_hit

    def key(part: slice) -> np.ndarray:
        return sampling.sampling_key(frames.train_id[part], frames.cell_id[part])

    # in blocks: keys of all frames, and what they are made of, take memory for nothing
    parts = [slice(a, a + _AT_ONCE) for a in range(0, len(non_hit), _AT_ONCE)]
    lowest = np.zeros(0, np.uint64)
    for part in parts:
        # what is not among the lowest of its rank is not among those of the run
        both = np.concatenate([lowest, key(part)[non_hit[part]]])
        lowest = sampling.lowest_keys(both, wanted)
    cutoff = sampling.sampling_cutoff(mpi.allgather_concat(comm, lowest), wanted)
    is_miss = np.zeros(len(non_hit), bool)
    for part in parts:
        is_miss[part] = sampling.sampled(key(part), non_hit[part], cutoff)
    return is_miss
