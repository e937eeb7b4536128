"""Zlib streams; cython/_deflate.pyx."""

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

LIBDEFLATE: str

class Deflater:
    def __init__(self, level: int = 1) -> None: ...
    def compress(self, data: Buffer) -> bytes: ...

def zlib_compress(data: Buffer, level: int = 1) -> bytes: ...
def compress_sparse(
    pixel: NDArray[np.uint32], count: NDArray[np.uint16], planes: int, n_pixels: int
) -> bytes: ...
