"""Raw frames of one module (analogue signal, digital gain level) → sparse lists of photons.

Loops only: `xfelmpi.reduction.sparsifier` and `xfelmpi.calibration.constants` check, allocate and document. Without
common mode two integer comparisons settle almost every pixel of a faint frame: the digital level
against the first stage threshold, and the analogue signal against the smallest one that is a
photon in the high stage. Only what fails them gets the formula.
"""

from libc.math cimport floorf
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

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

cdef extern from "<math.h>":
    const float NAN

cdef extern from "median.h":
    float median_of(const float *v, int n, float *last) nogil

cdef extern from "raw_scan.h":
    int find_candidates(
        const uint16_t *analogue, const uint16_t *digital, const uint16_t *cut,
        const uint16_t *lowest, int n, int32_t *found) nogil
    int find_switched(
        const uint16_t *digital, const uint16_t *level, const uint16_t *lowest, int n,
        int32_t *found) nogil
    int find_bright(
        const float *signal, const float *median, float cut, const uint64_t *also,
        int32_t *found) nogil
    int find_bad(const uint8_t *good, int32_t *found) nogil
    void high_stage_i2(const uint16_t *a, const int16_t *offset, const float *gain,
                       int gain_step, float *signal) nogil
    void high_stage_f4(const uint16_t *a, const float *offset, const float *gain,
                       int gain_step, float *signal) nogil
    int in_asic(int j) nogil
    void prefetch(const void *address) nogil

DEF PIXELS = 65536
DEF BAND = 8192     # pixels of two ASICs side by side
DEF BAND_WORDS = 128
DEF ASIC = 4096
DEF ASICS = 16
DEF AHEAD = 24       # candidates whose constants are fetched in advance

ctypedef fused offset_t:
    int16_t
    float


cdef struct Switched:
    # good pixels of one frame that are not in the high stage
    uint32_t medium
    uint32_t low


cdef inline bint bit(const uint8_t *bits, uint32_t p) noexcept nogil:
    return (bits[p >> 3] >> (p & 7)) & 1


cdef inline void add_signal(
        Scan *s, uint32_t p, float signal, float adu, float threshold) noexcept nogil:
    # every step in float32, as documented; a plain 1 would make it double
    cdef float photons = floorf(signal / adu + <float>1 - threshold)
    if photons >= 1:
        add(s, p, <uint32_t>photons if photons <= 65535 else 0)


cdef inline void fetch(
        Scan *s, const offset_t[:, ::1] offset, const float[:, :] gain, uint32_t p) noexcept nogil:
    prefetch(&offset[0, p])
    prefetch(&gain[0, p])
    prefetch(s.powder + p)


cdef void scan_plain(
        Scan *s, Switched *switched, const uint16_t *analogue, const uint16_t *digital,
        const uint16_t *cut, const uint16_t *lowest1, const uint16_t *level1,
        const uint16_t *level2, const uint8_t *bad_medium, const uint8_t *bad_low,
        const offset_t[:, ::1] offset, const float[:, :] gain,
        float adu, float threshold) noexcept nogil:
    cdef int32_t found[PIXELS]
    cdef uint32_t i, p
    cdef int stage, n_found
    cdef float signal
    n_found = find_candidates(analogue, digital, cut, lowest1, PIXELS, found)
    for i in range(min(AHEAD, n_found)):
        fetch(s, offset, gain, found[i])
    for i in range(n_found):
        # photons are far apart: what they need is on its way while others are worked off
        if i + AHEAD < n_found:
            fetch(s, offset, gain, found[i + AHEAD])
        p = found[i]
        if not bit(s.good, p):
            continue
        stage = 0
        if digital[p] >= lowest1[p >> 6] and digital[p] >= level1[p]:
            stage = 2 if digital[p] > level2[p] else 1
            switched.medium += stage == 1
            switched.low += stage == 2
            if bit(bad_medium if stage == 1 else bad_low, p):
                add(s, p, 0)
                continue
        signal = (<float>analogue[p] - <float>offset[stage, p]) * gain[stage, p]
        add_signal(s, p, signal, adu, threshold)


