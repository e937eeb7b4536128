"""Chunk bytes of one module's frames → sparse lists (pixel, count), sums and powder.

Loops only: `xfelmpi.reduction.sparsifier` checks every argument and allocates every output.
Each frame goes through read → inflate → unshuffle → scan while its 64 KiB (u1) stay in the
nearest caches; nothing dense outlives the scan. Packed frames of integers that are sparse are
never dense: `sparse_inflate.h` makes their lists while it inflates.
"""

from libc.math cimport floorf
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from xfelmpi._kernels._frames cimport (
    DEFLATE,
    MOST_WORDS,
    OK,
    SHUFFLE,
    SPARSE_BACK,
    SPARSE_MOST,
    SPARSE_PAD,
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
    pread_fully,
    scan_add,
    skip_frame,
    sparse_inflate,
    sparse_inflate_two,
)

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
    int find_lit_f4(const float *v, float one_photon, int n, int32_t *found) nogil

cdef enum:
    # bytes between two chunks that are read with them
    WIDEST_GAP = 1024

# Finds the pixels of a dense frame that have photons.
ctypedef void (*ScanFunction)(
    Scan *s, const uint8_t *frame, int n_pixels, PhotonRule rule, int32_t *found) noexcept nogil


# The loops add to a Scan of their own: see scan.h.

cdef void scan_u1(
        Scan *s, const uint8_t *frame, int n_pixels, PhotonRule rule,
        int32_t *found) noexcept nogil:
    cdef Scan local = s[0]
    cdef int i
    for i in range(find_lit_u1(frame, n_pixels, found)):
        scan_add(&local, found[i], frame[found[i]])
    s[0] = local


cdef void scan_u2(
        Scan *s, const uint8_t *frame, int n_pixels, PhotonRule rule,
        int32_t *found) noexcept nogil:
    cdef const uint16_t *v = <const uint16_t *>frame
    cdef Scan local = s[0]
    cdef int i
    for i in range(find_lit_u2(v, n_pixels, found)):
        scan_add(&local, found[i], v[found[i]])
    s[0] = local


cdef void scan_f4(
        Scan *s, const uint8_t *frame, int n_pixels, PhotonRule rule,
        int32_t *found) noexcept nogil:
    cdef const float *v = <const float *>frame
    cdef float adu_per_photon = rule.adu_per_photon, threshold = rule.threshold
    cdef Scan local = s[0]
    cdef int i
    cdef float value, photons
    for i in range(find_lit_f4(v, rule.one_photon_threshold, n_pixels, found)):
        value = v[found[i]]
        photons = floorf(value / adu_per_photon + <float>1 - threshold)
        # NaN fails every comparison
        scan_add(&local, found[i], <uint32_t>photons if 1 <= photons <= 65535 else 0)
    s[0] = local


cdef inline ScanFunction scan_for(ChunkSource source):
    if source.is_float:
        return scan_f4
    return scan_u1 if source.itemsize == 1 else scan_u2


cdef struct FrameMask:
    # one frame's own mask: pixels good by all masks, and those bad by this one alone
    int n_words
    bint any_bad
    uint64_t good[MOST_WORDS]
    uint64_t bad[MOST_WORDS]


cdef int begin_masked(Scan *s, FrameMask *m, PixelMasks masks, Py_ssize_t f) except -1 nogil:
    """Have only the pixels scanned that the mask of frame f calls good, too."""
    cdef int i
    cdef uint64_t any_bad = 0
    m.n_words = masks.good.shape[1] // 8
    memcpy(m.good, s.good, 8 * m.n_words)
    memcpy(m.bad, &masks.masked_in_frame[f, 0], 8 * m.n_words)
    for i in range(m.n_words):
        m.bad[i] &= m.good[i]
        any_bad |= m.bad[i]
    m.any_bad = any_bad != 0
    # most frames have no bad pixels of their own
    if m.any_bad:
        for i in range(m.n_words):
            m.good[i] ^= m.bad[i]
        s.good = <const uint8_t *>m.good
    return 0


