"""What a rank has for frames: the limit less what pixels and checkpoints take."""

import pytest

from xfelmpi import mpi
from xfelmpi.core.config.parts import MemorySettings
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.detectors.jungfrau import JUNGFRAU_4M
from xfelmpi.detectors.known import DETECTORS
from xfelmpi.reduction.memory_budget import base_memory, spare_memory
from xfelmpi.reduction.powder import PowderSum

MIB = 1 << 20


def spare(limit, detector, minutes=5.0, n_frames=0):
    # other tests of this process may have left arrays that no longer fit into shared memory
    limit = limit * MIB + mpi.private_bytes()
    settings = MemorySettings(memory_per_rank=limit, checkpoint_minutes=minutes)
    return spare_memory(settings, detector.frame_pixels, n_frames) / MIB


def test_agipd_1m():
    assert base_memory(AGIPD_1M.frame_pixels) == 200 * MIB
    assert spare(400, AGIPD_1M) == 176
    assert spare(400, AGIPD_1M, 0.0) == 200
    assert spare(400, AGIPD_1M, n_frames=1 << 19) == 176 - 80


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: d.name)
def test_there_is_room_for_all_powders(detector):
    """Of all frames, of hits, and of those that the next checkpoint gets with a copy of them."""
    powder = PowderSum.zeros(1, detector)
    n_bytes = sum(getattr(powder, name).nbytes for name in powder.names()) / MIB
    without, with_checkpoints = spare(1000, detector, 0.0), spare(1000, detector)
    assert without < 1000 - 4 * n_bytes
    assert with_checkpoints < without - 1.9 * n_bytes


def test_a_limit_too_low_for_the_detector_leaves_room_for_blocks():
    assert spare(256, JUNGFRAU_4M) == 32
