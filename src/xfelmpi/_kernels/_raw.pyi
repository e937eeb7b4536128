"""Raw frames → sparse lists of photons; cython/_raw.pyx."""

import numpy as np
from numpy.typing import NDArray

from xfelmpi._kernels._frames import (
    ChunkSource,
    DecodeBuffers,
    EntryList,
    FrameOutputs,
    PhotonRule,
    PixelMasks,
    PowderView,
)

class RawConstants:
    def __init__(
        self,
        *,
        row: NDArray[np.int32],
        one_photon_adc: NDArray[np.uint16],
        lowest1: NDArray[np.uint16],
        level1: NDArray[np.uint16],
        level2: NDArray[np.uint16],
        bad_medium: NDArray[np.uint8],
        bad_low: NDArray[np.uint8],
        offset: NDArray[np.int16] | NDArray[np.float32],
        gain: NDArray[np.float32],
        common_mode: bool,
        rule: PhotonRule,
    ) -> None: ...

def sparsify_raw(
    source: ChunkSource,
    buffers: DecodeBuffers,
    constants: RawConstants,
    masks: PixelMasks,
    entries: EntryList,
    out: FrameOutputs,
    powder: PowderView,
) -> None: ...
