"""Photons by memory cell: sparse entries → words that can be sent → sums per cell and pixel.

Loops only: `xfelmpi.workflows.mask.cell_sums` checks every argument, allocates every output and
documents them. A word has the pixel's place in its low 32 bits, then 16 bits of label, then 16 bits
of count.
"""

from libc.stdint cimport UINT32_MAX, int64_t, uint16_t, uint32_t, uint64_t

cdef enum:
    BAND_BITS = 13

cpdef enum:
    BAND_PIXELS = 1 << BAND_BITS

# bits of a label above the row of the cell: what the frame counts for
cdef enum:
    ROW = 0x1FFF

cpdef enum:
    JUDGED = 0x2000
    HIT = 0x4000
    MISS = 0x8000

# planes of the sums
cpdef enum:
    PHOTONS = 0
    PAIRS = 1
    INVALID = 2
    ALL = 3
    HITS = 4
    MISSES = 5


cdef class Segments:
    """The entries of some frames in a sparse list.

    Parameters
    ----------
    start, stop : ndarray, int64 (frame,)
        Start below 0: the frame has none.
    pixel : ndarray, uint32 (entry,)
    count : ndarray, uint16 (entry,)
    label : ndarray, uint16 (frame,)
        Row of the frame's cell, and the bits `JUDGED`, `HIT`, `MISS`.
    """

    cdef const int64_t[::1] start
    cdef const int64_t[::1] stop
    cdef const uint32_t[::1] pixel
    cdef const uint16_t[::1] count
    cdef const uint16_t[::1] label

    def __cinit__(
            self, *, const int64_t[::1] start not None, const int64_t[::1] stop not None,
            const uint32_t[::1] pixel not None, const uint16_t[::1] count not None,
            const uint16_t[::1] label not None):
        self.start = start
        self.stop = stop
        self.pixel = pixel
        self.count = count
        self.label = label


cdef inline int64_t place_of(uint32_t pixel, const int64_t *place) noexcept nogil:
    cdef int64_t band = place[pixel >> BAND_BITS]
    return band + (pixel & (BAND_PIXELS - 1)) if band >= 0 else -1


def count_entries(
        Segments segments not None, const int64_t[::1] place not None, int64_t stripe,
        int64_t[::1] number not None):
    """Count the entries of some frames by owner."""
    cdef Py_ssize_t f
    cdef int64_t i, at
    with nogil:
        for f in range(segments.start.shape[0]):
            if segments.start[f] < 0:
                continue
            for i in range(segments.start[f], segments.stop[f]):
                at = place_of(segments.pixel[i], &place[0])
                if at >= 0:
                    number[at // stripe] += 1


def pack_entries(
        Segments segments not None, const int64_t[::1] place not None, int64_t stripe,
        int64_t[::1] cursor not None, uint64_t[::1] words not None):
    """Put the entries of some frames where the cursor of their owner is, and move that on."""
    cdef Py_ssize_t f
    cdef int64_t i, at
    with nogil:
        for f in range(segments.start.shape[0]):
            if segments.start[f] < 0:
                continue
            for i in range(segments.start[f], segments.stop[f]):
                at = place_of(segments.pixel[i], &place[0])
                if at >= 0:
                    words[cursor[at // stripe]] = (
                        <uint64_t>at | <uint64_t>segments.label[f] << 32
                        | <uint64_t>segments.count[i] << 48)
                    cursor[at // stripe] += 1


cdef inline void add(uint32_t *total, uint32_t value) noexcept nogil:
    # stops at the largest number: the sum is the same in any order then, too
    total[0] = total[0] + value if total[0] <= UINT32_MAX - value else UINT32_MAX


def add_words(
        const uint64_t[::1] words not None, int64_t first, uint32_t most,
        uint32_t[:, :, ::1] sums not None):
    """Add words to sums (plane, cell, pixel), the first pixel of which is at `first`.

    Counts above `most` are taken for `most` in the pairs of photons.
    """
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
