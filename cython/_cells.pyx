"""Photons by memory cell: sparse entries → words that can be sent → sums per cell and pixel.

Loops only: `xfelmpi.workflows.mask.cell_sums` checks every argument, allocates every output and documents them.
A word has the pixel's place in its low 32 bits, then 16 bits of label, then 16 bits of count.
"""

from libc.stdint cimport UINT32_MAX, int64_t, uint16_t, uint32_t, uint64_t

DEF BAND_BITS = 13

# bits of a label above the row of the cell; the same numbers stand in xfelmpi.workflows.mask.cell_sums
cdef enum:
    ROW = 0x1FFF
    JUDGED = 0x2000
    HIT = 0x4000
    MISS = 0x8000

# planes of the sums, likewise
cdef enum:
    PHOTONS = 0
    PAIRS = 1
    INVALID = 2
    ALL = 3
    HITS = 4
    MISSES = 5


cdef inline int64_t place_of(uint32_t pixel, const int64_t *place) noexcept nogil:
    cdef int64_t band = place[pixel >> BAND_BITS]
    return band + (pixel & ((1 << BAND_BITS) - 1)) if band >= 0 else -1


def count_entries(
        const int64_t[::1] start, const int64_t[::1] stop, const uint32_t[::1] pixel,
        const int64_t[::1] place, int64_t stripe, int64_t[::1] number):
    """Count the entries of some segments by owner."""
    cdef Py_ssize_t f
    cdef int64_t i, at
    with nogil:
        for f in range(start.shape[0]):
            if start[f] < 0:
                continue
            for i in range(start[f], stop[f]):
                at = place_of(pixel[i], &place[0])
                if at >= 0:
                    number[at // stripe] += 1


def pack_entries(
        const int64_t[::1] start, const int64_t[::1] stop, const uint32_t[::1] pixel,
        const uint16_t[::1] count, const uint16_t[::1] label,
        const int64_t[::1] place, int64_t stripe, int64_t[::1] cursor, uint64_t[::1] words):
    """Put the entries of some segments where the cursor of their owner is, and move that on."""
    cdef Py_ssize_t f
    cdef int64_t i, at
    with nogil:
        for f in range(start.shape[0]):
            if start[f] < 0:
                continue
            for i in range(start[f], stop[f]):
                at = place_of(pixel[i], &place[0])
                if at >= 0:
                    words[cursor[at // stripe]] = (
                        <uint64_t>at | <uint64_t>label[f] << 32 | <uint64_t>count[i] << 48)
                    cursor[at // stripe] += 1


cdef inline void add(uint32_t *total, uint32_t value) noexcept nogil:
    # stops at the largest number: the sum is the same in any order then, too
    total[0] = total[0] + value if total[0] <= UINT32_MAX - value else UINT32_MAX


def add_words(
        const uint64_t[::1] words, int64_t first, uint32_t most, uint32_t[:, :, ::1] sums):
    """Add words to sums (plane, cell, pixel), the first pixel of which is at `first`."""
    cdef Py_ssize_t i
    cdef int64_t p
    cdef uint32_t label, count, row, n
    cdef bint split = sums.shape[0] > ALL
    with nogil:
        for i in range(words.shape[0]):
            p = <int64_t><uint32_t>words[i] - first
            label = (words[i] >> 32) & 0xFFFF
            count = words[i] >> 48
            row = label & ROW
            if label & JUDGED:
                if count == 0:
                    add(&sums[INVALID, row, p], 1)
                else:
                    add(&sums[PHOTONS, row, p], count)
                    n = count if count < most else most
                    if n > 1:
                        add(&sums[PAIRS, row, p], n * (n - 1) // 2)
            if split and count:
                add(&sums[ALL, row, p], count)
                if label & HIT:
                    add(&sums[HITS, row, p], count)
                elif label & MISS:
                    add(&sums[MISSES, row, p], count)
