"""What stages of a run of a million frames take for a moment, besides the columns themselves."""

from types import SimpleNamespace

import numpy as np
import pytest
from peakmemory import FRAMES, bytes_per_frame, long_run

from xfelmpi import mpi
from xfelmpi.core.config.options import Config
from xfelmpi.core.config.parts import HitSettings
from xfelmpi.core.sparse_frames import FrameSums
from xfelmpi.hitfinding.frame_scores import FrameScorer
from xfelmpi.hitfinding.hit_finder import scored_before
from xfelmpi.output.beam import beam_wavelength
from xfelmpi.reduction.frame_buffer import FrameBuffer
from xfelmpi.reduction.run_sums import background_weights
from xfelmpi.workflows.process import decide_scored

ALONE = mpi.alone()


@pytest.fixture(scope="module")
def run():
    return long_run()


def test_scores(run):
    """They take 4 bytes of a frame."""
    sums = FrameSums.zeros(FRAMES)
    sums.modules[:] = run.modules
    sums.region_lit[:] = run.photons
    scorer = FrameScorer(
        settings=Config().part(HitSettings),
        frames=SimpleNamespace(train_id=run.trainId, cell_id=run.cellId),
        pulse_energy=run.pulse_energy,
        is_dark=run.is_dark,
        modules_in_run=0xFFFF,
        good_in_region=np.full((16, 352), 65536),
        region_pixels=1 << 20,
    )
    assert bytes_per_frame(lambda: scorer.score(sums, comm=ALONE)) < 24


@pytest.mark.parametrize("decide", ["auto", "run"])
def test_hits_and_misses(run, decide):
    """What is decided takes 20 bytes of a frame."""
    settings = Config(decide=decide).part(HitSettings)
    scored = scored_before(settings, run, np.ones(FRAMES, bool))
    assert bytes_per_frame(lambda: decide_scored(ALONE, settings, scored)) < 32


def test_background_weights(run):
    """Those of hits: the energies of all others are joined, for a mean that no rank changes."""
    rows, read = np.flatnonzero(run.is_hit), np.ones(FRAMES, bool)
    found = bytes_per_frame(lambda: background_weights(ALONE, run, 0xFFFF, read, rows))
    assert found < 15


def test_wavelength(run):
    """All frames of a train share it."""
    assert bytes_per_frame(lambda: beam_wavelength(ALONE, None, run.wavelength)) < 4


@pytest.mark.parametrize("n", [1, 2, 999, 1000])
def test_wavelength_of_every_frame(n):
    """It is the median over frames, whether these share it or not."""
    some = [2e-10, 2.0003e-10, 1.9999e-10, 2.0005e-10]
    of_frame = np.random.default_rng(5).choice(some, n)
    with_gaps = np.insert(of_frame, [0, n // 2, n], np.nan)
    assert beam_wavelength(ALONE, None, with_gaps) == (np.median(of_frame), "")


def test_frames_that_are_not_kept():
    assert bytes_per_frame(lambda: FrameBuffer(FRAMES, 1 << 20)) < 5
    buffer = FrameBuffer(FRAMES, 1 << 20)

    def release():
        buffer.release()
        return buffer.has(np.arange(3))

    assert bytes_per_frame(release) < 5
    assert not release().any()
