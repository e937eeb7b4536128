# What the kernels of frames share: views of their arguments, how a chunk gets into memory, and how
# the photons of a pixel get into the list and the sums.

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
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

cdef extern from "scan.h":
    ctypedef struct Scan:
        const uint8_t *good
        const uint8_t *roi
        uint64_t *powder
        uint32_t *invalid
        uint32_t *out_pixel
        uint16_t *out_count
        int64_t n
        int64_t capacity
        uint32_t pixel_offset
        uint64_t photons
        uint64_t roi_photons
        uint32_t lit
        uint32_t roi_lit
        uint32_t roi_bad
        uint32_t n_single
        uint32_t max_count
    void scan_add(Scan *s, uint32_t p, uint32_t count) nogil

cdef extern from "sparse_inflate.h":
    enum:
        SPARSE_BACK
        SPARSE_PAD
        SPARSE_MOST
    ctypedef struct SparseInflater:
        int32_t *list
    void sparse_init(SparseInflater *z) nogil
    int sparse_inflate(
        SparseInflater *z, const uint8_t *packed, size_t size, int n_bytes) nogil
    void sparse_inflate_two(
        SparseInflater **z, const uint8_t **packed, const size_t *size, int n_bytes,
        int *n) nogil

cdef extern from "wide.h":
    enum:
        MOST_WORDS

# bits of `filters`
cpdef enum:
    DEFLATE = 1
    SHUFFLE = 2

# what `offset` says of a chunk that is nowhere
cpdef enum:
    NEVER_WRITTEN = -1
    UNREADABLE = -2

# what `status` says of a frame
cpdef enum:
    OK = 0
    READ_FAILED = 1
    INFLATE_FAILED = 2
    NO_CHUNK = 3
    IMPOSSIBLE_SIZE = 4


@cython.final
cdef class ChunkSource:
    cdef int fd
    cdef int itemsize
    cdef bint is_float
    cdef const uint8_t[::1] memory
    cdef const int64_t[::1] offset
    cdef const int64_t[::1] size
    cdef const uint8_t[::1] filters
    cdef const int32_t[::1] index_in_chunk
    cdef readonly Py_ssize_t n_frames
    cdef readonly int chunk_frames
    cdef readonly int n_pixels
    cdef size_t frame_bytes
    cdef size_t chunk_bytes


@cython.final
cdef class Inflater:
    cdef libdeflate_decompressor *dense
    # the second one for the frame behind
    cdef SparseInflater *sparse[2]
    cdef readonly int64_t sparse_bytes
    cdef readonly int64_t n_sparse


@cython.final
cdef class DecodeBuffers:
    cdef readonly Inflater inflater
    cdef uint8_t[::1] packed
    cdef uint8_t[::1] spare
    cdef uint8_t[::1] dense
    cdef int32_t[::1] found
    # which chunk `dense` holds, by its offset, and how it got there
    cdef int64_t held
    cdef int held_status
    # which bytes of the file `packed` holds
    cdef int64_t window
    cdef int64_t window_bytes
    cdef int begin(self, ChunkSource source) except -1


@cython.final
cdef class PixelMasks:
    cdef const uint8_t[:, ::1] good
    cdef const int32_t[::1] mask_row
    cdef const uint8_t[::1] roi
    cdef const uint8_t[:, ::1] masked_in_frame
    cdef bint has_frame_masks
    cdef uint32_t pixel_offset


@cython.final
cdef class EntryList:
    cdef uint32_t[::1] pixel
    cdef uint16_t[::1] count
    cdef readonly int64_t capacity
    cdef public int64_t n_entries


@cython.final
cdef class FrameOutputs:
    cdef int64_t[::1] start
    cdef int64_t[::1] stop
    cdef uint8_t[::1] status
    cdef uint32_t[::1] lit
    cdef uint64_t[::1] photons
    cdef uint32_t[::1] roi_lit
    cdef uint64_t[::1] roi_photons
    cdef uint32_t[::1] roi_bad
    cdef uint32_t[::1] n_single
    cdef uint16_t[::1] max_count
    cdef uint32_t[::1] nnz
    cdef uint32_t[:, ::1] switched


@cython.final
cdef class PowderView:
    cdef uint64_t[::1] photons
    cdef uint32_t[::1] invalid


@cython.final
cdef class PhotonRule:
    cdef readonly float one_photon_threshold
    cdef readonly float adu_per_photon
    cdef readonly float threshold


cdef int check_sizes(
    ChunkSource source, PixelMasks masks, FrameOutputs out, PowderView powder) except -1


cdef inline int load_chunk(
        ChunkSource source, DecodeBuffers buffers, Py_ssize_t f, int filters) except -1 nogil:
    """Bring the chunk of frame f into `buffers.dense`, unless it is there; returns the status.

    `filters` are those to undo: bytes that are to stay shuffled lack that bit.
    """
    cdef int64_t offset = source.offset[f]
    if offset != buffers.held or offset < 0:
        buffers.held_status = decode_chunk(
            buffers.inflater.dense, source.fd,
            &source.memory[0] if source.memory.shape[0] else NULL,
            offset, source.size[f], filters, source.itemsize, source.chunk_bytes,
            &buffers.packed[0], buffers.packed.shape[0], &buffers.spare[0], &buffers.dense[0])
        buffers.held = offset
    return buffers.held_status


cdef inline const uint8_t *frame_of(
        ChunkSource source, DecodeBuffers buffers, Py_ssize_t f) except NULL nogil:
    """Return the bytes of frame f in the chunk that `buffers` holds."""
    return &buffers.dense[source.index_in_chunk[f] * source.frame_bytes]


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
        return NO_CHUNK
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


cdef inline int begin_scan(
        Scan *s, PixelMasks masks, EntryList entries, PowderView powder) except -1:
    s.roi = &masks.roi[0]
    s.powder = &powder.photons[0]
    s.invalid = &powder.invalid[0]
    s.out_pixel = &entries.pixel[0]
    s.out_count = &entries.count[0]
    s.capacity = entries.capacity
    s.pixel_offset = masks.pixel_offset
    return 0


cdef inline int begin_frame(
        Scan *s, PixelMasks masks, EntryList entries, Py_ssize_t f) except -1 nogil:
    s.good = &masks.good[masks.mask_row[f], 0]
    s.n = entries.n_entries
    s.photons = s.roi_photons = 0
    s.lit = s.roi_lit = s.roi_bad = s.n_single = s.max_count = 0
    return 0


cdef inline int skip_frame(
        EntryList entries, FrameOutputs out, Py_ssize_t f, int status) except -1 nogil:
    """Note the status of frame f, and that it has no entries so far; returns the status."""
    out.status[f] = status
    out.start[f] = entries.n_entries
    out.stop[f] = entries.n_entries
    return status


cdef inline int end_frame(
        Scan *s, EntryList entries, FrameOutputs out, Py_ssize_t f) except -1 nogil:
    """Note the sums of frame f; keep its entries, if all of them are in the list."""
    out.lit[f] = s.lit
    out.photons[f] = s.photons
    out.roi_lit[f] = s.roi_lit
    out.roi_photons[f] = s.roi_photons
    out.roi_bad[f] = s.roi_bad
    out.n_single[f] = s.n_single
    out.max_count[f] = <uint16_t>s.max_count
    out.nnz[f] = <uint32_t>(s.n - entries.n_entries)
    if s.n > s.capacity:
        # the sums stand, the list of this frame is left out
        out.start[f] = -1
        return 0
    out.stop[f] = s.n
    entries.n_entries = s.n
    return 0
