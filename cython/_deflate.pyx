"""Compress buffers into zlib streams with libdeflate, about four times as fast as zlib itself.

The bytes are what HDF5's gzip filter expects in a chunk.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport free, malloc

cdef extern from "libdeflate.h":
    const char *LIBDEFLATE_VERSION_STRING
    struct libdeflate_compressor:
        pass
    libdeflate_compressor *libdeflate_alloc_compressor(int level) nogil
    void libdeflate_free_compressor(libdeflate_compressor *compressor) nogil
    size_t libdeflate_zlib_compress(
        libdeflate_compressor *compressor, const void *data, size_t size, void *out, size_t room
    ) nogil
    size_t libdeflate_zlib_compress_bound(
        libdeflate_compressor *compressor, size_t size
    ) nogil

LIBDEFLATE = LIBDEFLATE_VERSION_STRING.decode()
"""Version of the library."""


cdef class Deflater:
    """A compressor that keeps its working memory between calls; one per thread.

    Parameters
    ----------
    level : int
        1 (fast) to 12 (small); 0 stores without compressing.

    Raises
    ------
    ValueError
        If libdeflate does not know the level.
    """

    cdef libdeflate_compressor *_compressor
    cdef unsigned char *_out
    cdef size_t _room

    def __cinit__(self, int level=1):
        self._compressor = libdeflate_alloc_compressor(level)
        if self._compressor is NULL:
            raise ValueError(f"compression level is {level}, expected 0 to 12")

    def __dealloc__(self):
        if self._compressor is not NULL:
            libdeflate_free_compressor(self._compressor)
        free(self._out)

    cdef int _make_room(self, size_t size) except -1:
        cdef size_t needed = libdeflate_zlib_compress_bound(self._compressor, size)
        if needed > self._room:
            free(self._out)
            self._room = 0
            self._out = <unsigned char *>malloc(needed)
            if self._out is NULL:
                raise MemoryError(f"no {needed} bytes for compressing")
            self._room = needed
        return 0

    def compress(self, const unsigned char[::1] data):
        """Return the zlib stream of `data` as bytes.

        Parameters
        ----------
        data : buffer of uint8
            May be read-only and may be empty.
        """
        cdef size_t size = data.shape[0]
        cdef size_t written
        cdef const unsigned char *start = NULL
        if size:
            start = &data[0]
        self._make_room(size)
        with nogil:
            written = libdeflate_zlib_compress(
                self._compressor, start, size, self._out, self._room
            )
        return PyBytes_FromStringAndSize(<char *>self._out, written)


def zlib_compress(const unsigned char[::1] data, int level=1):
    """Return the zlib stream of `data` as bytes; for many buffers a `Deflater` is faster."""
    return Deflater(level).compress(data)