cdef void scan_common_mode(
        Scan *s, Switched *switched, const uint16_t *analogue, const uint16_t *digital,
        const uint16_t *lowest1, const uint16_t *level1, const uint16_t *level2,
        const uint8_t *bad_medium, const uint8_t *bad_low,
        const offset_t[:, ::1] offset, const float[:, :] gain,
        float adu, float threshold, float photon_signal, float *last) noexcept nogil:
    """As `scan_plain`, less the median of the good pixels of every 64 × 64 ASIC."""
    cdef float signal[BAND]
    cdef float median[2]
    cdef int n_good[2]
    cdef int32_t found[BAND]
    cdef uint64_t spoilt[BAND_WORDS]
    cdef uint32_t first, i, j, p, half
    cdef int n_found, stage
    for first in range(0, PIXELS, BAND):
        if offset_t is float:
            high_stage_f4(analogue + first, &offset[0, first], &gain[0, first],
                          gain.strides[1] != 0, signal)
        else:
            high_stage_i2(analogue + first, &offset[0, first], &gain[0, first],
                          gain.strides[1] != 0, signal)
        n_good[0] = n_good[1] = ASIC
        n_found = find_bad(s.good + first // 8, found)
        for i in range(n_found):
            j = found[i]
            signal[in_asic(j)] = NAN
            n_good[(j >> 6) & 1] -= 1
        memset(spoilt, 0, sizeof(spoilt))
        n_found = find_switched(
            digital + first, level1 + first, lowest1 + first // 64, BAND, found)
        for i in range(n_found):
            j = found[i]
            p = first + j
            if not bit(s.good, p):
                continue
            stage = 2 if digital[p] > level2[p] else 1
            switched.medium += stage == 1
            switched.low += stage == 2
            if bit(bad_medium if stage == 1 else bad_low, p):
                spoilt[j >> 6] |= <uint64_t>1 << (j & 63)
                signal[in_asic(j)] = NAN
                n_good[(j >> 6) & 1] -= 1
            else:
                signal[in_asic(j)] = (
                    (<float>analogue[p] - <float>offset[stage, p]) * gain[stage, p])
        for half in range(2):
            median[half] = median_of(
                signal + ASIC * half, n_good[half], last + 2 * (first // BAND) + half
            ) if n_good[half] else 0
        # NaN fails the comparison: what is bad is not bright
        n_found = find_bright(signal, median, photon_signal, spoilt, found)
        for i in range(n_found):
            j = found[i]
            if (spoilt[j >> 6] >> (j & 63)) & 1:
                add(s, first + j, 0)
            else:
                add_signal(s, first + j, signal[in_asic(j)] - median[(j >> 6) & 1], adu, threshold)


def sparsify_raw(
        int fd, const uint8_t[::1] memory,
        const int64_t[::1] offset_in_file, const int64_t[::1] size, const uint8_t[::1] filters,
        const int32_t[::1] within, int64_t chunk_frames,
        bint common_mode, float adu, float threshold, float photon_signal,
        const int32_t[::1] constants_row, const uint16_t[:, ::1] cut,
        const uint16_t[:, ::1] lowest1, const uint16_t[:, ::1] level1,
        const uint16_t[:, ::1] level2,
        const uint8_t[:, ::1] bad_medium, const uint8_t[:, ::1] bad_low,
        const offset_t[:, :, ::1] offset, const float[:, :, :] gain,
        const uint8_t[:, ::1] good, const int32_t[::1] mask_row, const uint8_t[::1] region,
        uint32_t base, uint8_t[::1] packed, uint8_t[::1] spare, uint8_t[::1] dense,
        int64_t used, uint32_t[::1] out_pixel, uint16_t[::1] out_count,
        uint64_t[::1] powder, uint32_t[::1] invalid,
        int64_t[::1] start, int64_t[::1] stop, uint8_t[::1] status,
        uint32_t[::1] lit, uint64_t[::1] photons, uint32_t[::1] region_lit,
        uint64_t[::1] region_photons, uint32_t[::1] ones, uint16_t[::1] peak,
        uint32_t[::1] entries, uint32_t[::1] region_bad, uint32_t[:, ::1] gain_switched):
    """Work off the frames of one module in one file; returns how much of the list is used."""
    cdef Py_ssize_t f, row, n_frames = offset_in_file.shape[0]
    cdef size_t frame_bytes = PIXELS * 4
    cdef size_t chunk_bytes = frame_bytes * <size_t>chunk_frames
    cdef const uint8_t *in_memory = &memory[0] if memory.shape[0] else NULL
    cdef const uint16_t *frame
    cdef int64_t decoded = -1
    cdef int state = OK
    cdef Scan s
    cdef Sums out
    cdef Switched switched
    # medians of many equal values: where the next ones are sought first
    cdef float last[ASICS]
    cdef libdeflate_decompressor *inflater

    if n_frames == 0:
        return used
    inflater = libdeflate_alloc_decompressor()
    if inflater == NULL:
        raise MemoryError("libdeflate_alloc_decompressor")
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
    memset(last, 0, sizeof(last))
    with nogil:
        for f in range(n_frames):
            if offset_in_file[f] != decoded or decoded < 0:
                state = decode_chunk(
                    inflater, fd, in_memory, offset_in_file[f], size[f], filters[f], 2,
                    chunk_bytes, &packed[0], packed.shape[0], &spare[0], &dense[0])
                decoded = offset_in_file[f]
            status[f] = state
            start[f] = used
            stop[f] = used
            if state != OK:
                continue
            frame = <const uint16_t *>(&dense[0] + within[f] * frame_bytes)
            row = constants_row[f]
            begin_frame(&s, &good[mask_row[f], 0], used)
            switched.medium = switched.low = 0
            if common_mode:
                scan_common_mode(
                    &s, &switched, frame, frame + PIXELS, &lowest1[row, 0], &level1[row, 0],
                    &level2[row, 0],
                    &bad_medium[row, 0], &bad_low[row, 0], offset[row], gain[row],
                    adu, threshold, photon_signal, last)
            else:
                scan_plain(
                    &s, &switched, frame, frame + PIXELS, &cut[row, 0], &lowest1[row, 0],
                    &level1[row, 0], &level2[row, 0], &bad_medium[row, 0], &bad_low[row, 0],
                    offset[row], gain[row], adu, threshold)
            gain_switched[f, 0] = switched.medium
            gain_switched[f, 1] = switched.low
            used = end_frame(&s, &out, f, used)
    libdeflate_free_decompressor(inflater)
    return used
