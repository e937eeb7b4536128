"""Views of what the kernels of frames take: built by keyword, each checked against its dtype.

A view holds arrays that the caller allocates and keeps; it copies nothing. `sparsify`,
`sparsify_raw`, `fold_masks` and `join_masks` take a few of these views each.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from xfelmpi._kernels._frames cimport (
    MOST_WORDS,
    SparseInflater,
    libdeflate_alloc_decompressor,
    libdeflate_free_decompressor,
    sparse_init,
)

cdef enum:
    SPARSE_BYTES = 4096
    MOST_PIXELS = 64 * MOST_WORDS


cdef class ChunkSource:
    """Where the bytes of some frames of one module are, all of them in one file or in memory.

    Parameters
    ----------
    fd : int
        Open file, or -1 if the bytes are in `memory`.
    memory : ndarray, uint8 (byte,)
        Bytes already read, or empty.
    offset, size : ndarray, int64 (frame,)
        Place of the frame's chunk; an offset below 0 is `NEVER_WRITTEN` or `UNREADABLE`.
    filters : ndarray, uint8 (frame,)
        How the chunk is packed: bits `DEFLATE`, `SHUFFLE`.
    index_in_chunk : ndarray, int32 (frame,)
    chunk_frames : int
        Frames in a chunk.
    n_pixels : int
        Pixels of the module, a multiple of 64.
    itemsize : int
        Bytes of a value: 1, 2 or 4.
    planes : int
        Values of a pixel; those of all pixels for the first one come first.
    is_float : bool

    Raises
    ------
    ValueError
        If the kernels cannot process frames of so many pixels.
    """

    def __cinit__(
            self, *, int fd, const uint8_t[::1] memory not None,
            const int64_t[::1] offset not None, const int64_t[::1] size not None,
            const uint8_t[::1] filters not None, const int32_t[::1] index_in_chunk not None,
            int chunk_frames, int n_pixels, int itemsize, int planes=1, bint is_float=False):
        if n_pixels <= 0 or n_pixels % 64 or n_pixels > MOST_PIXELS:
            raise ValueError(
                f"{n_pixels} pixels, expected a multiple of 64 up to {MOST_PIXELS}")
        self.fd = fd
        self.memory = memory
        self.offset = offset
        self.size = size
        self.filters = filters
        self.index_in_chunk = index_in_chunk
        self.n_frames = offset.shape[0]
        self.chunk_frames = chunk_frames
        self.n_pixels = n_pixels
        self.itemsize = itemsize
        self.is_float = is_float
        self.frame_bytes = <size_t>n_pixels * planes * itemsize
        self.chunk_bytes = self.frame_bytes * chunk_frames


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

    def __cinit__(self, int64_t sparse_bytes=SPARSE_BYTES):
        self.dense = libdeflate_alloc_decompressor()
        cdef int i
        for i in range(2):
            self.sparse[i] = <SparseInflater *>calloc(1, sizeof(SparseInflater))
        if self.dense == NULL or self.sparse[0] == NULL or self.sparse[1] == NULL:
            raise MemoryError("no memory for inflating")
        for i in range(2):
            sparse_init(self.sparse[i])
        self.sparse_bytes = sparse_bytes

    def __dealloc__(self):
        if self.dense != NULL:
            libdeflate_free_decompressor(self.dense)
        free(self.sparse[0])
        free(self.sparse[1])


cdef class DecodeBuffers:
    """Working memory for one chunk at a time, and what inflates it; one per thread.

    Parameters
    ----------
    inflater : Inflater
    packed : ndarray, uint8 (byte,)
        For the bytes of a chunk as they are in the file; larger chunks are refused.
    spare, dense : ndarray, uint8 (byte,)
        For a chunk before and after it is unshuffled.
    found : ndarray, int32 (pixel,)
        For the pixels of a frame that may have photons.
    """

    def __cinit__(
            self, *, Inflater inflater not None, uint8_t[::1] packed not None,
            uint8_t[::1] spare not None, uint8_t[::1] dense not None,
            int32_t[::1] found not None):
        self.inflater = inflater
        self.packed = packed
        self.spare = spare
        self.dense = dense
        self.found = found

    cdef int begin(self, ChunkSource source) except -1:
        """Forget the chunk that is held, which may be of another file."""
        cdef Py_ssize_t room = min(self.spare.shape[0], self.dense.shape[0])
        if <size_t>room < source.chunk_bytes:
            raise ValueError(f"buffers of {room} bytes, expected {source.chunk_bytes} or more")
        self.held = NEVER_WRITTEN
        self.window = self.window_bytes = 0
        return 0


cdef class PixelMasks:
    """Which pixels of a module count, in some of its frames.

    Parameters
    ----------
    good : ndarray, uint8 (row, byte)
        Bits of the good pixels.
    mask_row : ndarray, int32 (frame,)
        Row of `good` of every frame.
    roi : ndarray, uint8 (byte,)
        Bits of the pixels in which hits are sought.
    masked_in_frame : ndarray, uint8 (frame, byte), optional
        Bits of the pixels that the frames' own masks call bad.
    pixel_offset : int
        Number of the module's first pixel in the detector.
    """

    def __cinit__(
            self, *, const uint8_t[:, ::1] good not None, const int32_t[::1] mask_row not None,
            const uint8_t[::1] roi not None, const uint8_t[:, ::1] masked_in_frame=None,
            uint32_t pixel_offset=0):
        self.good = good
        self.mask_row = mask_row
        self.roi = roi
        self.has_frame_masks = masked_in_frame is not None
        self.masked_in_frame = masked_in_frame
        self.pixel_offset = pixel_offset


cdef class EntryList:
    """A list of (pixel, count) that kernels append frames to.

    Parameters
    ----------
    pixel : ndarray, uint32 (entry,)
    count : ndarray, uint16 (entry,)

    Attributes
    ----------
    capacity : int
        Entries that it has room for.
    n_entries : int
        Entries that it has; 0 to use the arrays again.
    """

    def __cinit__(self, *, uint32_t[::1] pixel not None, uint16_t[::1] count not None):
        self.pixel = pixel
        self.count = count
        self.capacity = min(pixel.shape[0], count.shape[0])


cdef class FrameOutputs:
    """What kernels say of every frame: its entries, its status, and its sums.

    Parameters
    ----------
    start, stop : ndarray, int64 (frame,)
        Its entries in the list; start -1: it did not fit.
    status : ndarray, uint8 (frame,)
        `OK`, or why it could not be read; then its sums stay as they are.
    lit, roi_lit : ndarray, uint32 (frame,)
        Pixels with photons; the same in the region of interest.
    photons, roi_photons : ndarray, uint64 (frame,)
    roi_bad : ndarray, uint32 (frame,)
        Pixels of that region that are bad in this frame only.
    n_single : ndarray, uint32 (frame,)
        Pixels with one photon.
    max_count : ndarray, uint16 (frame,)
        Most photons in one pixel.
    nnz : ndarray, uint32 (frame,)
        Number of entries.
    switched : ndarray, uint32 (frame, 2), optional
        Good pixels of raw frames in the medium and the low stage.
    """

    def __cinit__(
            self, *, int64_t[::1] start not None, int64_t[::1] stop not None,
            uint8_t[::1] status not None, uint32_t[::1] lit not None,
            uint64_t[::1] photons not None, uint32_t[::1] roi_lit not None,
            uint64_t[::1] roi_photons not None, uint32_t[::1] roi_bad not None,
            uint32_t[::1] n_single not None, uint16_t[::1] max_count not None,
            uint32_t[::1] nnz not None, uint32_t[:, ::1] switched=None):
        self.start = start
        self.stop = stop
        self.status = status
        self.lit = lit
        self.photons = photons
        self.roi_lit = roi_lit
        self.roi_photons = roi_photons
        self.roi_bad = roi_bad
        self.n_single = n_single
        self.max_count = max_count
        self.nnz = nnz
        self.switched = switched


cdef class PowderView:
    """Sums over frames of one module.

    Parameters
    ----------
    photons : ndarray, uint64 (pixel,)
    invalid : ndarray, uint32 (pixel,)
        Frames in which a good pixel was bad.
    """

    def __cinit__(
            self, *, uint64_t[::1] photons not None, uint32_t[::1] invalid not None):
        self.photons = photons
        self.invalid = invalid


cdef class PhotonRule:
    """How a signal becomes photons: floor(signal / adu_per_photon + 1 - threshold), in float32.

    Parameters
    ----------
    one_photon_threshold : float
        The smallest signal that is one photon.
    adu_per_photon, threshold : float
    """

    def __cinit__(self, *, float one_photon_threshold, float adu_per_photon, float threshold):
        self.one_photon_threshold = one_photon_threshold
        self.adu_per_photon = adu_per_photon
        self.threshold = threshold


cdef int check_sizes(
        ChunkSource source, PixelMasks masks, FrameOutputs out, PowderView powder) except -1:
    """Compare the number of pixels and frames of views that a kernel takes pointers into."""
    cdef Py_ssize_t n_bytes = source.n_pixels // 8, n_frames = source.n_frames
    if masks.good.shape[1] != n_bytes or masks.roi.shape[0] != n_bytes or (
            masks.has_frame_masks and masks.masked_in_frame.shape[1] != n_bytes):
        raise ValueError(f"masks are of another size than frames of {source.n_pixels} pixels")
    if powder.photons.shape[0] != source.n_pixels or powder.invalid.shape[0] != source.n_pixels:
        raise ValueError(f"sums are of another size than frames of {source.n_pixels} pixels")
    if out.status.shape[0] != n_frames or masks.mask_row.shape[0] != n_frames:
        raise ValueError(f"masks or outputs are of another number of frames than {n_frames}")
    return 0
