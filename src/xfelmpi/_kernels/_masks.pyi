"""Masks of frames → bits of bad pixels; cython/_masks.pyx."""

import numpy as np
from numpy.typing import NDArray

from xfelmpi._kernels._frames import ChunkSource, DecodeBuffers

class KnownMasks:
    def __init__(self, *, arena: NDArray[np.uint64], place: NDArray[np.uint32]) -> None: ...
    @property
    def n(self) -> int: ...
    @property
    def n_found(self) -> int: ...

def fold_masks(
    source: ChunkSource,
    buffers: DecodeBuffers,
    known: KnownMasks,
    fill: int,
    bits: int,
    bad: NDArray[np.uint8],
    status: NDArray[np.uint8],
) -> None: ...
def join_masks(
    source: ChunkSource,
    buffers: DecodeBuffers,
    packed_before: NDArray[np.uint8],
    fill: int,
    slot: NDArray[np.int32],
    held: NDArray[np.uint32],
    status: NDArray[np.uint8],
) -> None: ...
def take_off_bad(
    good: NDArray[np.uint64], frames: NDArray[np.uint32], total: NDArray[np.uint32]
) -> None: ...
