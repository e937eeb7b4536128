"""Raw frames of one module (analogue signal, digital gain level) → sparse lists of photons.

Loops only: `xfelmpi.reduction.sparsifier` and `xfelmpi.calibration.constants` check and allocate.
Without common mode two integer comparisons settle almost every pixel of a faint frame: the digital
level against the first stage threshold, and the analogue signal against the smallest one that is a
photon in the high stage. Only what fails them gets the formula.
"""

from libc.math cimport floorf
from libc.stdint cimport int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from xfelmpi._kernels._frames cimport (
    ChunkSource,
    DecodeBuffers,
    EntryList,
    FrameOutputs,
    PhotonRule,
    PixelMasks,
    PowderView,
    Scan,
    begin_frame,
    begin_scan,
    check_sizes,
    end_frame,
    frame_of,
    load_chunk,
    scan_add,
    skip_frame,
)

cdef extern from "<math.h>":
    const float NAN

cdef extern from "median.h":
    float median_of(const float *v, int n, float *last) nogil

cdef extern from "raw_scan.h":
    int find_candidates(
        const uint16_t *analogue, const uint16_t *digital, const uint16_t *one_photon,
        const uint16_t *lowest, int n, int32_t *found) nogil
    int find_switched(
        const uint16_t *digital, const uint16_t *level, const uint16_t *lowest, int n,
        int32_t *found) nogil
    int find_bright(
        const float *signal, const float *median, float one_photon, const uint64_t *also,
        int32_t *found) nogil
    int find_bad(const uint8_t *good, int32_t *found) nogil
    void high_stage_i2(const uint16_t *a, const int16_t *offset, const float *gain,
                       int gain_step, float *signal) nogil
    void high_stage_f4(const uint16_t *a, const float *offset, const float *gain,
                       int gain_step, float *signal) nogil
    int in_asic(int j) nogil
    void prefetch(const void *address) nogil

# an AGIPD module; the loops of raw_scan.h know its ASICs
cdef enum:
    PIXELS = 65536
    BAND = 8192         # pixels of two ASICs side by side
    BANDS = 8
    BAND_WORDS = 128
    ASIC = 4096
    ASICS = 16
    AHEAD = 24          # candidates whose constants are fetched in advance

ctypedef fused offset_t:
    int16_t
    float


cdef class RawConstants:
    """Constants of one module, and which of them some of its frames need.

    Parameters
    ----------
    row : ndarray, int32 (frame,)
        Row of every frame in the other arrays.
    one_photon_adc : ndarray, uint16 (row, pixel)
        Smallest analogue value that is a photon in the high stage.
    lowest1 : ndarray, uint16 (row, pixel / 64)
        Smallest `level1` of every 64 pixels.
    level1, level2 : ndarray, uint16 (row, pixel)
        High stage below the first, low stage above the second.
    bad_medium, bad_low : ndarray, uint8 (row, byte)
        Bits of the pixels that are bad in that stage.
    offset : ndarray, int16 or float32 (row, stage, pixel)
    gain : ndarray, float32 (row, stage, pixel)
    common_mode : bool
        Whether the median of every ASIC is subtracted.
    rule : PhotonRule
        From the signal in ADU of the high stage to photons.
    """

    cdef const int32_t[::1] row
    cdef const uint16_t[:, ::1] one_photon_adc
    cdef const uint16_t[:, ::1] lowest1
    cdef const uint16_t[:, ::1] level1
    cdef const uint16_t[:, ::1] level2
    cdef const uint8_t[:, ::1] bad_medium
    cdef const uint8_t[:, ::1] bad_low
    # one of the two
    cdef const int16_t[:, :, ::1] offset_i2
    cdef const float[:, :, ::1] offset_f4
    cdef bint has_float_offset
    cdef const float[:, :, :] gain
    cdef bint common_mode
    cdef PhotonRule rule

    def __cinit__(
            self, *, const int32_t[::1] row not None,
            const uint16_t[:, ::1] one_photon_adc not None,
            const uint16_t[:, ::1] lowest1 not None, const uint16_t[:, ::1] level1 not None,
            const uint16_t[:, ::1] level2 not None, const uint8_t[:, ::1] bad_medium not None,
            const uint8_t[:, ::1] bad_low not None, offset not None,
            const float[:, :, :] gain not None, bint common_mode, PhotonRule rule not None):
        self.row = row
        self.one_photon_adc = one_photon_adc
        self.lowest1 = lowest1
        self.level1 = level1
        self.level2 = level2
        self.bad_medium = bad_medium
        self.bad_low = bad_low
        self.has_float_offset = offset.dtype.kind == "f"
        if self.has_float_offset:
            self.offset_f4 = offset
        else:
            self.offset_i2 = offset
        self.gain = gain
        self.common_mode = common_mode
        self.rule = rule


