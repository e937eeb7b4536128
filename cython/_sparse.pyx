"""Chunk bytes of one module's frames → sparse lists (pixel, count), sums and powder.

Loops only: `xfelmpi.photons` checks every argument, allocates every output and documents them.
Each frame goes through read → inflate → unshuffle → scan while its 64 KiB (u1) stay in the
nearest caches; nothing dense outlives the scan.
"""

from libc.math cimport floorf
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from frames cimport (
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
)

cdef extern from *:
    """
    #include <float.h>

    static inline int first_set_bit(unsigned long long word) { return __builtin_ctzll(word); }
    static inline int last_set_bit(unsigned long long word) { return 63 - __builtin_clzll(word); }
    static inline int count_bits(unsigned long long word) { return __builtin_popcountll(word); }

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
    int last_set_bit(uint64_t word) nogil
    int count_bits(uint64_t word) nogil
    int any_above(const float *v, int n, float cut) nogil

DEF PIXELS = 65536
DEF WORDS = 1024     # of 64 pixels each


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
    """Owns one libdeflate decompressor."""
    cdef libdeflate_decompressor *d

    def __cinit__(self):
        self.d = libdeflate_alloc_decompressor()
        if self.d == NULL:
            raise MemoryError("libdeflate_alloc_decompressor")

    def __dealloc__(self):
        if self.d != NULL:
            libdeflate_free_decompressor(self.d)


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
    cdef int state = OK
    cdef bint masked = spoilt.shape[0] > 0
    cdef Scan s
    cdef Sums out
    cdef FrameMask mask

    if n_frames == 0:
        return used
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
            if masked:
                part_pixels(&mask, s.good, &spoilt[f, 0])
                s.good = <const uint8_t *>mask.good
            if is_float:
                scan_f4(&s, <const float *>frame, cut, adu, threshold)
            elif itemsize == 1:
                scan_u1(&s, frame)
            else:
                scan_u2(&s, <const uint16_t *>frame)
            if masked:
                note_spoilt(&s, &mask, used)
            used = end_frame(&s, &out, f, used)
    return used
