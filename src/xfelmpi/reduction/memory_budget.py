"""What a rank may use of --memory-per-rank."""

import os

from xfelmpi import mpi
from xfelmpi.core.config.parts import MemorySettings

_PROGRAM = 152 << 20
"""Bytes of a rank before the first frame: interpreter, libraries, write buffers."""

_PIXEL_BYTES = 48
"""Bytes per pixel of a frame: powders of all frames and of hits, and copies while ranks join them.
"""

_CHECKPOINT_PIXEL_BYTES = 24
"""The same of checkpoints: another powder, and copies while it is written."""

_FRAME_BYTES = 160
"""Bytes per frame of a rank: its positions in the files, its sums and its columns in the outputs,
which are 105 of them, and what a stage needs for a moment."""

_LEAST = 32 << 20
"""Bytes that a rank has for frames, whatever the limit is."""


def node_memory() -> int:
    """Return the bytes of memory that this node has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def base_memory(frame_pixels: int) -> int:
    """Return the bytes of a rank that holds no frames, of a detector of so many pixels."""
    return _PROGRAM + _PIXEL_BYTES * frame_pixels


def spare_memory(settings: MemorySettings, frame_pixels: int, n_frames: int = 0) -> int:
    """Return the bytes that a rank has for frames: sparse lists, kept frames.

    A limit above the memory of the node counts as that: results do not depend on it.

    Parameters
    ----------
    settings : MemorySettings
    frame_pixels : int
        Of the detector.
    n_frames : int
        Of this rank, as far as known.
    """
    spare = min(settings.memory_per_rank, node_memory())
    spare -= base_memory(frame_pixels) + mpi.private_bytes() + _FRAME_BYTES * n_frames
    if settings.checkpoint_minutes:
        spare -= _CHECKPOINT_PIXEL_BYTES * frame_pixels
    return max(_LEAST, spare)
