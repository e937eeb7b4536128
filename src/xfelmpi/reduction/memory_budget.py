"""What a rank may use of --memory-per-rank."""

import os

from xfelmpi import mpi
from xfelmpi.core.config.parts import MemorySettings
from xfelmpi.reduction.checkpoint import CHECKPOINT_MEMORY

BASE_MEMORY = 200 << 20
"""Bytes of a rank before the first frame: interpreter, libraries, powder sums, write buffers."""


def node_memory() -> int:
    """Return the bytes of memory that this node has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def spare_memory(settings: MemorySettings) -> int:
    """Return the bytes that a rank has for frames: sparse lists, kept frames.

    A limit above the memory of the node counts as that: results do not depend on it.
    """
    limit = min(settings.memory_per_rank, node_memory())
    checkpoints = CHECKPOINT_MEMORY if settings.checkpoint_minutes else 0
    return limit - BASE_MEMORY - checkpoints - mpi.private_bytes()
