"""The most memory that a call takes besides what there was before, and a long run's columns."""

import tracemalloc

import numpy as np

from xfelmpi.core.event_table import EventColumns

TRAINS, CELLS = 2841, 352
FRAMES = TRAINS * CELLS
"""A million."""


def bytes_per_frame(call) -> float:
    """Return the peak memory of a call, less what there was before, over `FRAMES`."""
    # numpy loads parts of itself when they are needed first
    call()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result is not None
    return (peak - before) / FRAMES


def long_run() -> EventColumns:
    """Return the columns of a made-up run of `FRAMES` frames, 1 % of them hits."""
    rng = np.random.default_rng(3)
    columns = {
        name: np.zeros(FRAMES, field.metadata["dtype"])
        for name, field in EventColumns.__dataclass_fields__.items()
        if name not in ("gain_switched", "pumped", "added")
    }
    score = rng.poisson(5000, FRAMES)
    is_hit = rng.random(FRAMES) < 0.01
    score[is_hit] *= 3
    columns |= {
        "trainId": np.repeat(np.arange(TRAINS, dtype=np.uint64) + np.uint64(10**9), CELLS),
        "cellId": np.tile(np.arange(CELLS, dtype=np.uint16), TRAINS),
        "photons": score.astype(np.uint64),
        "hitscore": score.astype(np.float32),
        "is_hit": is_hit,
        "pulse_energy": rng.normal(1e-3, 1e-4, FRAMES),
        "wavelength": np.repeat(rng.normal(2e-10, 1e-14, TRAINS), CELLS),
        "modules": np.full(FRAMES, 0xFFFF, np.uint16),
        "n_pulses": np.ones(FRAMES, np.uint8),
    }
    return EventColumns(**columns)
