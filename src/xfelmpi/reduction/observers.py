"""Observers of the pass: sums, likely hits, the frame buffer, progress.

The checkpoint is one as well: `checkpoint.CheckpointWriter`.
"""

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core import fault_injection
from xfelmpi.core.config.options import Config
from xfelmpi.core.frame_table import FrameTable
from xfelmpi.core.progress import Progress
from xfelmpi.core.sparse_frames import FrameBlock, FrameSums
from xfelmpi.hitfinding import sampling
from xfelmpi.hitfinding.frame_scores import FrameScorer
from xfelmpi.hitfinding.hit_finder import decide_alone
from xfelmpi.reduction.frame_buffer import FrameBuffer
from xfelmpi.reduction.frame_loop import Observer, SourceBlock
from xfelmpi.run.distribution import LocalRun

MISS_CANDIDATES = 0.1
"""Share of the non-hits, lowest lottery numbers first, whose photons are kept in case they are
drawn as misses; more misses than that are read again."""


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
        self._sums.put(source.rows.start, block.sums)


class LikelyHits(Observer):
    """Tells which frames of a block are hits by the statistics of their own trains.

    Parameters
    ----------
    config : Config
    scorer : FrameScorer

    Attributes
    ----------
    likely : ndarray, bool (frame,)
        Of the block that was read last.
    n : int
        So far.
    """

    def __init__(self, config: Config, scorer: FrameScorer):
        self._config = config
        self._scorer = scorer
        self.likely = np.zeros(0, bool)
        self.n = 0

    def block(self, source: SourceBlock, block: FrameBlock) -> None:
        """Decide for whole trains."""
        scored = self._scorer.score(block.sums, source.rows)
        self.likely = decide_alone(self._config, scored).is_hit
        self.n += int(self.likely.sum())


class FrameKeeper(Observer):
    """Keeps frames that will probably be needed again; what is guessed wrong is read again later.

    These are the likely hits, and candidates for misses.

    Parameters
    ----------
    kept : FrameBuffer
    hits : LikelyHits
        Comes before this one.
    """

    def __init__(self, kept: FrameBuffer, hits: LikelyHits):
        self._kept = kept
        self._hits = hits

    def block(self, source: SourceBlock, block: FrameBlock) -> None:
        """Copy the lists, as far as they fit; hits first."""
        first, likely = source.rows.start, self._hits.likely
        self._kept.append(first, block, likely)
        self._kept.append(first, block, ~likely & _miss_candidates(source.frames))


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


def frame_scorer(config: Config, share: LocalRun, masks: Masks) -> FrameScorer:
    """Return what scores the frames of this rank."""
    return FrameScorer(
        config=config,
        frames=share.frames,
        pulse_energy=share.pulse_energy,
        modules_in_run=share.facts.modules_in_run,
        good_in_region=masks.good_in_region,
        region_pixels=masks.region_pixels,
    )


def _miss_candidates(frames: FrameTable) -> np.ndarray:
    """Return which frames are among the first to be drawn as misses, bool (frame,)."""
    lottery = sampling.sampling_key(frames.train_id, frames.cell_id)
    return lottery < np.uint64(int(MISS_CANDIDATES * 2**64))
