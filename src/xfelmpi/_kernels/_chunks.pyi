"""Rows of a dataset → where their chunks are in the file; cython/_chunks.pyx."""

import numpy as np
from numpy.typing import NDArray

DEEPEST: int

def find_chunks(
    fd: int,
    root: int,
    dimensions: int,
    frame_axes: int,
    columns: int,
    row: NDArray[np.int64],
    offset: NDArray[np.int64],
    size: NDArray[np.int64],
    skipped: NDArray[np.int64],
) -> tuple[int, str]: ...
