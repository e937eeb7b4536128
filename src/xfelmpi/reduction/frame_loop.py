"""The pass: every frame of a rank is read once, train by train, and becomes sums and photons."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core import fault_injection, shutdown
from xfelmpi.core.config.options import Config
from xfelmpi.core.frame_table import FrameTable
from xfelmpi.core.problems import Problem
from xfelmpi.core.progress import Progress
from xfelmpi.core.sparse_frames import FrameSums
from xfelmpi.detectors.module_bits import bits_of
from xfelmpi.hitfinding import sampling
from xfelmpi.hitfinding.frame_scores import FrameScorer
from xfelmpi.hitfinding.hit_finder import decide_alone
from xfelmpi.reduction.checkpoint import CheckpointWriter, ReductionState
from xfelmpi.run.distribution import LocalRun

MISS_CANDIDATES = 0.1
"""Share of the non-hits, lowest lottery numbers first, whose photons are kept in case they are
drawn as misses; more misses than that are read again."""

MOST_TRAINS = 16
"""Trains in a block of raw data at most; more would not help the cache further."""


def read_photons(
    comm,
    config: Config,
    masks: Masks,
    result: ReductionState,
    done_before: np.ndarray,
    writer: CheckpointWriter,
) -> None:
    """Read the frames of this rank that are not done, train by train, and add them to `result`.

    Frames that will probably be needed again (hits by the train's own statistics, and candidates
    for misses) are kept; what is guessed wrong is read again later, with the same result.
    """
    share, sums, kept, sparsifier = result.share, result.sums, result.kept, result.sparsifier
    frames, n_run = share.frames, share.facts.n_frames
    n_before = int(mpi.allreduce_sum(comm, np.array([done_before.sum()]))[0])
    progress = Progress(n_run - n_before)
    board = mpi.ProgressBoard(comm, progress.show)
    shutdown.plan.progress = lambda: (
        f"after about {n_before + board.total[0]:,} of {n_run:,} frames"
    )
    shutdown.plan.save = writer.write
    shutdown.plan.resumable = config.checkpoint_minutes > 0
    scorer = frame_scorer(config, share, masks)
    read = hits = 0
    for a, b in train_blocks(frames, sums, sparsifier.room, share.facts.kind, done_before):
        with shutdown.defer_shutdown():
            block = sparsifier.frames(frames[a:b], writer.recent, name_invalid=True)
            fault_injection.inject(comm, "photons")
            sums.put(a, block.sums)
            scored = scorer.score(block.sums, slice(a, b))
            likely = decide_alone(config, scored).is_hit
            kept.append(a, block, likely)
            kept.append(a, block, ~likely & _miss_candidates(frames[a:b]))
            writer.add(a, b)
        read += b - a
        hits += int(likely.sum())
        board.update(read, hits)
    with shutdown.defer_shutdown():
        writer.end_pass()
    board.finish()
    progress.close()
    # later stages are not counted in frames
    shutdown.plan.progress = str


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


def without_dead_modules(comm, share: LocalRun, sums: FrameSums) -> LocalRun:
    """Return the share without modules of which no frame could be read; collective.

    Such a module is as good as absent from the run: it must not make every frame incomplete.
    """
    present = bits_of((share.frames.file >= 0).any(axis=0))
    found, read = mpi.allreduce_bor(
        comm, np.array([present, np.bitwise_or.reduce(sums.modules, initial=0)], np.int64)
    ).tolist()
    dead = found & ~read
    if not dead:
        return share
    facts = replace(share.facts, modules_in_run=share.facts.modules_in_run & ~dead)
    problems = [
        Problem("no frame of this module can be read", "", m, 0, "its pixels count as missing")
        for m in range(share.frames.n_modules)
        if dead >> m & 1 and comm.rank == 0
    ]
    return replace(share, facts=facts, problems=(*share.problems, *problems))


def train_blocks(
    frames: FrameTable, sums: FrameSums, room: int, kind: str, skip: np.ndarray | None = None
) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of blocks of whole trains, as many as fit the sparse buffer.

    Parameters
    ----------
    frames : FrameTable
    sums : FrameSums
        Of the same frames, filled by the caller between the blocks.
    room : int
        Entries of the sparse buffer.
    kind : str
        ``proc`` or ``raw``.
    skip : ndarray, bool (frame,), optional
        True for all frames of a train: it is in no block, and its sums are there.

    Notes
    -----
    Frames of raw data are worked off cell by cell within a block, so that the constants of a cell
    serve several trains; corrected data gain nothing from more than one train. How many sparse
    entries a frame has is known from the blocks before.
    """
    edges = [0, *(np.flatnonzero(np.diff(frames.train_id)) + 1).tolist(), len(frames)]
    train, n_trains = 0, len(edges) - 1
    most = MOST_TRAINS if kind == "raw" else 1
    skipped = np.zeros(len(edges), bool) if skip is None else np.append(skip, False)[edges]
    while train < n_trains:
        if skipped[train]:
            train += 1
            continue
        first, stop = edges[train], train + 1
        # the first train is alone: it says how many entries to expect
        if first:
            per_frame = int(sums.entries[:first].sum()) / first
            last = min(train + most, n_trains)
            while stop < last and not skipped[stop]:
                if per_frame * (edges[stop + 1] - first) > room:
                    break
                stop += 1
        yield first, edges[stop]
        train = stop
