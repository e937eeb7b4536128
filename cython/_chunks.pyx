"""Rows of a dataset → where their chunks are in the file, from HDF5's own B-tree.

Loops only: `xfelmpi.io.chunk_index` checks, allocates and documents.
"""

from libc.stdint cimport int64_t, uint64_t

cdef extern from "chunk_tree.h":
    enum:
        TREE_DEEPEST
        TREE_FOUND
        TREE_NO_NODE
        TREE_CUT_OFF
        TREE_WRONG_LEVEL
        TREE_NOT_ASCENDING
        TREE_NOT_WHOLE_FRAMES
        TREE_NO_MEMORY
    ctypedef struct TreeSearch:
        int fd
        int dimensions
        int frame_axes
        uint64_t columns
        const int64_t *row
        int64_t *offset
        int64_t *size
        int64_t *skipped
        int64_t nodes
        uint64_t at
    int tree_find(TreeSearch *t, uint64_t address, int level, size_t first, size_t end) nogil

DEEPEST = TREE_DEEPEST
"""Levels of a tree at most."""

_WHY = {
    TREE_NO_NODE: "no B-tree node of chunks at {}",
    TREE_CUT_OFF: "B-tree node at {} is cut off",
    TREE_WRONG_LEVEL: "B-tree node at {} is of another level than expected",
    TREE_NOT_ASCENDING: "keys of the node at {} do not ascend",
    TREE_NOT_WHOLE_FRAMES: "chunks do not hold whole frames (node at {})",
}


def find_chunks(
        int fd, uint64_t root, int dimensions, int frame_axes, int64_t columns,
        const int64_t[::1] row not None,
        int64_t[::1] offset not None, int64_t[::1] size not None,
        int64_t[::1] skipped not None):
    """Locate the chunks that begin with these rows, which ascend; returns nodes read, and why not.

    Rows count frames: ``columns`` of them at a step along the first of two `frame_axes`, or 1.
    The reason is empty if nothing was wrong. Chunks that are not there are left as they are.
    """
    cdef TreeSearch t
    cdef size_t n = row.shape[0]
    cdef int status

    if <size_t>offset.shape[0] != n or <size_t>size.shape[0] != n or <size_t>skipped.shape[0] != n:
        raise ValueError(f"outputs are of another number of chunks than {n}")
    if n == 0:
        return 0, ""
    t.fd = fd
    t.dimensions = dimensions
    t.frame_axes = frame_axes
    t.columns = <uint64_t>columns
    t.row = &row[0]
    t.offset = &offset[0]
    t.size = &size[0]
    t.skipped = &skipped[0]
    t.nodes = 0
    t.at = root
    with nogil:
        status = tree_find(&t, root, -1, 0, n)
    if status == TREE_NO_MEMORY:
        raise MemoryError("no memory for a B-tree node")
    return t.nodes, "" if status == TREE_FOUND else _WHY[status].format(t.at)
