"""Sums per frame to hit scores; `SCORES` has every score by its name."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from xfelmpi.core.config.parts import HitSettings
from xfelmpi.core.frame_table import FrameTable
from xfelmpi.core.sparse_frames import FrameSums
from xfelmpi.detectors.module_bits import modules_of
from xfelmpi.hitfinding.hit_finder import score_frames
from xfelmpi.hitfinding.scores import ScoredFrames, unmasked_factor

SCORES: dict[str, Callable[[FrameSums], np.ndarray]] = {
    "litpixels": lambda sums: sums.region_lit,
    "photons": lambda sums: sums.region_photons,
}
"""What ``--score`` counts in the hit-finding region, by name: sums → values (frame,)."""


@dataclass(frozen=True, kw_only=True)
class FrameScorer:
    """Scores the frames of a rank.

    Parameters
    ----------
    settings : HitSettings
    frames : FrameTable
        All frames of the rank.
    pulse_energy : ndarray, float64 (frame,)
        In J.
    is_dark : ndarray, bool (frame,)
        Frames without an X-ray pulse.
    modules_in_run : int
        Bit m set: module m is in the run.
    good_in_region : ndarray, int64 (module, cell)
        Good pixels of the hit-finding region, by memory cell.
    region_pixels : int
        Pixels of the region, good or not.
    """

    settings: HitSettings
    frames: FrameTable
    pulse_energy: np.ndarray
    is_dark: np.ndarray
    modules_in_run: int
    good_in_region: np.ndarray
    region_pixels: int

    def score(self, sums: FrameSums, rows: slice = slice(None), comm=None) -> ScoredFrames:
        """Score frames; collective with `comm`, else by what this rank knows of them.

        Parameters
        ----------
        sums : FrameSums
            Of the frames to score, no others.
        rows : slice
            Which of the rank's frames they are.
        comm : Intracomm, optional
        """
        settings, frames = self.settings, self.frames
        there = modules_of(self.modules_in_run, len(self.good_in_region))
        good = (there @ self.good_in_region)[frames.cell_id[rows]]
        good -= sums.region_bad
        # a frame of which nothing could be seen has not scored 0
        values = np.where(good > 0, SCORES[settings.score](sums), np.nan)
        if settings.normalise == "unmasked":
            values = values * unmasked_factor(good, self.region_pixels)
        return score_frames(
            comm,
            settings,
            frames.train_id[rows],
            frames.cell_id[rows],
            self.pulse_energy[rows],
            (sums.modules == self.modules_in_run) & ~self.is_dark[rows],
            values.astype(np.float64, copy=False),
        )
