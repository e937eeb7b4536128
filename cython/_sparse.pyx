"""Chunk bytes of one module's frames → sparse lists (pixel, count), sums and powder.

Loops only: `xfelmpi.photons` checks every argument, allocates every output and documents them.
Each frame goes through read → inflate → unshuffle → scan while its 64 KiB (u1) stay in the
nearest caches; nothing dense outlives the scan. Packed frames of u1 that are sparse are never
dense: `sparse_inflate.h` makes their lists while it inflates.
"""

from libc.math cimport floorf
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from frames cimport (
    DEFLATE,
    OK,
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
    int sparse_inflate(SparseInflater *z, const uint8_t *packed, size_t size) nogil

cdef extern from *:
    """
    #include <float.h>

    static inline int first_set_bit(unsigned long long word) { return __builtin_ctzll(word); }

    /* 1 if any of n float32 is not an ordinary number below `cut`: a photon, NaN or ±inf. */
    static inline int any_above(const float *v, int n, float cut)
    {
        int any = 0;
        for (int i = 0; i < n; i++) any |= !(v[i] < cut) | !(v[i] >= -FLT_MAX);
        return any;
    }
    """
    const float FLT_MAX
    int first_set_bit(uint64_t word) nogil
    int any_above(const float *v, int n, float cut) nogil

DEF PIXELS = 65536
DEF SPARSE_BYTES = 4096


cdef void scan_u1(Scan *s, const uint8_t *v) noexcept nogil:
    cdef uint64_t word[8]
    cdef uint64_t w
    cdef uint32_t i, j, p
    for i in range(0, PIXELS, 64):
        memcpy(word, v + i, 64)
        # most blocks of a sparse frame are empty: one test for 64 pixels
        if (word[0] | word[1] | word[2] | word[3] | word[4] | word[5] | word[6] | word[7]) == 0:
            continue
        for j in range(8):
            w = word[j]
            while w:
                p = first_set_bit(w) >> 3
                add(s, i + 8 * j + p, v[i + 8 * j + p])
                w &= ~(<uint64_t>0xFF << (8 * p))


cdef void scan_u2(Scan *s, const uint16_t *v) noexcept nogil:
    cdef uint64_t word[8]
    cdef uint64_t w
    cdef uint32_t i, j, p
    for i in range(0, PIXELS, 32):
        memcpy(word, v + i, 64)
        if (word[0] | word[1] | word[2] | word[3] | word[4] | word[5] | word[6] | word[7]) == 0:
            continue
        for j in range(8):
            w = word[j]
            while w:
                p = first_set_bit(w) >> 4
                add(s, i + 4 * j + p, v[i + 4 * j + p])
                w &= ~(<uint64_t>0xFFFF << (16 * p))


cdef void scan_f4(Scan *s, const float *v, float cut, float adu, float threshold) noexcept nogil:
    cdef uint32_t i, p
    cdef float photons
    for i in range(0, PIXELS, 32):
        if not any_above(v + i, 32, cut):
            continue
        for p in range(i, i + 32):
            if v[p] < cut and v[p] >= -FLT_MAX:
                continue
            photons = floorf(v[p] / adu + <float>1 - threshold)
            if 1 <= photons <= 65535:
                add(s, p, <uint32_t>photons)
            else:
                add(s, p, 0)


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
        Inflater inflater, int fd, int64_t offset, int64_t size, uint8_t *packed) noexcept nogil:
    """Read a frame of u1 into `inflater.sparse`; returns its number of entries.

    -1 if it has to be read the dense way, which also says what is wrong with a damaged one.
    """
    cdef int n
    if offset < 0 or pread_fully(fd, packed, size, offset):
        return -1
    n = sparse_inflate(inflater.sparse, packed, size)
    inflater.n_sparse += n >= 0
    return n


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
        uint32_t[::1] entries):
    """Work off the frames of one module in one file; returns how much of the list is used."""
    cdef Py_ssize_t f, n_frames = offset.shape[0]
    cdef size_t frame_bytes = PIXELS * <size_t>itemsize
    cdef size_t chunk_bytes = frame_bytes * <size_t>chunk_frames
    cdef const uint8_t *in_memory = &memory[0] if memory.shape[0] else NULL
    cdef const uint8_t *frame
    cdef const int32_t *entry = inflater.sparse.list + SPARSE_BACK
    cdef int64_t decoded = -1
    # a chunk's bytes have room for what the sparse way loads behind them
    cdef int64_t sparse_bytes = min(inflater.sparse_bytes, packed.shape[0] - SPARSE_PAD)
    cdef int state = OK
    cdef int i, n
    cdef Scan s
    cdef Sums out

    if n_frames == 0:
        return used
    if itemsize > 1 or chunk_frames > 1 or in_memory != NULL:
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
    with nogil:
        for f in range(n_frames):
            if size[f] <= sparse_bytes and filters[f] == DEFLATE:
                n = read_sparse(inflater, fd, offset[f], size[f], &packed[0])
                if n >= 0:
                    status[f] = OK
                    start[f] = stop[f] = used
                    begin_frame(&s, &good[mask_row[f], 0], used)
                    for i in range(n):
                        add(&s, entry[i] >> 8, entry[i] & 0xFF)
                    used = end_frame(&s, &out, f, used)
                    continue
            if offset[f] != decoded or offset[f] < 0:
                state = decode_chunk(
                    inflater.d, fd, in_memory, offset[f], size[f], filters[f], itemsize,
                    chunk_bytes, &packed[0], packed.shape[0], &spare[0], &dense[0])
                decoded = offset[f]
            status[f] = state
            start[f] = used
            stop[f] = used
            if state != OK:
                continue
            frame = &dense[0] + within[f] * frame_bytes
            begin_frame(&s, &good[mask_row[f], 0], used)
            if is_float:
                scan_f4(&s, <const float *>frame, cut, adu, threshold)
            elif itemsize == 1:
                scan_u1(&s, frame)
            else:
                scan_u2(&s, <const uint16_t *>frame)
            used = end_frame(&s, &out, f, used)
    return used
