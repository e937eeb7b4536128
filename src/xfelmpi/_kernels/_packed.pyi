"""Sparse frames ↔ 16-bit words, about one for an entry, and their sum; cython/_packed.pyx."""

import numpy as np

def pack(
    indptr: np.ndarray,
    pixel: np.ndarray,
    count: np.ndarray,
    words: np.ndarray,
    first: int,
    end: int,
    stop: np.ndarray,
) -> int: ...
def unpack(
    words: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    indptr: np.ndarray,
    pixel: np.ndarray,
    count: np.ndarray,
) -> int: ...
def add_entries(
    pixel: np.ndarray, count: np.ndarray, photons: np.ndarray, invalid: np.ndarray
) -> None: ...
