"""Observers of the pass: sums, likely hits, the frame buffer, progress.

The checkpoint is one as well: `checkpoint.CheckpointWriter`.
"""

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core import fault_injection
from xfelmpi.core.config.parts import HitSettings
from xfelmpi.core.frame_table import FrameTable
from xfelmpi.core.progress import Progress
from xfelmpi.core.sparse_frames import FrameBlock, FrameSums
from xfelmpi.hitfinding import sampling
from xfelmpi.hitfinding.frame_scores import FrameScorer
from xfelmpi.hitfinding.hit_finder import decide_alone
from xfelmpi.reduction.frame_buffer import FrameBuffer
from xfelmpi.reduction.frame_loop import Observer, SourceBlock
from xfelmpi.run.distribution import LocalRun

MISS_MARGIN = 1.2
"""Misses kept over misses wanted: other ranks may find more hits than this one."""

MISS_DEVIATIONS = 4
"""Standard deviations of a Poisson number of hits that are added to what is wanted."""

MISS_ROOM = 0.5
"""Share of the frame buffer that non-hits may take: hits come first."""


class SumKeeper(Observer):
    """Keeps the sums of every frame.

    Parameters
    ----------
    sums : FrameSums
        Of all frames of the rank, to be filled.
    """

    def __init__(self, sums: FrameSums):
        self._sums = sums

    def block(self, source: SourceBlock, block: FrameBlock) -> None:
        """Put the sums of a block of consecutive frames where they belong."""
        self._sums.store(source.rows.start, block.sums)


class LikelyHits(Observer):
    """Tells which frames of a block are hits by the statistics of their own trains.

    Parameters
    ----------
    settings : HitSettings
    scorer : FrameScorer

    Attributes
    ----------
    likely : ndarray, bool (frame,)
        Of the block that was read last.
    n : int
        So far.
    """

    def __init__(self, settings: HitSettings, scorer: FrameScorer):
        self._settings = settings
        self._scorer = scorer
        self.likely = np.zeros(0, bool)
        self.n = 0

    def block(self, source: SourceBlock, block: FrameBlock) -> None:
        """Decide for whole trains."""
        scored = self._scorer.score(block.sums, source.rows)
        self.likely = decide_alone(self._settings, scored).is_hit
        self.n += int(self.likely.sum())


class FrameKeeper(Observer):
    """Keeps frames that will probably be needed again; what is guessed wrong is read again later.

    These are the likely hits, dark frames, which the background leaves out, and the non-hits that
    will probably be drawn as misses.

    Parameters
    ----------
    settings : HitSettings
    kept : FrameBuffer
    hits : LikelyHits
        Comes before this one.
    is_dark : ndarray, bool (frame,)
        Of the rank's frames.
    """

    def __init__(
        self, settings: HitSettings, kept: FrameBuffer, hits: LikelyHits, is_dark: np.ndarray
    ):
        self._settings = settings
        self._kept = kept
        self._hits = hits
        self._is_dark = is_dark
        self._non_hits = 0
        self._room = int(MISS_ROOM * kept.capacity)

    def block(self, source: SourceBlock, block: FrameBlock) -> None:
        """Copy the lists, as far as they fit; hits first."""
        first, likely = source.rows.start, self._hits.likely
        dark = self._is_dark[source.rows]
        non_hits = ~likely & ~dark
        self._non_hits += int(non_hits.sum())
        self._kept.append(first, block, likely)
        self._kept.append(first, block, dark)
        before = self._kept.used
        misses = non_hits & self._candidates(source.frames)
        self._kept.append(first, block, misses, before + self._room)
        self._room -= self._kept.used - before

    def _candidates(self, frames: FrameTable) -> np.ndarray:
        """Return which frames are drawn if they are non-hits, as far as known, bool (frame,)."""
        base = self._hits.n if self._settings.miss_base == "hits" else self._non_hits
        key = sampling.sampling_key(frames.train_id, frames.cell_id)
        return key < _cutoff(base * self._settings.miss_fraction, self._non_hits)


class PassProgress(Observer):
    """Shows how far all ranks are.

    Parameters
    ----------
    comm : Intracomm
    progress : Progress
        Stays open at the end.
    hits : LikelyHits, optional
        Whose number is shown as well.
    """

    def __init__(self, comm, progress: Progress, hits: LikelyHits | None = None):
        self._comm = comm
        self._hits = hits
        self._read = 0
        self._board = mpi.ProgressBoard(comm, progress.show, n_values=2 if hits else 1)

    @property
    def total(self) -> int:
        """Frames of all ranks that were heard of, on rank 0."""
        return int(self._board.total[0])

    def block(self, source: SourceBlock, block: FrameBlock) -> None:
        """Count the frames of a block."""
        fault_injection.inject(self._comm, "photons")
        self._read += 0 if source.again else len(source.frames)
        hits = (self._hits.n,) if self._hits else ()
        self._board.update(self._read, *hits)

    def finish(self) -> None:
        """Wait for the other ranks; collective."""
        self._board.finish()


def frame_scorer(settings: HitSettings, local_run: LocalRun, masks: Masks) -> FrameScorer:
    """Return what scores the frames of this rank."""
    return FrameScorer(
        settings=settings,
        frames=local_run.frames,
        pulse_energy=local_run.pulse_energy,
        is_dark=local_run.n_pulses == 0,
        modules_in_run=local_run.facts.modules_in_run,
        good_in_region=masks.good_in_region,
        region_pixels=masks.region_pixels,
    )


def _cutoff(wanted: float, n: int) -> np.uint64:
    """Return below which sampling key non-hits are kept if `wanted` of n are to be drawn."""
    probable = MISS_MARGIN * wanted + MISS_DEVIATIONS * np.sqrt(wanted)
    # the most that a key can be
    return np.uint64(min(probable / max(n, 1) * 2.0**64, 2.0**64 - 2048))
