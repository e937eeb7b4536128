"""Photons of sparse frames → sums over bins of pixels; cython/_bins.pyx."""

import numpy as np
from numpy.typing import NDArray

def sum_in_bins(
    indptr: NDArray[np.int64],
    pixel: NDArray[np.uint32],
    count: NDArray[np.uint16],
    pixel_bin: NDArray[np.int32],
    of_pixel: NDArray[np.float64],
    photons: NDArray[np.float64],
    left: NDArray[np.float64],
) -> None: ...
