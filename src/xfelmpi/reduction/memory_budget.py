"""What a rank may use of --memory-per-rank."""

from xfelmpi import mpi
from xfelmpi.core.config.options import Config
from xfelmpi.reduction.checkpoint import (
    CHECKPOINT_MEMORY,
)

BASE_MEMORY = 200 << 20
"""Bytes of a rank before the first frame: interpreter, libraries, powder sums, write buffers."""


def spare_memory(config: Config) -> int:
    """Return the bytes that a rank has for frames: sparse lists, kept frames."""
    checkpoints = CHECKPOINT_MEMORY if config.checkpoint_minutes else 0
    return config.memory_per_rank - BASE_MEMORY - checkpoints - mpi.private_bytes()
