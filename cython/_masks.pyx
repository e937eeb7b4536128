"""Masks of the frames of one module, as the files hold them, → bits of bad pixels; bits, counted.

Loops only: `xfelmpi.run.frames.frame_masks` and `xfelmpi.reduction.powder` check, allocate and document. A chunk that was
never written is what every HDF5 reader takes it for: the dataset's fill value.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from frames cimport (
    DEFLATE,
    OK,
    READ_FAILED,
    SHUFFLE,
    decode_chunk,
    inflate_chunk,
    libdeflate_alloc_decompressor,
    libdeflate_decompressor,
    libdeflate_free_decompressor,
    pread_fully,
)

cdef extern from "mask_fold.h":
    int trailing_zeros(uint64_t word) nogil
    void fold_words(const uint32_t *mask, uint32_t bits, int n, uint8_t *bad) nogil
    void fold_planes(
        const uint8_t *plane, size_t stride, uint32_t bits, int n, uint8_t *bad) nogil

DEF PIXELS = 65536
DEF BYTES = 8192
DEF NEVER_WRITTEN = -1


cdef libdeflate_decompressor *new_inflater() except NULL:
    cdef libdeflate_decompressor *inflater = libdeflate_alloc_decompressor()
    if inflater == NULL:
        raise MemoryError("libdeflate_alloc_decompressor")
    return inflater


def fold_masks(
        int fd, const uint8_t[::1] memory,
        const int64_t[::1] offset, const int64_t[::1] size, const uint8_t[::1] filters,
        const int32_t[::1] within, int64_t chunk_frames, uint32_t fill,
        uint8_t[::1] packed, uint8_t[::1] dense,
        uint32_t bits, uint8_t[:, ::1] bad, uint8_t[::1] status):
    """Find the pixels of every frame of which any of `bits` is set."""
    cdef Py_ssize_t f, n_frames = offset.shape[0]
    cdef size_t chunk_pixels = PIXELS * <size_t>chunk_frames
    cdef const uint8_t *in_memory = &memory[0] if memory.shape[0] else NULL
    cdef const uint8_t *frame
    cdef int64_t decoded = -1
    cdef int state = OK
    cdef libdeflate_decompressor *inflater = new_inflater()

    with nogil:
        for f in range(n_frames):
            if offset[f] == NEVER_WRITTEN:
                status[f] = OK
                memset(&bad[f, 0], 0xFF if fill & bits else 0, BYTES)
                continue
            if offset[f] != decoded or offset[f] < 0:
                # shuffled bytes are folded as they are: nothing has to be put together
                state = decode_chunk(
                    inflater, fd, in_memory, offset[f], size[f], filters[f] & ~SHUFFLE, 4,
                    4 * chunk_pixels, &packed[0], packed.shape[0], &dense[0], &dense[0])
                decoded = offset[f]
            status[f] = state
            if state != OK:
                continue
            if filters[f] & SHUFFLE:
                frame = &dense[0] + within[f] * <size_t>PIXELS
                fold_planes(frame, chunk_pixels, bits, PIXELS, &bad[f, 0])
            else:
                frame = &dense[0] + within[f] * <size_t>(4 * PIXELS)
                fold_words(<const uint32_t *>frame, bits, PIXELS, &bad[f, 0])
    libdeflate_free_decompressor(inflater)


def join_masks(
        int fd, const uint8_t[::1] memory,
        const int64_t[::1] offset, const int64_t[::1] size, const uint8_t[::1] filters,
        const int32_t[::1] within, int64_t chunk_frames, uint32_t fill,
        uint8_t[::1] packed, uint8_t[::1] dense,
        uint8_t[::1] packed_before, uint8_t[::1] spare, const int32_t[::1] slot,
        uint32_t[:, ::1] held, uint8_t[::1] status):
    """Keep in ``held[slot]`` only the bits that are set in the frame too.

    Masks of a cell are often the same to the byte from train to train: such a chunk is not
    inflated again.
    """
    cdef Py_ssize_t f, p, n_frames = offset.shape[0]
    cdef size_t chunk_pixels = PIXELS * <size_t>chunk_frames
    cdef const uint8_t *in_memory = &memory[0] if memory.shape[0] else NULL
    cdef const uint32_t *frame
    cdef uint32_t *joined
    cdef uint8_t *now = &packed[0]
    cdef uint8_t *before = &packed_before[0]
    cdef int64_t decoded = -1, size_before = -1
    cdef int state = OK, state_before = OK, filters_before = 0
    # what has been joined last
    cdef int joined_slot = -1, joined_within = -1
    cdef libdeflate_decompressor *inflater = new_inflater()

    with nogil:
        for f in range(n_frames):
            joined = &held[slot[f], 0]
            if offset[f] == NEVER_WRITTEN:
                status[f] = OK
                for p in range(PIXELS):
                    joined[p] &= fill
                continue
            if offset[f] != decoded or offset[f] < 0:
                decoded = offset[f]
                if (in_memory == NULL and filters[f] & DEFLATE and offset[f] >= 0
                        and 0 <= size[f] <= packed.shape[0]):
                    if pread_fully(fd, now, size[f], offset[f]):
                        status[f] = state = READ_FAILED
                        continue
                    if (size[f] == size_before and filters[f] == filters_before
                            and memcmp(now, before, size[f]) == 0):
                        state = state_before
                    else:
                        state = state_before = inflate_chunk(
                            inflater, now, size[f], filters[f], 4, 4 * chunk_pixels, &spare[0],
                            &dense[0])
                        size_before, filters_before = size[f], filters[f]
                        now, before = before, now
                        joined_slot = -1
                else:
                    state = decode_chunk(
                        inflater, fd, in_memory, offset[f], size[f], filters[f], 4,
                        4 * chunk_pixels, now, packed.shape[0], &spare[0], &dense[0])
                    size_before = joined_slot = -1
            status[f] = state
            if state != OK or (slot[f] == joined_slot and within[f] == joined_within):
                continue
            frame = <const uint32_t *>(&dense[0] + within[f] * <size_t>(4 * PIXELS))
            for p in range(PIXELS):
                joined[p] &= frame[p]
            joined_slot, joined_within = slot[f], within[f]
    libdeflate_free_decompressor(inflater)


def take_off_bad(const uint64_t[:, ::1] good, const uint32_t[::1] frames, uint32_t[::1] total):
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
