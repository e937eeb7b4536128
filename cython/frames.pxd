# What the kernels share: bringing a chunk into memory, and noting one pixel's photons.
# Inline functions only, so that nothing of this file is imported at run time.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "chunk_bytes.h":
    int pread_fully(int fd, uint8_t *to, size_t size, long long offset) nogil
    void unshuffle(const uint8_t *source, uint8_t *target, size_t n, int itemsize) nogil

cdef extern from "libdeflate.h":
    struct libdeflate_decompressor:
        pass
    libdeflate_decompressor *libdeflate_alloc_decompressor() nogil
    void libdeflate_free_decompressor(libdeflate_decompressor *d) nogil
    int libdeflate_zlib_decompress(
        libdeflate_decompressor *d, const void *source, size_t n_source,
        void *target, size_t n_target, size_t *n_out) nogil

# what `status` says of a frame; the same numbers stand in xfelmpi.reduction.sparsifier
cdef enum:
    OK = 0
    READ_FAILED = 1
    INFLATE_FAILED = 2
    NOT_ALLOCATED = 3
    IMPOSSIBLE_SIZE = 4

# bits of `filters`
cdef enum:
    DEFLATE = 1
    SHUFFLE = 2


cdef struct Scan:
    # one frame being scanned: where its entries go, and what has been summed
    const uint8_t *good
    const uint8_t *region
    uint64_t *powder
    uint32_t *invalid
    uint32_t *out_pixel
    uint16_t *out_count
    int64_t n
    int64_t room
    uint32_t base
    uint64_t photons
    uint64_t region_photons
    uint32_t lit
    uint32_t region_lit
    uint32_t region_bad
    uint32_t ones
    uint32_t peak


cdef inline void add(Scan *s, uint32_t p, uint32_t count) noexcept nogil:
    """Note a pixel with photons; count 0 stands for a pixel that is bad in this frame only."""
    if not (s.good[p >> 3] >> (p & 7)) & 1:
        return
    if s.n < s.room:
        s.out_pixel[s.n] = s.base + p
        s.out_count[s.n] = <uint16_t>count
    s.n += 1
    if count == 0:
        s.invalid[p] += 1
        s.region_bad += (s.region[p >> 3] >> (p & 7)) & 1
        return
    s.powder[p] += count
    s.lit += 1
    s.photons += count
    s.ones += count == 1
    if count > s.peak:
        s.peak = count
    if (s.region[p >> 3] >> (p & 7)) & 1:
        s.region_lit += 1
        s.region_photons += count


cdef struct Sums:
    # where the sums of every frame go
    int64_t *start
    int64_t *stop
    uint8_t *status
    uint32_t *lit
    uint64_t *photons
    uint32_t *region_lit
    uint64_t *region_photons
    uint32_t *ones
    uint16_t *peak
    uint32_t *entries
    uint32_t *region_bad


cdef inline void begin_frame(Scan *s, const uint8_t *good, int64_t used) noexcept nogil:
    s.good = good
    s.n = used
    s.photons = s.region_photons = 0
    s.lit = s.region_lit = s.region_bad = s.ones = s.peak = 0


cdef inline int64_t end_frame(Scan *s, Sums *out, Py_ssize_t f, int64_t used) noexcept nogil:
    """Note the sums of frame f; returns how much of the list is used."""
    out.lit[f] = s.lit
    out.photons[f] = s.photons
    out.region_lit[f] = s.region_lit
    out.region_photons[f] = s.region_photons
    out.ones[f] = s.ones
    out.peak[f] = <uint16_t>s.peak
    out.entries[f] = <uint32_t>(s.n - used)
    out.region_bad[f] = s.region_bad
    if s.n > s.room:
        # the sums stand, the list of this frame is left out
        out.start[f] = -1
        return used
    out.stop[f] = s.n
    return s.n


cdef inline int inflate_chunk(
        libdeflate_decompressor *d, const uint8_t *packed, int64_t size, int filters, int itemsize,
        size_t n_bytes, uint8_t *spare, uint8_t *dense) noexcept nogil:
    """Inflate one chunk, and unshuffle it if it is shuffled, into `dense`; returns its status."""
    cdef uint8_t *inflated = spare if filters & SHUFFLE else dense
    # a NULL for the size found demands exactly n_bytes
    if libdeflate_zlib_decompress(d, packed, size, inflated, n_bytes, NULL) != 0:
        return INFLATE_FAILED
    if filters & SHUFFLE:
        unshuffle(inflated, dense, n_bytes // itemsize, itemsize)
    return OK


cdef inline int decode_chunk(
        libdeflate_decompressor *d, int fd, const uint8_t *memory, int64_t offset, int64_t size,
        int filters, int itemsize, size_t n_bytes,
        uint8_t *packed, int64_t packed_size, uint8_t *spare, uint8_t *dense) noexcept nogil:
    """Bring one chunk, unfiltered, into `dense`; returns its status."""
    cdef uint8_t *stored = spare if filters & SHUFFLE else dense
    if offset < 0:
        return NOT_ALLOCATED
    if size > packed_size or (not filters & DEFLATE and <size_t>size != n_bytes):
        return IMPOSSIBLE_SIZE
    if memory != NULL:
        memcpy(dense, memory + offset, n_bytes)
        return OK
    if filters & DEFLATE:
        if pread_fully(fd, packed, size, offset):
            return READ_FAILED
        return inflate_chunk(d, packed, size, filters, itemsize, n_bytes, spare, dense)
    if pread_fully(fd, stored, n_bytes, offset):
        return READ_FAILED
    if filters & SHUFFLE:
        unshuffle(stored, dense, n_bytes // itemsize, itemsize)
    return OK
