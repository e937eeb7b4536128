"""Photons by memory cell, sent to the ranks that sum them; cython/_cells.pyx."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

BAND_PIXELS: Final = 8192

JUDGED: Final = 0x2000
HIT: Final = 0x4000
MISS: Final = 0x8000

PHOTONS: Final = 0
PAIRS: Final = 1
INVALID: Final = 2
ALL: Final = 3
HITS: Final = 4
MISSES: Final = 5

class Segments:
    def __init__(
        self,
        *,
        start: NDArray[np.int64],
        stop: NDArray[np.int64],
        pixel: NDArray[np.uint32],
        count: NDArray[np.uint16],
        label: NDArray[np.uint16],
    ) -> None: ...

def count_entries(
    segments: Segments, place: NDArray[np.int64], stripe: int, number: NDArray[np.int64]
) -> None: ...
def pack_entries(
    segments: Segments,
    place: NDArray[np.int64],
    stripe: int,
    cursor: NDArray[np.int64],
    words: NDArray[np.uint64],
) -> None: ...
def add_words(
    words: NDArray[np.uint64], first: int, most: int, sums: NDArray[np.uint32]
) -> None: ...