cdef void note_masked(Scan *s, const FrameMask *m, int64_t first) noexcept nogil:
    """Put the pixels masked in this frame between the entries from `first` on, ascending."""
    cdef int64_t n_masked = 0, old, new
    cdef uint64_t w
    cdef uint32_t p
    cdef int i
    cdef bint stored
    for i in range(m.n_words):
        if m.bad[i]:
            n_masked += count_bits(m.bad[i])
    stored = s.n + n_masked <= s.capacity
    # from the end, so that no entry is overwritten before it is moved
    old, new = s.n - 1, s.n + n_masked - 1
    for i in range(m.n_words - 1, -1, -1):
        w = m.bad[i]
        while w:
            p = last_set_bit(w)
            w ^= <uint64_t>1 << p
            p += 64 * i
            s.invalid[p] += 1
            s.roi_bad += (s.roi[p >> 3] >> (p & 7)) & 1
            if not stored:
                continue
            while old >= first and s.out_pixel[old] > s.pixel_offset + p:
                s.out_pixel[new] = s.out_pixel[old]
                s.out_count[new] = s.out_count[old]
                old -= 1
                new -= 1
            s.out_pixel[new] = s.pixel_offset + p
            s.out_count[new] = 0
            new -= 1
    s.n += n_masked


cdef inline int64_t sparse_limit(ChunkSource source, DecodeBuffers buffers):
    """Return the size of the largest chunks that are read without a dense frame; -1: none are."""
    if (source.is_float or source.chunk_frames > 1 or source.memory.shape[0]
            or source.chunk_bytes > SPARSE_MOST):
        return -1
    # behind a chunk's bytes there must be room for what is loaded with them
    return min(buffers.inflater.sparse_bytes, buffers.packed.shape[0] - SPARSE_PAD)


cdef const uint8_t *read_ahead(
        ChunkSource source, DecodeBuffers buffers, Py_ssize_t f,
        int64_t sparse_bytes) noexcept nogil:
    """Return the packed bytes of frame f, NULL if they cannot be read.

    Chunks of neighbouring frames lie one after the other in most files: one call reads as many as
    there is room for.
    """
    cdef int64_t first = source.offset[f], own = first + source.size[f], end = own, last
    cdef int64_t room = buffers.packed.shape[0] - SPARSE_PAD
    cdef Py_ssize_t g
    if first < 0:
        return NULL
    if first < buffers.window or own > buffers.window + buffers.window_bytes:
        for g in range(f + 1, source.n_frames):
            last = source.offset[g] + source.size[g]
            if (source.offset[g] < end or source.offset[g] > end + WIDEST_GAP
                    or source.size[g] > sparse_bytes or last - first > room):
                break
            end = last
        buffers.window_bytes = 0
        if pread_fully(source.fd, &buffers.packed[0], end - first, first):
            # the file may end behind this one
            end = own
            if pread_fully(source.fd, &buffers.packed[0], end - first, first):
                return NULL
        buffers.window = first
        buffers.window_bytes = end - first
    return &buffers.packed[first - buffers.window]


cdef const uint8_t *beside(
        ChunkSource source, DecodeBuffers buffers, Py_ssize_t f) noexcept nogil:
    """Return the packed bytes of frame f without those of the one before being lost, or NULL.

    Hits are scattered over a file.
    """
    cdef int64_t start = source.offset[f] - buffers.window, size = source.size[f]
    if start >= 0 and start + size <= buffers.window_bytes:
        return &buffers.packed[start]
    start = buffers.window_bytes
    if (source.offset[f] < 0 or start + size > buffers.packed.shape[0] - SPARSE_PAD
            or pread_fully(source.fd, &buffers.packed[start], size, source.offset[f])):
        return NULL
    return &buffers.packed[start]


cdef struct SparsePair:
    # two neighbouring frames in `inflater.sparse`: the first one's number, how many of them there
    # are, and the entries of each, -1: it has to be read the dense way
    Py_ssize_t first
    int n_frames
    int n[2]


