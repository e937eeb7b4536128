"""Masks of the frames of one module, as the files hold them, → bits of bad pixels; bits, counted.

Loops only: `xfelmpi.run.frames.frame_masks` and `xfelmpi.reduction.powder` check, allocate and
document. A chunk that was never written is what every HDF5 reader takes it for: the dataset's fill
value.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from xfelmpi._kernels._frames cimport (
    DEFLATE,
    NEVER_WRITTEN,
    OK,
    READ_FAILED,
    SHUFFLE,
    ChunkSource,
    DecodeBuffers,
    frame_of,
    inflate_chunk,
    load_chunk,
    pread_fully,
)

cdef extern from "mask_fold.h":
    int trailing_zeros(uint64_t word) nogil
    void fold_words(const uint32_t *mask, uint32_t bits, int n, uint8_t *bad) nogil
    void fold_planes(
        const uint8_t *plane, size_t stride, uint32_t bits, int n, uint8_t *bad) nogil

cdef extern from "mask_memory.h":
    ctypedef struct MaskMemory:
        uint8_t *arena
        size_t room
        uint32_t *place
        uint32_t n_places
        uint32_t n
        int64_t found
    bint mask_recall(
        MaskMemory *m, const uint8_t *packed, size_t size, uint32_t filters, uint32_t bits,
        uint8_t *bad, size_t n) nogil
    void mask_remember(
        MaskMemory *m, const uint8_t *packed, size_t size, uint32_t filters, uint32_t bits,
        const uint8_t *bad, size_t n) nogil


cdef class KnownMasks:
    """Masks that were folded before, by their packed bytes; one per thread.

    Parameters
    ----------
    arena : ndarray, uint64 (word,)
        Room for them, below 32 GiB.
    place : ndarray, uint32 (place,)
        Zeros, a power of 2 of them; at most half as many masks are held.

    Attributes
    ----------
    n, n_found : int
        Masks that are held; how many were found since there was none.
    """

    cdef MaskMemory memory
    cdef uint64_t[::1] arena
    cdef uint32_t[::1] place

    def __cinit__(self, *, uint64_t[::1] arena not None, uint32_t[::1] place not None):
        cdef Py_ssize_t n_places = place.shape[0]
        if n_places < 2 or n_places & (n_places - 1) or arena.shape[0] == 0:
            raise ValueError(f"{n_places} places, expected a power of 2, and room for masks")
        self.arena = arena
        self.place = place
        self.memory.arena = <uint8_t *>&arena[0]
        self.memory.room = 8 * arena.shape[0]
        self.memory.place = &place[0]
        self.memory.n_places = n_places

    @property
    def n(self):
        """Masks that are held."""
        return self.memory.n

    @property
    def n_found(self):
        """How many were found since there was none."""
        return self.memory.found


cdef inline bint is_packed_in_file(
        ChunkSource source, DecodeBuffers buffers, Py_ssize_t f) except -1 nogil:
    return (not source.memory.shape[0] and source.filters[f] & DEFLATE and source.offset[f] >= 0
            and 0 <= source.size[f] <= buffers.packed.shape[0])


cdef int load_unless_known(
        ChunkSource source, DecodeBuffers buffers, KnownMasks known, Py_ssize_t f, uint32_t bits,
        uint8_t *bad, bint *is_known) except -1 nogil:
    """As `load_chunk`, shuffled bytes staying so, unless the packed bytes are known."""
    cdef int64_t size = source.size[f]
    cdef int filters = source.filters[f]
    buffers.held = NEVER_WRITTEN
    if pread_fully(source.fd, &buffers.packed[0], size, source.offset[f]):
        return READ_FAILED
    is_known[0] = mask_recall(
        &known.memory, &buffers.packed[0], size, filters, bits, bad, source.n_pixels // 8)
    if is_known[0]:
        return OK
    return inflate_chunk(
        buffers.inflater.dense, &buffers.packed[0], size, filters & ~SHUFFLE, source.itemsize,
        source.chunk_bytes, &buffers.spare[0], &buffers.dense[0])


def fold_masks(
        ChunkSource source not None, DecodeBuffers buffers not None, KnownMasks known not None,
        uint32_t fill, uint32_t bits, uint8_t[:, ::1] bad not None,
        uint8_t[::1] status not None):
    """Find the pixels of every frame of which any of `bits` is set.

    Masks of a cell are often the same to the byte from train to train: those that are `known` are
    not inflated.
    """
    cdef Py_ssize_t f
    cdef int n = source.n_pixels
    cdef size_t chunk_pixels = <size_t>n * source.chunk_frames
    cdef bint is_known, one_in_chunk
    # the frame whose mask was folded last
    cdef Py_ssize_t last = -1

    if bad.shape[1] != n // 8:
        raise ValueError(f"rows of {bad.shape[1]} bytes for the bits of {n} pixels")
    buffers.begin(source)
    with nogil:
        for f in range(source.n_frames):
            if source.offset[f] == NEVER_WRITTEN:
                status[f] = OK
                memset(&bad[f, 0], 0xFF if fill & bits else 0, n // 8)
                continue
            is_known = False
            one_in_chunk = source.chunk_frames == 1 and is_packed_in_file(source, buffers, f)
            # shuffled bytes are folded as they are: nothing has to be put together
            if one_in_chunk:
                status[f] = load_unless_known(
                    source, buffers, known, f, bits, &bad[f, 0], &is_known)
            else:
                status[f] = load_chunk(source, buffers, f, source.filters[f] & ~SHUFFLE)
            if status[f] != OK or is_known:
                continue
            if (last >= 0 and source.offset[f] == source.offset[last]
                    and source.index_in_chunk[f] == source.index_in_chunk[last]):
                # of a dataset that was never written all frames are the same one
                memcpy(&bad[f, 0], &bad[last, 0], n // 8)
                continue
            last = f
            if source.filters[f] & SHUFFLE:
                fold_planes(
                    &buffers.dense[source.index_in_chunk[f] * <Py_ssize_t>n], chunk_pixels, bits,
                    n, &bad[f, 0])
            else:
                fold_words(
                    <const uint32_t *>frame_of(source, buffers, f), bits, n, &bad[f, 0])
            if one_in_chunk:
                mask_remember(
                    &known.memory, &buffers.packed[0], source.size[f], source.filters[f], bits,
                    &bad[f, 0], n // 8)


cdef struct LastChunk:
    # the packed bytes that `dense` was inflated from, and where those of the next chunk go
    uint8_t *packed
    uint8_t *next
    int64_t size
    int filters
    int status


cdef int load_unless_again(
        ChunkSource source, DecodeBuffers buffers, LastChunk *last, Py_ssize_t f,
        bint *is_other) except -1 nogil:
    """As `load_chunk`, but a chunk with the bytes of the one before is not inflated again.

    `is_other` becomes 1 if `buffers.dense` has been written to.
    """
    cdef int64_t size = source.size[f]
    cdef int filters = source.filters[f]
    if source.offset[f] == buffers.held and buffers.held >= 0:
        return buffers.held_status
    if not is_packed_in_file(source, buffers, f):
        last.size = -1
        is_other[0] = True
        return load_chunk(source, buffers, f, filters)
    buffers.held = source.offset[f]
    if pread_fully(source.fd, last.next, size, buffers.held):
        buffers.held_status = READ_FAILED
    elif (size == last.size and filters == last.filters
            and memcmp(last.next, last.packed, size) == 0):
        buffers.held_status = last.status
    else:
        is_other[0] = True
        buffers.held_status = inflate_chunk(
            buffers.inflater.dense, last.next, size, filters, source.itemsize,
            source.chunk_bytes, &buffers.spare[0], &buffers.dense[0])
        last.size, last.filters, last.status = size, filters, buffers.held_status
        last.packed, last.next = last.next, last.packed
    return buffers.held_status


def join_masks(
        ChunkSource source not None, DecodeBuffers buffers not None,
        uint8_t[::1] packed_before not None, uint32_t fill, const int32_t[::1] slot not None,
        uint32_t[:, ::1] held not None, uint8_t[::1] status not None):
    """Keep in ``held[slot]`` only the bits that are set in the frame too.

    Masks of a cell are often the same to the byte from train to train: such a chunk is not
    inflated again.
    """
    cdef Py_ssize_t f, p
    cdef int n = source.n_pixels
    cdef const uint32_t *frame
    cdef uint32_t *joined
    cdef bint is_other
    # what has been joined last
    cdef int joined_slot = -1, joined_index = -1
    cdef LastChunk last

    if packed_before.shape[0] < buffers.packed.shape[0] or held.shape[1] != n:
        raise ValueError("buffers are of another size than the frames")
    buffers.begin(source)
    last.packed, last.next, last.size = &packed_before[0], &buffers.packed[0], -1
    with nogil:
        for f in range(source.n_frames):
            joined = &held[slot[f], 0]
            if source.offset[f] == NEVER_WRITTEN:
                status[f] = OK
                for p in range(n):
                    joined[p] &= fill
                continue
            is_other = False
            status[f] = load_unless_again(source, buffers, &last, f, &is_other)
            if is_other:
                joined_slot = -1
            if status[f] != OK or (
                    slot[f] == joined_slot and source.index_in_chunk[f] == joined_index):
                continue
            frame = <const uint32_t *>frame_of(source, buffers, f)
            for p in range(n):
                joined[p] &= frame[p]
            joined_slot, joined_index = slot[f], source.index_in_chunk[f]


def take_off_bad(
        const uint64_t[:, ::1] good not None, const uint32_t[::1] frames not None,
        uint32_t[::1] total not None):
    """Take the frames of every row of bits off the total of the pixels whose bit is not set."""
    cdef Py_ssize_t row, w, i
    cdef uint64_t bad
    with nogil:
        for row in range(good.shape[0]):
            if frames[row] == 0:
                continue
            for w in range(good.shape[1]):
                bad = ~good[row, w]
                if good[row, w] == 0:
                    # of a module without data
                    for i in range(64 * w, 64 * w + 64):
                        total[i] -= frames[row]
                    continue
                while bad:
                    total[64 * w + trailing_zeros(bad)] -= frames[row]
                    bad &= bad - 1
