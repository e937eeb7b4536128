/* The bytes of a chunk: read them, and undo HDF5's shuffle filter. */
#ifndef XFELMPI_CHUNK_BYTES_H
#define XFELMPI_CHUNK_BYTES_H

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* Have the system bring bytes into memory meanwhile; a hint, which may do nothing. */
static inline void will_need(int fd, size_t size, long long offset)
{
    if (size > 0 && offset >= 0) posix_fadvise(fd, (off_t)offset, (off_t)size, POSIX_FADV_WILLNEED);
}

/* Read exactly `size` bytes at `offset`: 0, or 1 if the file ends before or cannot be read. */
static inline int pread_fully(int fd, unsigned char *to, size_t size, long long offset)
{
    while (size > 0) {
        ssize_t n = pread(fd, to, size, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return 1;
        to += n; size -= (size_t)n; offset += n;
    }
    return 0;
}

/* The shuffle filter of HDF5 stores byte 0 of all items, then byte 1, …: put them together. */
static inline void unshuffle(
    const unsigned char *from, unsigned char *to, size_t n, int itemsize)
{
    if (itemsize == 2) {
        for (size_t i = 0; i < n; i++) { to[2*i] = from[i]; to[2*i + 1] = from[n + i]; }
    } else {
        for (size_t i = 0; i < n; i++) {
            to[4*i] = from[i]; to[4*i + 1] = from[n + i];
            to[4*i + 2] = from[2*n + i]; to[4*i + 3] = from[3*n + i];
        }
    }
}

#endif
