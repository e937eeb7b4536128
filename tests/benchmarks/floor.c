/* What no pass over the frames can do without: their bytes read, and inflated if they are packed. */
#define _FILE_OFFSET_BITS 64
#define _XOPEN_SOURCE 700
#include <libdeflate.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

/* Read n chunks into `packed` one after the other, and inflate them into `dense` if that is not
 * NULL; returns how many failed. */
int64_t spend_floor(int fd, int64_t n, const int64_t *offset, const int64_t *size, uint8_t *packed,
                    uint8_t *dense, size_t dense_bytes)
{
    int64_t failed = 0;
    struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
    for (int64_t i = 0; i < n; i++) {
        if (pread(fd, packed, (size_t)size[i], (off_t)offset[i]) != size[i])
            failed++;
        else if (dense)
            failed += libdeflate_zlib_decompress(d, packed, (size_t)size[i], dense, dense_bytes,
                                                 NULL) != 0;
    }
    libdeflate_free_decompressor(d);
    return failed;
}