cdef struct RawFrame:
    # one frame, its rows of the constants, and its good pixels that are not in the high stage
    const uint16_t *analogue
    const uint16_t *digital
    const uint16_t *one_photon_adc
    const uint16_t *lowest1
    const uint16_t *level1
    const uint16_t *level2
    const uint8_t *bad_medium
    const uint8_t *bad_low
    uint32_t n_medium
    uint32_t n_low


cdef inline int begin_raw_frame(
        RawFrame *r, RawConstants c, const uint8_t *frame, Py_ssize_t row) except -1 nogil:
    r.analogue = <const uint16_t *>frame
    r.digital = r.analogue + PIXELS
    r.one_photon_adc = &c.one_photon_adc[row, 0]
    r.lowest1 = &c.lowest1[row, 0]
    r.level1 = &c.level1[row, 0]
    r.level2 = &c.level2[row, 0]
    r.bad_medium = &c.bad_medium[row, 0]
    r.bad_low = &c.bad_low[row, 0]
    r.n_medium = r.n_low = 0
    return 0


cdef inline bint bit(const uint8_t *bits, uint32_t p) noexcept nogil:
    return (bits[p >> 3] >> (p & 7)) & 1


cdef inline void add_signal(
        Scan *s, uint32_t p, float signal, float adu_per_photon, float threshold) noexcept nogil:
    # every step in float32, as documented; a plain 1 would make it double
    cdef float photons = floorf(signal / adu_per_photon + <float>1 - threshold)
    if photons >= 1:
        scan_add(s, p, <uint32_t>photons if photons <= 65535 else 0)


cdef inline int stage_of(RawFrame *r, uint32_t p) noexcept nogil:
    """Return the stage of a good pixel that is not in the high one, and count it."""
    if r.digital[p] > r.level2[p]:
        r.n_low += 1
        return 2
    r.n_medium += 1
    return 1


cdef inline void fetch(
        Scan *s, const offset_t[:, ::1] offset, const float[:, :] gain, uint32_t p) noexcept nogil:
    prefetch(&offset[0, p])
    prefetch(&gain[0, p])
    prefetch(s.powder + p)


cdef void scan_plain(
        Scan *s, RawFrame *r, const offset_t[:, ::1] offset, const float[:, :] gain,
        PhotonRule rule) noexcept nogil:
    cdef float adu_per_photon = rule.adu_per_photon, threshold = rule.threshold
    cdef int32_t found[PIXELS]
    cdef uint32_t i, p
    cdef int stage, n_found
    cdef float signal
    n_found = find_candidates(
        r.analogue, r.digital, r.one_photon_adc, r.lowest1, PIXELS, found)
    for i in range(min(AHEAD, n_found)):
        fetch(s, offset, gain, found[i])
    for i in range(n_found):
        # photons are far apart: what they need is on its way while others are processed
        if i + AHEAD < n_found:
            fetch(s, offset, gain, found[i + AHEAD])
        p = found[i]
        if not bit(s.good, p):
            continue
        stage = 0
        if r.digital[p] >= r.lowest1[p >> 6] and r.digital[p] >= r.level1[p]:
            stage = stage_of(r, p)
            if bit(r.bad_medium if stage == 1 else r.bad_low, p):
                scan_add(s, p, 0)
                continue
        signal = (<float>r.analogue[p] - <float>offset[stage, p]) * gain[stage, p]
        add_signal(s, p, signal, adu_per_photon, threshold)


