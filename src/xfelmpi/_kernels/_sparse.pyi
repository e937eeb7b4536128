"""Corrected frames → sparse lists of photons; cython/_sparse.pyx."""

from xfelmpi._kernels._frames import (
    ChunkSource,
    DecodeBuffers,
    EntryList,
    FrameOutputs,
    PhotonRule,
    PixelMasks,
    PowderView,
)

def sparsify(
    source: ChunkSource,
    buffers: DecodeBuffers,
    rule: PhotonRule,
    masks: PixelMasks,
    entries: EntryList,
    out: FrameOutputs,
    powder: PowderView,
) -> None: ...
