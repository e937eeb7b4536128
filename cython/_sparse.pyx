"""Chunk bytes of one module's frames → sparse lists (pixel, count), sums and powder.

Loops only: `xfelmpi.reduction.sparsifier` checks every argument, allocates every output and documents them.
Each frame goes through read → inflate → unshuffle → scan while its 64 KiB (u1) stay in the
nearest caches; nothing dense outlives the scan. Packed frames of integers that are sparse are
never dense: `sparse_inflate.h` makes their lists while it inflates.
"""

from libc.math cimport floorf
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from frames cimport (
    DEFLATE,
    OK,
    SHUFFLE,
    Scan,
    Sums,
    add,
    begin_frame,
    decode_chunk,
    end_frame,
    libdeflate_alloc_decompressor,
    libdeflate_decompressor,
    libdeflate_free_decompressor,
    pread_fully,
)

cdef extern from "sparse_inflate.h":
    enum:
        SPARSE_BACK
        SPARSE_PAD
    ctypedef struct SparseInflater:
        int32_t *list
    void sparse_init(SparseInflater *z) nogil
    int sparse_inflate(
        SparseInflater *z, const uint8_t *packed, size_t size, int n_bytes) nogil

cdef extern from *:
    """
    static inline int last_set_bit(unsigned long long word) { return 63 - __builtin_clzll(word); }
    static inline int count_bits(unsigned long long word) { return __builtin_popcountll(word); }
    """
    int last_set_bit(uint64_t word) nogil
    int count_bits(uint64_t word) nogil

cdef extern from "sparse_scan.h":
    int find_lit_u1(const uint8_t *v, int n, int32_t *found) nogil
    int find_lit_u2(const uint16_t *v, int n, int32_t *found) nogil
    int find_lit_f4(const float *v, float cut, int n, int32_t *found) nogil

DEF PIXELS = 65536
DEF WORDS = 1024     # of 64 pixels each
DEF SPARSE_BYTES = 4096


cdef void scan_u1(Scan *s, const uint8_t *v, int32_t *found) noexcept nogil:
    cdef int i
    for i in range(find_lit_u1(v, PIXELS, found)):
        add(s, found[i], v[found[i]])


cdef void scan_u2(Scan *s, const uint16_t *v, int32_t *found) noexcept nogil:
    cdef int i
    for i in range(find_lit_u2(v, PIXELS, found)):
        add(s, found[i], v[found[i]])


cdef void scan_f4(
        Scan *s, const float *v, float cut, float adu, float threshold,
        int32_t *found) noexcept nogil:
    cdef int i
    cdef float value, photons
    for i in range(find_lit_f4(v, cut, PIXELS, found)):
        value = v[found[i]]
        photons = floorf(value / adu + <float>1 - threshold)
        # NaN fails every comparison
        add(s, found[i], <uint32_t>photons if 1 <= photons <= 65535 else 0)


cdef struct FrameMask:
    # one frame's own mask: pixels good by all masks, and those bad by this one alone
    uint64_t good[WORDS]
    uint64_t spoilt[WORDS]


cdef void part_pixels(FrameMask *m, const uint8_t *good, const uint8_t *bad) noexcept nogil:
    cdef int i
    memcpy(m.good, good, 8 * WORDS)
    memcpy(m.spoilt, bad, 8 * WORDS)
    for i in range(WORDS):
        m.spoilt[i] &= m.good[i]
        m.good[i] ^= m.spoilt[i]


cdef void note_spoilt(Scan *s, const FrameMask *m, int64_t used) noexcept nogil:
    """Put the spoilt pixels between the entries from `used` on, all in ascending order."""
    cdef int64_t n_spoilt = 0, old, new
    cdef uint64_t w
    cdef uint32_t p
    cdef int i
    cdef bint stored
    for i in range(WORDS):
        n_spoilt += count_bits(m.spoilt[i])
    stored = s.n + n_spoilt <= s.room
    # from the end, so that no entry is overwritten before it is moved
    old, new = s.n - 1, s.n + n_spoilt - 1
    for i in range(WORDS - 1, -1, -1):
        w = m.spoilt[i]
        while w:
            p = last_set_bit(w)
            w ^= <uint64_t>1 << p
            p += 64 * i
            s.invalid[p] += 1
            s.region_bad += (s.region[p >> 3] >> (p & 7)) & 1
            if not stored:
                continue
            while old >= used and s.out_pixel[old] > s.base + p:
                s.out_pixel[new] = s.out_pixel[old]
                s.out_count[new] = s.out_count[old]
                old -= 1
                new -= 1
            s.out_pixel[new] = s.base + p
            s.out_count[new] = 0
            new -= 1
    s.n += n_spoilt


cdef class Inflater:
    """What inflating needs; one per thread.

    Parameters
    ----------
    sparse_bytes : int
        Largest chunk whose list is made without a dense frame; in larger ones there are so many
        photons that libdeflate and a scan take less time.

    Attributes
    ----------
    n_sparse : int
        Frames that were never dense.
    """
    cdef libdeflate_decompressor *d
    cdef SparseInflater *sparse
    cdef readonly int64_t sparse_bytes
    cdef readonly int64_t n_sparse

    def __cinit__(self, int64_t sparse_bytes=SPARSE_BYTES):
        self.d = libdeflate_alloc_decompressor()
        self.sparse = <SparseInflater *>calloc(1, sizeof(SparseInflater))
        if self.d == NULL or self.sparse == NULL:
            raise MemoryError("no memory for inflating")
        sparse_init(self.sparse)
        self.sparse_bytes = sparse_bytes

    def __dealloc__(self):
        if self.d != NULL:
            libdeflate_free_decompressor(self.d)
        free(self.sparse)


