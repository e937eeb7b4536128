"""The pass: every frame of a rank is read once, train by train, and becomes sums and photons."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from xfelmpi import collective, fault, select, stopping
from xfelmpi.checkpoints import CheckpointWriter, PassResult
from xfelmpi.config import Config
from xfelmpi.decision import decide_alone, score_frames
from xfelmpi.detector import N_MODULES
from xfelmpi.frametable import FrameTable
from xfelmpi.masks import Masks
from xfelmpi.records import Problem
from xfelmpi.report import Progress
from xfelmpi.scores import ScoredFrames, unmasked_factor
from xfelmpi.share import Share
from xfelmpi.sparse import FrameSums

MISS_CANDIDATES = 0.1
"""Share of the non-hits, lowest lottery numbers first, whose photons are kept in case they are
drawn as misses; more misses than that are read again."""

MOST_TRAINS = 16
"""Trains in a block of raw data at most; more would not help the cache further."""


def read_photons(
    comm,
    config: Config,
    masks: Masks,
    result: PassResult,
    done_before: np.ndarray,
    writer: CheckpointWriter,
) -> None:
    """Read the frames of this rank that are not done, train by train, and add them to `result`.

    Frames that will probably be needed again (hits by the train's own statistics, and candidates
    for misses) are kept; what is guessed wrong is read again later, with the same result.
    """
    share, sums, kept, sparsifier = result.share, result.sums, result.kept, result.sparsifier
    frames, n_run = share.frames, share.facts.n_frames
    n_before = int(collective.sum_all(comm, np.array([done_before.sum()]))[0])
    progress = Progress(n_run - n_before)
    board = collective.ProgressBoard(comm, progress.show)
    stopping.plan.progress = lambda: (
        f"after about {n_before + board.total[0]:,} of {n_run:,} frames"
    )
    stopping.plan.save = writer.write
    stopping.plan.resumable = config.checkpoint_minutes > 0
    candidates = np.uint64(int(MISS_CANDIDATES * 2**64))
    read = hits = 0
    for a, b in train_blocks(frames, sums, sparsifier.room, share.facts.kind, done_before):
        with stopping.held():
            block = sparsifier.frames(frames[a:b], writer.recent, name_invalid=True)
            fault.point(comm, "photons")
            sums.put(a, block.sums)
            scored = score(None, config, share, masks, block.sums, slice(a, b))
            likely = decide_alone(config, scored).is_hit
            lottery = select.lottery_number(frames.train_id[a:b], frames.cell_id[a:b])
            kept.keep(a, block, likely)
            kept.keep(a, block, ~likely & (lottery < candidates))
            writer.add(a, b)
        read += b - a
        hits += int(likely.sum())
        board.update(read, hits)
    with stopping.held():
        writer.end_pass()
    board.finish()
    progress.close()
    stopping.plan.progress = str


def without_dead_modules(comm, share: Share, sums: FrameSums) -> Share:
    """Return the share without modules of which no frame could be read; collective.

    Such a module is as good as absent from the run: it must not make every frame incomplete.
    """
    present = (share.frames.file >= 0).any(axis=0) @ (1 << np.arange(N_MODULES))
    found, read = collective.or_all(
        comm, np.array([present, np.bitwise_or.reduce(sums.modules, initial=0)], np.int64)
    ).tolist()
    dead = found & ~read
    if not dead:
        return share
    facts = replace(share.facts, modules_in_run=share.facts.modules_in_run & ~dead)
    problems = [
        Problem("no frame of this module can be read", "", m, 0, "its pixels count as missing")
        for m in range(N_MODULES)
        if dead >> m & 1 and comm.rank == 0
    ]
    return replace(share, facts=facts, problems=(*share.problems, *problems))


def train_blocks(
    frames: FrameTable, sums: FrameSums, room: int, kind: str, skip: np.ndarray | None = None
) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of blocks of whole trains, as many as fit the sparse buffer.

    Trains of which `skip`, bool (frame,), is true are in none of them; their sums are known.

    Frames of raw data are worked off cell by cell within a block, so that the constants of a cell
    serve several trains; corrected data gain nothing from more than one train. How many sparse
    entries a frame has is known from the blocks before: `sums` is read while it is being filled.
    """
    edges = [0, *(np.flatnonzero(np.diff(frames.train_id)) + 1).tolist(), len(frames)]
    at, most = 0, MOST_TRAINS if kind == "raw" else 1
    skipped = np.zeros(len(edges), bool) if skip is None else np.append(skip, False)[edges]
    while at < len(edges) - 1:
        if skipped[at]:
            at += 1
            continue
        # the first train alone says how many photons to expect
        n, done = 1, edges[at]
        if done:
            entries = int(sums.entries[:done].sum()) / done
            while n < most and at + n < len(edges) - 1:
                if skipped[at + n] or entries * (edges[at + n + 1] - done) > room:
                    break
                n += 1
        yield done, edges[at + n]
        at += n


def score(comm, config: Config, share: Share, masks: Masks, sums: FrameSums, rows) -> ScoredFrames:
    """Score frames; collective, or by what this rank knows of them without `comm`."""
    values = sums.region_lit if config.score == "litpixels" else sums.region_photons
    frames = share.frames
    there = share.facts.modules_in_run >> np.arange(N_MODULES) & 1
    good = (there @ masks.good_in_region)[frames.cell_id[rows]] - sums.region_bad
    # a frame of which nothing could be seen has not scored 0
    values = np.where(good > 0, values, np.nan)
    if config.normalise == "unmasked":
        values = values * unmasked_factor(good, masks.region_pixels)
    return score_frames(
        comm,
        config,
        frames.train_id[rows],
        frames.cell_id[rows],
        share.pulse_energy[rows],
        sums.modules == share.facts.modules_in_run,
        values.astype(np.float64),
    )
