"""Views of what the kernels of frames take; cython/_frames.pyx documents them."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

DEFLATE: Final = 1
SHUFFLE: Final = 2

NEVER_WRITTEN: Final = -1
UNREADABLE: Final = -2

OK: Final = 0
READ_FAILED: Final = 1
INFLATE_FAILED: Final = 2
NO_CHUNK: Final = 3
IMPOSSIBLE_SIZE: Final = 4

class ChunkSource:
    def __init__(
        self,
        *,
        fd: int,
        memory: NDArray[np.uint8],
        offset: NDArray[np.int64],
        size: NDArray[np.int64],
        filters: NDArray[np.uint8],
        index_in_chunk: NDArray[np.int32],
        chunk_frames: int,
        n_pixels: int,
        itemsize: int,
        planes: int = 1,
        is_float: bool = False,
    ) -> None: ...
    @property
    def n_frames(self) -> int: ...
    @property
    def chunk_frames(self) -> int: ...
    @property
    def n_pixels(self) -> int: ...

class Inflater:
    def __init__(self, sparse_bytes: int = 4096) -> None: ...
    @property
    def sparse_bytes(self) -> int: ...
    @property
    def n_sparse(self) -> int: ...

class DecodeBuffers:
    def __init__(
        self,
        *,
        inflater: Inflater,
        packed: NDArray[np.uint8],
        spare: NDArray[np.uint8],
        dense: NDArray[np.uint8],
        found: NDArray[np.int32],
    ) -> None: ...
    @property
    def inflater(self) -> Inflater: ...

class PixelMasks:
    def __init__(
        self,
        *,
        good: NDArray[np.uint8],
        mask_row: NDArray[np.int32],
        roi: NDArray[np.uint8],
        masked_in_frame: NDArray[np.uint8] | None = None,
        pixel_offset: int = 0,
    ) -> None: ...

class EntryList:
    n_entries: int
    def __init__(self, *, pixel: NDArray[np.uint32], count: NDArray[np.uint16]) -> None: ...
    @property
    def capacity(self) -> int: ...

class FrameOutputs:
    def __init__(
        self,
        *,
        start: NDArray[np.int64],
        stop: NDArray[np.int64],
        status: NDArray[np.uint8],
        lit: NDArray[np.uint32],
        photons: NDArray[np.uint64],
        roi_lit: NDArray[np.uint32],
        roi_photons: NDArray[np.uint64],
        roi_bad: NDArray[np.uint32],
        n_single: NDArray[np.uint32],
        max_count: NDArray[np.uint16],
        nnz: NDArray[np.uint32],
        switched: NDArray[np.uint32] | None = None,
    ) -> None: ...

class PowderView:
    def __init__(self, *, photons: NDArray[np.uint64], invalid: NDArray[np.uint32]) -> None: ...

class PhotonRule:
    def __init__(
        self, *, one_photon_threshold: float, adu_per_photon: float, threshold: float
    ) -> None: ...
    @property
    def one_photon_threshold(self) -> float: ...
    @property
    def adu_per_photon(self) -> float: ...
    @property
    def threshold(self) -> float: ...