cdef inline int read_sparse(
        Inflater inflater, int fd, int64_t offset, int64_t size, int n_bytes,
        uint8_t *packed) noexcept nogil:
    """Read a frame into `inflater.sparse`; returns its number of entries.

    -1 if it has to be read the dense way, which also says what is wrong with a damaged one.
    """
    cdef int n
    if offset < 0 or pread_fully(fd, packed, size, offset):
        return -1
    n = sparse_inflate(inflater.sparse, packed, size, n_bytes)
    inflater.n_sparse += n >= 0
    return n


cdef void add_entries(Scan *s, const int32_t *entry, int n) noexcept nogil:
    """Note the pixels of one plane of bytes, or of the low ones and the high ones."""
    cdef int low, high, n_low = n
    cdef int32_t above
    while n_low and entry[n_low - 1] >> 8 >= PIXELS:
        n_low -= 1
    high = n_low
    for low in range(n_low):
        above = 0
        while high < n and (entry[high] >> 8) - PIXELS <= entry[low] >> 8:
            above = entry[high] & 0xFF
            if (entry[high] >> 8) - PIXELS < entry[low] >> 8:
                # a multiple of 256
                add(s, (entry[high] >> 8) - PIXELS, above << 8)
                above = 0
            high += 1
        add(s, entry[low] >> 8, above << 8 | entry[low] & 0xFF)
    for high in range(high, n):
        add(s, (entry[high] >> 8) - PIXELS, (entry[high] & 0xFF) << 8)


def sparsify(
        Inflater inflater, int fd, const uint8_t[::1] memory,
        const int64_t[::1] offset, const int64_t[::1] size, const uint8_t[::1] filters,
        const int32_t[::1] within, int64_t chunk_frames, int itemsize, bint is_float,
        float cut, float adu, float threshold,
        const uint8_t[:, ::1] good, const int32_t[::1] mask_row, const uint8_t[::1] region,
        uint32_t base, uint8_t[::1] packed, uint8_t[::1] spare, uint8_t[::1] dense,
        int64_t used, uint32_t[::1] out_pixel, uint16_t[::1] out_count,
        uint64_t[::1] powder, uint32_t[::1] invalid,
        int64_t[::1] start, int64_t[::1] stop, uint8_t[::1] status,
        uint32_t[::1] lit, uint64_t[::1] photons, uint32_t[::1] region_lit,
        uint64_t[::1] region_photons, uint32_t[::1] ones, uint16_t[::1] peak,
        uint32_t[::1] entries, uint32_t[::1] region_bad, const uint8_t[:, ::1] spoilt):
    """Work off the frames of one module in one file; returns how much of the list is used."""
    cdef Py_ssize_t f, n_frames = offset.shape[0]
    cdef size_t frame_bytes = PIXELS * <size_t>itemsize
    cdef size_t chunk_bytes = frame_bytes * <size_t>chunk_frames
    cdef const uint8_t *in_memory = &memory[0] if memory.shape[0] else NULL
    cdef const uint8_t *frame
    cdef int64_t decoded = -1
    # behind a chunk's bytes there must be room for what is loaded with them
    cdef int64_t sparse_bytes = min(inflater.sparse_bytes, packed.shape[0] - SPARSE_PAD)
    # frames whose bytes stand in the order of the pixels, as one plane or two
    cdef int sparse_filters = DEFLATE if itemsize == 1 else DEFLATE | SHUFFLE
    cdef int state = OK
    cdef bint masked = spoilt.shape[0] > 0
    cdef int n
    cdef int32_t found[PIXELS]
    cdef Scan s
    cdef Sums out
    cdef FrameMask mask

    if n_frames == 0:
        return used
    if is_float or chunk_frames > 1 or in_memory != NULL:
        sparse_bytes = -1
    s.region = &region[0]
    s.powder = &powder[0]
    s.invalid = &invalid[0]
    s.out_pixel = &out_pixel[0]
    s.out_count = &out_count[0]
    s.room = out_pixel.shape[0]
    s.base = base
    out.start, out.stop, out.status = &start[0], &stop[0], &status[0]
    out.lit, out.photons = &lit[0], &photons[0]
    out.region_lit, out.region_photons = &region_lit[0], &region_photons[0]
    out.ones, out.peak, out.entries = &ones[0], &peak[0], &entries[0]
    out.region_bad = &region_bad[0]
    with nogil:
        for f in range(n_frames):
            n = -1
            if size[f] <= sparse_bytes and filters[f] == sparse_filters:
                n = read_sparse(inflater, fd, offset[f], size[f], frame_bytes, &packed[0])
            if n < 0 and (offset[f] != decoded or offset[f] < 0):
                state = decode_chunk(
                    inflater.d, fd, in_memory, offset[f], size[f], filters[f], itemsize,
                    chunk_bytes, &packed[0], packed.shape[0], &spare[0], &dense[0])
                decoded = offset[f]
            status[f] = OK if n >= 0 else state
            start[f] = used
            stop[f] = used
            if status[f] != OK:
                continue
            frame = &dense[0] + within[f] * frame_bytes
            begin_frame(&s, &good[mask_row[f], 0], used)
            if masked:
                part_pixels(&mask, s.good, &spoilt[f, 0])
                s.good = <const uint8_t *>mask.good
            if n >= 0:
                add_entries(&s, inflater.sparse.list + SPARSE_BACK, n)
            elif is_float:
                scan_f4(&s, <const float *>frame, cut, adu, threshold, found)
            elif itemsize == 1:
                scan_u1(&s, frame, found)
            else:
                scan_u2(&s, <const uint16_t *>frame, found)
            if masked:
                note_spoilt(&s, &mask, used)
            used = end_frame(&s, &out, f, used)
    return used