cdef void scan_common_mode(
        Scan *s, RawFrame *r, const offset_t[:, ::1] offset, const float[:, :] gain,
        PhotonRule rule, float *last) noexcept nogil:
    """As `scan_plain`, less the median of the good pixels of every 64 × 64 ASIC."""
    cdef float adu_per_photon = rule.adu_per_photon, threshold = rule.threshold
    cdef float signal[BAND]
    cdef float median[2]
    cdef int n_good[2]
    cdef int32_t found[BAND]
    cdef uint64_t bad[BAND_WORDS]
    cdef uint32_t band, first, i, j, p, half
    cdef int n_found, stage
    for band in range(BANDS):
        first = BAND * band
        if offset_t is float:
            high_stage_f4(r.analogue + first, &offset[0, first], &gain[0, first],
                          gain.strides[1] != 0, signal)
        else:
            high_stage_i2(r.analogue + first, &offset[0, first], &gain[0, first],
                          gain.strides[1] != 0, signal)
        n_good[0] = n_good[1] = ASIC
        n_found = find_bad(s.good + first // 8, found)
        for i in range(n_found):
            j = found[i]
            signal[in_asic(j)] = NAN
            n_good[(j >> 6) & 1] -= 1
        memset(bad, 0, sizeof(bad))
        n_found = find_switched(
            r.digital + first, r.level1 + first, r.lowest1 + first // 64, BAND, found)
        for i in range(n_found):
            j = found[i]
            p = first + j
            if not bit(s.good, p):
                continue
            stage = stage_of(r, p)
            if bit(r.bad_medium if stage == 1 else r.bad_low, p):
                bad[j >> 6] |= <uint64_t>1 << (j & 63)
                signal[in_asic(j)] = NAN
                n_good[(j >> 6) & 1] -= 1
            else:
                signal[in_asic(j)] = (
                    (<float>r.analogue[p] - <float>offset[stage, p]) * gain[stage, p])
        for half in range(2):
            median[half] = median_of(
                signal + ASIC * half, n_good[half], last + 2 * band + half
            ) if n_good[half] else 0
        # NaN fails the comparison: what is bad is not bright
        n_found = find_bright(signal, median, rule.one_photon_threshold, bad, found)
        for i in range(n_found):
            j = found[i]
            if (bad[j >> 6] >> (j & 63)) & 1:
                scan_add(s, first + j, 0)
            else:
                add_signal(s, first + j, signal[in_asic(j)] - median[(j >> 6) & 1],
                           adu_per_photon, threshold)


cdef inline void scan_raw(
        Scan *s, RawFrame *r, const offset_t[:, ::1] offset, const float[:, :] gain,
        PhotonRule rule, bint common_mode, float *last) noexcept nogil:
    if common_mode:
        scan_common_mode(s, r, offset, gain, rule, last)
    else:
        scan_plain(s, r, offset, gain, rule)


def sparsify_raw(
        ChunkSource source not None, DecodeBuffers buffers not None,
        RawConstants constants not None, PixelMasks masks not None, EntryList entries not None,
        FrameOutputs out not None, PowderView powder not None):
    """Append the entries of the raw frames of one module in one file, and sum them."""
    cdef Py_ssize_t f, row
    cdef Scan s
    cdef RawFrame r
    # medians of many equal values: where the next ones are sought first
    cdef float last[ASICS]

    if source.n_frames == 0:
        return
    if source.n_pixels != PIXELS or constants.row.shape[0] != source.n_frames:
        raise ValueError("constants are of other pixels, or of other frames")
    check_sizes(source, masks, out, powder)
    buffers.begin(source)
    begin_scan(&s, masks, entries, powder)
    memset(last, 0, sizeof(last))
    with nogil:
        for f in range(source.n_frames):
            if skip_frame(
                    entries, out, f, load_chunk(source, buffers, f, source.filters[f])):
                continue
            row = constants.row[f]
            begin_frame(&s, masks, entries, f)
            begin_raw_frame(&r, constants, frame_of(source, buffers, f), row)
            if constants.has_float_offset:
                scan_raw(&s, &r, constants.offset_f4[row], constants.gain[row], constants.rule,
                         constants.common_mode, last)
            else:
                scan_raw(&s, &r, constants.offset_i2[row], constants.gain[row], constants.rule,
                         constants.common_mode, last)
            out.switched[f, 0] = r.n_medium
            out.switched[f, 1] = r.n_low
            end_frame(&s, entries, out, f)
