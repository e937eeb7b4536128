"""Sums over dark frames; cython/_darks.pyx."""

import numpy as np
from numpy.typing import NDArray

def add_moments(
    values: NDArray[np.uint16],
    low: NDArray[np.uint16],
    high: NDArray[np.uint16],
    number: NDArray[np.uint32],
    total: NDArray[np.uint64],
    squares: NDArray[np.uint64],
) -> None: ...
