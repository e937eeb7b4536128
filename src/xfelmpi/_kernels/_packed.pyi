"""Sparse frames ↔ 16-bit words, about one for an entry, and their sum; cython/_packed.pyx."""

import numpy as np
from numpy.typing import NDArray

def pack(
    indptr: NDArray[np.int64],
    pixel: NDArray[np.uint32],
    count: NDArray[np.uint16],
    words: NDArray[np.uint16],
    first: int,
    end: int,
    stop: NDArray[np.int64],
) -> int: ...
def unpack(
    words: NDArray[np.uint16],
    start: NDArray[np.int64],
    stop: NDArray[np.int64],
    indptr: NDArray[np.int64],
    pixel: NDArray[np.uint32],
    count: NDArray[np.uint16],
) -> int: ...
def add_entries(
    pixel: NDArray[np.uint32],
    count: NDArray[np.uint16],
    photons: NDArray[np.uint64],
    invalid: NDArray[np.uint32],
) -> None: ...
