/* A disk that is full for some files: loaded with LD_PRELOAD, it lets files with FULL_DISK_FILE in
   their name, but for locks, grow to FULL_DISK_BYTES; what goes beyond is written in part, then refused with ENOSPC,
   as file systems do. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* Bytes of n that fit at an offset of a file; n for all other files. */
static size_t fitting(int fd, off_t offset, size_t n)
{
    const char *file = getenv("FULL_DISK_FILE"), *limit = getenv("FULL_DISK_BYTES");
    char link[64], name[4096];
    if (!file || !limit || !n)
        return n;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    name[length < 0 ? 0 : length] = 0;
    if (!strstr(name, file) || strstr(name, ".lock"))
        return n;
    off_t left = atoll(limit) - offset;
    return left <= 0 ? 0 : (size_t)left < n ? (size_t)left : n;
}

static ssize_t refused(void)
{
    errno = ENOSPC;
    return -1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t n)
{
    size_t fits = fitting(fd, lseek(fd, 0, SEEK_CUR), n);
    return n && !fits ? refused() : NEXT(write)(fd, data, fits);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t offset)
{
    size_t fits = fitting(fd, offset, n);
    return n && !fits ? refused() : NEXT(pwrite)(fd, data, fits, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off_t offset)
{
    return pwrite(fd, data, n, offset);
}

int posix_fallocate(int fd, off_t offset, off_t n)
{
    return fitting(fd, offset, (size_t)n) < (size_t)n ? ENOSPC
                                                      : NEXT(posix_fallocate)(fd, offset, n);
}

int posix_fallocate64(int fd, off_t offset, off_t n)
{
    return posix_fallocate(fd, offset, n);
}

static ssize_t vector(int fd, const struct iovec *parts, int n, off_t offset)
{
    ssize_t total = 0;
    for (int i = 0; i < n; i++) {
        if (!parts[i].iov_len)
            continue;
        ssize_t done = pwrite(fd, parts[i].iov_base, parts[i].iov_len, offset + total);
        if (done < 0)
            return total ? total : -1;
        total += done;
        if ((size_t)done < parts[i].iov_len)
            break;
    }
    return total;
}

ssize_t pwritev(int fd, const struct iovec *parts, int n, off_t offset)
{
    return vector(fd, parts, n, offset);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int n, off_t offset)
{
    return vector(fd, parts, n, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int n)
{
    off_t offset = lseek(fd, 0, SEEK_CUR);
    if (offset < 0)  /* a pipe */
        return NEXT(writev)(fd, parts, n);
    ssize_t done = vector(fd, parts, n, offset);
    if (done > 0)
        lseek(fd, done, SEEK_CUR);
    return done;
}
