"""Sparse frames ↔ 16-bit words, about one for an entry; and their sum.

Loops only: `xfelmpi.reduction.frame_buffer` and `powder` allocate and document.

A word has the gap to the pixel before, 12 bits, and the count, 4 bits. Where one does not fit, its
bits are all 1, and it follows in words of its own: two for the gap, the lower first, one for the
count. The gap of a frame's first entry is its pixel number.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

cdef enum:
    COUNT_BITS = 4
    LONG_COUNT = 0xF
    LONG_GAP = 0xFFF


def pack(
        const int64_t[::1] indptr not None, const uint32_t[::1] pixel not None,
        const uint16_t[::1] count not None, uint16_t[::1] words not None,
        int64_t first, int64_t end, int64_t[::1] stop not None):
    """Write frames to ``words[first:end]``; `stop` gets where each ends; returns how many fit."""
    cdef Py_ssize_t f, n_frames = indptr.shape[0] - 1
    cdef int64_t i, at = first
    cdef uint32_t before, gap, photons

    if stop.shape[0] != n_frames or not 0 <= first <= end <= words.shape[0]:
        raise ValueError("arrays do not fit each other")
    if indptr[n_frames] > pixel.shape[0] or count.shape[0] != pixel.shape[0]:
        raise ValueError("lists end before their frames")
    with nogil:
        for f in range(n_frames):
            before = 0
            for i in range(indptr[f], indptr[f + 1]):
                gap, photons = pixel[i] - before, count[i]
                before = pixel[i]
                if at + 1 + 2 * (gap >= LONG_GAP) + (photons >= LONG_COUNT) > end:
                    with gil:
                        return f
                words[at] = <uint16_t>(min(gap, LONG_GAP) << COUNT_BITS | min(photons, LONG_COUNT))
                at += 1
                if gap >= LONG_GAP:
                    words[at] = <uint16_t>gap
                    words[at + 1] = <uint16_t>(gap >> 16)
                    at += 2
                if photons >= LONG_COUNT:
                    words[at] = <uint16_t>photons
                    at += 1
            stop[f] = at
    return n_frames


def unpack(
        const uint16_t[::1] words not None, const int64_t[::1] start not None,
        const int64_t[::1] stop not None, const int64_t[::1] indptr not None,
        uint32_t[::1] pixel not None, uint16_t[::1] count not None):
    """Read the frames that are at ``words[start:stop]``, with as many entries as `indptr` says.

    Returns how many are whole: with the first one that has another number of entries, or that is
    outside of the words, it ends.
    """
    cdef Py_ssize_t f, n_frames = start.shape[0]
    cdef int64_t i, at, end
    cdef uint32_t gap, photons, before

    if stop.shape[0] != n_frames or indptr.shape[0] != n_frames + 1:
        raise ValueError("arrays do not fit each other")
    if indptr[n_frames] > pixel.shape[0] or count.shape[0] != pixel.shape[0]:
        raise ValueError("lists end before their frames")
    with nogil:
        for f in range(n_frames):
            at, end, before = start[f], stop[f], 0
            if at < 0 or end > words.shape[0]:
                with gil:
                    return f
            for i in range(indptr[f], indptr[f + 1]):
                if at >= end:
                    with gil:
                        return f
                gap, photons = words[at] >> COUNT_BITS, words[at] & LONG_COUNT
                at += 1
                if at + 2 * (gap == LONG_GAP) + (photons == LONG_COUNT) > end:
                    with gil:
                        return f
                if gap == LONG_GAP:
                    gap = words[at] | <uint32_t>words[at + 1] << 16
                    at += 2
                if photons == LONG_COUNT:
                    photons = words[at]
                    at += 1
                before += gap
                pixel[i] = before
                count[i] = <uint16_t>photons
            if at != end:
                with gil:
                    return f
    return n_frames


def add_entries(
        const uint32_t[::1] pixel not None, const uint16_t[::1] count not None,
        uint64_t[::1] photons not None, uint32_t[::1] invalid not None):
    """Add entries of sparse lists to the `photons` of their pixels; a count of 0 is `invalid`."""
    cdef Py_ssize_t i, n = pixel.shape[0], n_pixels = photons.shape[0]

    if count.shape[0] != n or invalid.shape[0] != n_pixels:
        raise ValueError("arrays do not fit each other")
    with nogil:
        for i in range(n):
            if pixel[i] >= n_pixels:
                with gil:
                    raise IndexError(f"pixel {pixel[i]} of a frame of {n_pixels} pixels")
            photons[pixel[i]] += count[i]
            if count[i] == 0:
                invalid[pixel[i]] += 1