cdef inline int read_sparse(
        ChunkSource source, DecodeBuffers buffers, Py_ssize_t f, int64_t sparse_bytes,
        SparsePair *pair) except -1 nogil:
    """Read frame f, and with it the one behind.

    The dense way also says what is wrong with a damaged one.
    """
    cdef const uint8_t *packed[2]
    cdef size_t size[2]
    cdef int i
    pair.first, pair.n_frames, pair.n[0] = f, 1, -1
    packed[0] = read_ahead(source, buffers, f, sparse_bytes)
    if packed[0] == NULL:
        return 0
    size[0] = source.size[f]
    if (f + 1 < source.n_frames and source.filters[f + 1] == source.filters[f]
            and 0 <= source.size[f + 1] <= sparse_bytes):
        packed[1] = beside(source, buffers, f + 1)
        size[1] = source.size[f + 1]
        pair.n_frames = 1 if packed[1] == NULL else 2
    if pair.n_frames == 2:
        sparse_inflate_two(
            buffers.inflater.sparse, packed, size, <int>source.frame_bytes, pair.n)
    else:
        pair.n[0] = sparse_inflate(
            buffers.inflater.sparse[0], packed[0], size[0], <int>source.frame_bytes)
    for i in range(pair.n_frames):
        buffers.inflater.n_sparse += pair.n[i] >= 0
    return 0


cdef void add_entries(Scan *s, const int32_t *entry, int n, int n_pixels) noexcept nogil:
    """Note the pixels of one plane of bytes, or of the low ones and the high ones."""
    cdef int low, high, n_low = n
    cdef int32_t above
    cdef Scan local = s[0]
    while n_low and entry[n_low - 1] >> 8 >= n_pixels:
        n_low -= 1
    high = n_low
    for low in range(n_low):
        above = 0
        while high < n and (entry[high] >> 8) - n_pixels <= entry[low] >> 8:
            above = entry[high] & 0xFF
            if (entry[high] >> 8) - n_pixels < entry[low] >> 8:
                # a multiple of 256
                scan_add(&local, (entry[high] >> 8) - n_pixels, above << 8)
                above = 0
            high += 1
        scan_add(&local, entry[low] >> 8, above << 8 | entry[low] & 0xFF)
    for high in range(high, n):
        scan_add(&local, (entry[high] >> 8) - n_pixels, (entry[high] & 0xFF) << 8)
    s[0] = local


def sparsify(
        ChunkSource source not None, DecodeBuffers buffers not None, PhotonRule rule not None,
        PixelMasks masks not None, EntryList entries not None, FrameOutputs out not None,
        PowderView powder not None):
    """Append the entries of the frames of one module in one file, and sum them."""
    cdef Py_ssize_t f
    cdef int64_t sparse_bytes = sparse_limit(source, buffers)
    # frames whose bytes are in the order of the pixels, as one plane or two
    cdef int sparse_filters = DEFLATE if source.itemsize == 1 else DEFLATE | SHUFFLE
    cdef ScanFunction scan = scan_for(source)
    cdef int n, status
    cdef const int32_t *entry = NULL
    cdef SparsePair pair
    cdef Scan s
    cdef FrameMask mask

    if source.n_frames == 0:
        return
    pair.first, pair.n_frames = 0, 0
    check_sizes(source, masks, out, powder)
    if buffers.found.shape[0] < source.n_pixels:
        raise ValueError(f"room for {buffers.found.shape[0]} of {source.n_pixels} pixels found")
    buffers.begin(source)
    begin_scan(&s, masks, entries, powder)
    with nogil:
        for f in range(source.n_frames):
            n = -1
            if source.size[f] <= sparse_bytes and source.filters[f] == sparse_filters:
                if f >= pair.first + pair.n_frames:
                    read_sparse(source, buffers, f, sparse_bytes, &pair)
                n = pair.n[f - pair.first]
                entry = buffers.inflater.sparse[f - pair.first].list + SPARSE_BACK
            status = OK
            if n < 0:
                # which takes the room of the packed bytes
                buffers.window_bytes = 0
                status = load_chunk(source, buffers, f, source.filters[f])
            if skip_frame(entries, out, f, status):
                continue
            begin_frame(&s, masks, entries, f)
            if masks.has_frame_masks:
                begin_masked(&s, &mask, masks, f)
            if n >= 0:
                add_entries(&s, entry, n, source.n_pixels)
            else:
                scan(&s, frame_of(source, buffers, f), source.n_pixels, rule, &buffers.found[0])
            if masks.has_frame_masks and mask.any_bad:
                note_masked(&s, &mask, entries.n_entries)
            end_frame(&s, entries, out, f)
