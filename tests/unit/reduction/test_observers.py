"""What the pass keeps: all hits, and about as many non-hits as will be drawn, at any hit rate."""

import numpy as np
import pytest
from modulefiles import MODULES, make_table

from xfelmpi.core.config.options import Config
from xfelmpi.core.sparse_frames import FrameBlock, FrameSums
from xfelmpi.hitfinding.frame_scores import FrameScorer
from xfelmpi.hitfinding.hit_finder import decide_alone, draw_misses
from xfelmpi.mpi import alone
from xfelmpi.reduction.frame_buffer import WORD_BYTES, FrameBuffer
from xfelmpi.reduction.frame_loop import SourceBlock
from xfelmpi.reduction.observers import FrameKeeper, LikelyHits

TRAINS, CELLS, ENTRIES = 400, 50, 5
N = TRAINS * CELLS


class Kept:
    """A run of `rate` hits of 5 entries a frame, observed train by train, and its decision."""

    def __init__(self, rate, room, **options):
        config = Config(1, decide="fixed", fixed_threshold=100.0, **options)
        table = make_table(
            {0: (0, np.arange(N))},
            np.repeat(2000 + np.arange(TRAINS), CELLS),
            np.tile(np.arange(CELLS), TRAINS),
        )
        good = np.ones((MODULES, 352), np.int64)
        scorer = FrameScorer(
            settings=config,
            frames=table,
            pulse_energy=np.ones(N),
            is_dark=np.zeros(N, bool),
            modules_in_run=1,
            good_in_region=good,
            region_pixels=1,
        )
        self.buffer = FrameBuffer(N, room * ENTRIES * WORD_BYTES)
        hits = LikelyHits(config, scorer)
        keeper = FrameKeeper(config, self.buffer, hits, scorer.is_dark)
        sums = FrameSums.zeros(N)
        sums.region_lit[:] = np.where(np.random.default_rng(1).random(N) < rate, 150, 50)
        sums.entries[:] = ENTRIES
        sums.modules[:] = 1
        for first in range(0, N, CELLS):
            rows = slice(first, first + CELLS)
            own = FrameSums(*(getattr(sums, name)[rows] for name in FrameSums.names()))
            start = np.zeros((CELLS, MODULES), np.int64)
            start[:, 0] = ENTRIES * np.arange(CELLS)
            stop = start.copy()
            stop[:, 0] += ENTRIES
            lists = np.zeros(CELLS * ENTRIES, np.uint32), np.ones(CELLS * ENTRIES, np.uint16)
            block = FrameBlock(own, start, stop, *lists)
            for observer in (hits, keeper):
                observer.block(SourceBlock(rows, table[rows]), block)
        scored = scorer.score(sums)
        decision = decide_alone(config, scored)
        self.is_hit = decision.is_hit
        self.is_miss = draw_misses(alone(), config, scored, decision)
        self.has = self.buffer.has(np.arange(N))


@pytest.mark.parametrize(
    ("rate", "options"),
    [
        (0.0, {}),
        (0.004, {}),
        (0.05, {}),
        (0.3, {}),
        (0.05, {"miss_fraction": 4.0}),
        (0.05, {"miss_fraction": 0.0}),
        (0.05, {"miss_fraction": 1e6}),
        (0.05, {"miss_fraction": 0.1, "miss_base": "misses"}),
    ],
)
def test_what_is_drawn_is_kept_and_little_more(rate, options):
    run = Kept(rate, 2 * N, **options)
    n_misses = int(run.is_miss.sum())
    assert run.has[run.is_hit].all()
    lost = int((run.is_miss & ~run.has).sum())
    assert lost <= 0.02 * n_misses, "misses to be read again"
    others = int((run.has & ~run.is_hit).sum())
    assert others <= 1.3 * n_misses + 8 * np.sqrt(n_misses)


def test_hits_have_room_when_all_non_hits_are_wanted():
    """Without a bound the non-hits of the first trains would take all of the buffer."""
    run = Kept(0.05, N // 8, miss_fraction=1.0, miss_base="misses")
    assert run.is_miss.sum() > 0.9 * N
    assert run.has[run.is_hit].all()
    assert (run.has & run.is_miss).sum() == N // 16
