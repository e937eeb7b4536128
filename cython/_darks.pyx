"""Sums over the dark frames of one cell, per pixel.

Loops only: `xfelmpi.calibration.dark_statistics` checks and allocates.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t


def add_moments(
        const uint16_t[:, ::1] values not None, const uint16_t[::1] low not None,
        const uint16_t[::1] high not None, uint32_t[::1] number not None,
        uint64_t[::1] total not None, uint64_t[::1] squares not None):
    """Add number, sum and sum of squares of the values from low to high, both included."""
    cdef Py_ssize_t frame, p, n_pixels = values.shape[1]
    cdef uint32_t v, inside
    with nogil:
        # frame by frame: all arrays are walked in memory order, and the loop vectorises
        for frame in range(values.shape[0]):
            for p in range(n_pixels):
                v = values[frame, p]
                inside = (v >= low[p]) & (v <= high[p])
                v = v * inside
                number[p] += inside
                total[p] += v
                squares[p] += v * v
