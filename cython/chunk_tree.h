/* Chunks of a dataset looked up in HDF5's version 1 B-tree, one `pread` a node.
 *
 * Format: HDF5 File Format Specification 3.0, III.A.1, node type 1. Nodes of it carry no checksum:
 * what does not fit is an error, and nothing that a node says is followed unchecked.
 */
#ifndef XFELMPI_CHUNK_TREE_H
#define XFELMPI_CHUNK_TREE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "chunk_bytes.h"

enum {
    TREE_HEADER = 24,       /* bytes of a node before its entries */
    TREE_USUAL = 64,        /* entries of a node at most, unless the file says otherwise */
    TREE_DEEPEST = 8,       /* levels */
    TREE_FOUND = 0,
    TREE_NO_NODE,
    TREE_CUT_OFF,
    TREE_WRONG_LEVEL,
    TREE_NOT_ASCENDING,
    TREE_NOT_WHOLE_FRAMES,
    TREE_NO_MEMORY,
};

/* An entry: size and filter mask (4 bytes each), first element in every dimension and of the
 * element's bytes (8 each), address (8). */
typedef struct {
    int fd;
    int dimensions;         /* numbers in `start` */
    int frame_axes;         /* how many of them, 1 or 2, say which frames a chunk has */
    uint64_t columns;       /* frames along the second of these; 1 if there is none */
    const int64_t *row;     /* ascending; of which the places are wanted */
    int64_t *offset, *size, *skipped;
    int64_t nodes;          /* read so far */
    uint64_t at;            /* the node that is looked at */
} TreeSearch;

static inline uint64_t tree_number(const uint8_t *from, int n_bytes)
{
    uint64_t value = 0;
    for (int i = n_bytes - 1; i >= 0; i--) value = value << 8 | from[i];
    return value;
}

/* Read up to n bytes; returns how many there are. */
static inline size_t tree_read(int fd, uint8_t *to, size_t n, uint64_t address)
{
    size_t got = 0;
    if (address > INT64_MAX - n) return 0;
    while (got < n) {
        ssize_t more = pread(fd, to + got, n - got, (off_t)(address + got));
        if (more < 0 && errno == EINTR) continue;
        if (more <= 0) break;
        got += (size_t)more;
    }
    return got;
}

/* The row of a key: of the first frame in its chunk. Garbage wraps around, and is of no row. */
static inline int64_t tree_row(const TreeSearch *t, const uint8_t *entry)
{
    uint64_t row = tree_number(entry + 8, 8) * t->columns;
    return (int64_t)(t->frame_axes > 1 ? row + tree_number(entry + 16, 8) : row);
}

/* How many of the rows from `first` to `end` are below `edge`; they ascend. */
static inline size_t tree_below(const int64_t *row, size_t first, size_t end, int64_t edge)
{
    while (first < end) {
        size_t middle = first + (end - first) / 2;
        if (row[middle] < edge) first = middle + 1;
        else end = middle;
    }
    return first;
}

static int tree_find(TreeSearch *t, uint64_t address, int level, size_t first, size_t end);

static int tree_take(TreeSearch *t, const uint8_t *entry, size_t width, int n, size_t first,
                      size_t end)
{
    int i = 0;
    for (int k = 1; k < n; k++) {
        if (tree_row(t, entry + k * width) < tree_row(t, entry + (k - 1) * width))
            return TREE_NOT_ASCENDING;
    }
    for (size_t r = first; r < end; r++) {
        while (i < n && tree_row(t, entry + i * width) < t->row[r]) i++;
        if (i == n) break;
        const uint8_t *e = entry + i * width;
        if (tree_row(t, e) != t->row[r]) continue;
        t->size[r] = (int64_t)tree_number(e, 4);
        t->skipped[r] = (int64_t)tree_number(e + 4, 4);
        t->offset[r] = (int64_t)tree_number(e + width - 8, 8);
    }
    return TREE_FOUND;
}

/* Look the rows up in the children that may hold them: from their own key up to the next one.
 *
 * Children are all over the file: the system reads those that are needed at the same time. */
static int tree_descend(TreeSearch *t, const uint8_t *entry, size_t width, int n, int level,
                        int is_root, size_t first, size_t end)
{
    int64_t edge = tree_row(t, entry), next;
    for (int i = 0; i < n; i++, edge = next) {
        next = tree_row(t, entry + (i + 1) * width);
        if (next < edge) return TREE_NOT_ASCENDING;
    }
    first = n ? tree_below(t->row, first, end, tree_row(t, entry)) : end;
    for (int pass = 0; pass < 2; pass++) {
        size_t from = first, stop;
        for (int i = 0; i < n && from < end; i++, from = stop) {
            const uint8_t *e = entry + i * width;
            uint64_t child = tree_number(e + width - 8, 8);
            next = tree_row(t, e + width);
            if (i < n - 1) stop = tree_below(t->row, from, end, next);
            /* the last key is that of the last chunk itself, or what follows it */
            else if (is_root || next == INT64_MAX) stop = end;
            else stop = tree_below(t->row, from, end, next + 1);
            if (stop == from) continue;
            if (pass == 0) will_need(t->fd, TREE_HEADER + (TREE_USUAL + 1) * width, (int64_t)child);
            else {
                int status = tree_find(t, child, level - 1, from, stop);
                if (status) return status;
            }
        }
    }
    return TREE_FOUND;
}

/* Find the rows from `first` to `end` below a node of some level, -1: of any, the root. */
static int tree_find(TreeSearch *t, uint64_t address, int level, size_t first, size_t end)
{
    const size_t width = 16 + 8 * (size_t)t->dimensions;
    size_t room = TREE_HEADER + (TREE_USUAL + 1) * width, need;
    uint8_t *node = malloc(room);
    int status = TREE_NO_MEMORY, n, own;
    if (node == NULL) return status;
    t->at = address;
    t->nodes++;
    size_t got = tree_read(t->fd, node, room, address);
    status = TREE_NO_NODE;
    if (got < TREE_HEADER || memcmp(node, "TREE\x01", 5) != 0) goto done;
    own = node[5];
    n = (int)tree_number(node + 6, 2);
    need = TREE_HEADER + (n + 1) * width - 8;
    if (need > room) {
        uint8_t *larger = realloc(node, need);
        status = TREE_NO_MEMORY;
        if (larger == NULL) goto done;
        node = larger;
        got = tree_read(t->fd, node, need, address);
    }
    status = TREE_CUT_OFF;
    if (got < need) goto done;
    status = TREE_WRONG_LEVEL;
    if (own > TREE_DEEPEST || (level >= 0 && own != level)) goto done;
    status = TREE_NOT_WHOLE_FRAMES;
    for (int i = 0; i < n; i++)
        for (int d = t->frame_axes; d < t->dimensions; d++)
            if (tree_number(node + TREE_HEADER + i * width + 8 + 8 * d, 8)) goto done;
    status = TREE_FOUND;
    if (own == 0) status = tree_take(t, node + TREE_HEADER, width, n, first, end);
    else status = tree_descend(t, node + TREE_HEADER, width, n, own, level < 0, first, end);
done:
    free(node);
    return status;
}

#endif
