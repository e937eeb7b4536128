"""Photons of sparse frames → sums over bins of pixels; cython/_bins.pyx."""

import numpy as np

def sum_in_bins(
    indptr: np.ndarray,
    pixel: np.ndarray,
    count: np.ndarray,
    pixel_bin: np.ndarray,
    of_pixel: np.ndarray,
    photons: np.ndarray,
    left: np.ndarray,
) -> None: ...
