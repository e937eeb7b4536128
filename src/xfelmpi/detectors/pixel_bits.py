"""Good pixels as bits.

Bit order: pixel p of a module is bit ``p % 8`` of byte ``p // 8``, so that a photon's look-up is
one byte of an 8 KiB row, which stays in the nearest cache with the frame.
"""

import math

import numpy as np


def pack(good: np.ndarray) -> np.ndarray:
    """Return the bits of boolean pixels: (…, ss, fs) → uint8 (…, ss · fs / 8)."""
    flat = np.ascontiguousarray(good, bool).reshape(*good.shape[:-2], math.prod(good.shape[-2:]))
    return pack_flat(flat)


def pack_flat(good: np.ndarray) -> np.ndarray:
    """Return the bits of boolean pixels: (…, pixel) → uint8 (…, byte)."""
    return np.packbits(good, axis=-1, bitorder="little")


def unpack(bits: np.ndarray) -> np.ndarray:
    """Return 0/1 pixels of bits: uint8 (…, byte) → uint8 (…, 8 · byte)."""
    return np.unpackbits(bits, axis=-1, bitorder="little")
