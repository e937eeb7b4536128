"""Good pixels as bits.

Bit order: pixel p of a module is bit ``p % 8`` of byte ``p // 8``, so that a photon's look-up is
one byte of an 8 KiB row, which stays in the nearest cache with the frame.
"""

import numpy as np

from xfelmpi.detectors.agipd import MODULE_PIXELS


def pack(good: np.ndarray) -> np.ndarray:
    """Return the bits of boolean pixels: (…, 512, 128) → uint8 (…, 8192)."""
    flat = np.ascontiguousarray(good, bool).reshape(*good.shape[:-2], MODULE_PIXELS)
    return np.packbits(flat, axis=-1, bitorder="little")


def unpack(bits: np.ndarray) -> np.ndarray:
    """Return 0/1 pixels of bits: uint8 (…, 8192) → uint8 (…, 65536)."""
    return np.unpackbits(bits, axis=-1, bitorder="little")
