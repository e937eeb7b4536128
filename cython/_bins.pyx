"""Photons of sparse frames → sums over bins of pixels.

Loops only: `xfelmpi.analysis.polar_bins` checks, allocates and documents.
"""

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t


def sum_in_bins(
        const int64_t[::1] indptr not None, const uint32_t[::1] pixel not None,
        const uint16_t[::1] count not None, const int32_t[::1] pixel_bin not None,
        const double[:, ::1] of_pixel not None, double[:, ::1] photons not None,
        double[:, :, ::1] left not None):
    """Add the photons of every frame to its bins; take pixels that are bad in it off `left`."""
    cdef Py_ssize_t f, v, n_frames = indptr.shape[0] - 1, n_values = of_pixel.shape[1]
    cdef int64_t i
    cdef int32_t where

    if (photons.shape[0] != n_frames or left.shape[0] != n_frames or left.shape[2] != n_values
            or of_pixel.shape[0] != pixel_bin.shape[0] or left.shape[1] != photons.shape[1]):
        raise ValueError("arrays do not fit each other")
    if indptr[n_frames] > pixel.shape[0] or count.shape[0] != pixel.shape[0]:
        raise ValueError("lists end before their frames")
    with nogil:
        for f in range(n_frames):
            for i in range(indptr[f], indptr[f + 1]):
                where = pixel_bin[pixel[i]]
                if count[i]:
                    photons[f, where] += count[i]
                    continue
                for v in range(n_values):
                    left[f, where, v] -= of_pixel[pixel[i], v]
