"""Where the chunks of a dataset are in its file, read from HDF5's own index.

HDF5 1.10 finds one chunk's address by walking through all of them, which makes a file of 10⁵ chunks
quadratic; later versions have a better call, but not all sites have them. So the index of the usual
kind is read here: a version 1 B-tree, found through the layout message of the dataset's object
header (HDF5 File Format Specification 3.0, III.A.1, IV.A.1, IV.A.2.i). Everything else is left to
HDF5: `ChunkIndex` raises `UnknownLayoutError`, and the caller reads through h5py.

Nodes of such a tree carry no checksum: `ChunkIndex.redirect` changes their entries in place.
"""

import os
import struct

import h5py
import numpy as np

from xfelmpi._kernels import _chunks
from xfelmpi._kernels._chunks import DEEPEST

_LAYOUT, _CONTINUATION = 0x08, 0x10
_UNDEFINED = 0xFFFF_FFFF_FFFF_FFFF
_NODE_HEADER = 24
_USUAL_ENTRIES = 64
_MOST_HEADER_BLOCKS = 64


class UnknownLayoutError(ValueError):
    """The dataset is indexed in a way that is not read here, or its index is damaged."""


class ChunkIndex:
    """The chunks of one dataset whose chunks hold whole frames.

    Parameters
    ----------
    fd : int
        The file, open for reading.
    dataset : h5py.Dataset
        Chunked along the frames' axes only (but for `count_chunks`), in that very file, which has
        no user block.
    frame_axes : int
        Axes that number the frames, 1 or 2. Chunks are counted in the order of their frames.

    Attributes
    ----------
    nodes_read : int
        Nodes of the tree that the last `find` has read.

    Raises
    ------
    UnknownLayoutError
        If the index is not a version 1 B-tree.
    """

    def __init__(self, fd: int, dataset: h5py.Dataset, frame_axes: int = 1):
        self._fd = fd
        self._axes = frame_axes
        self._steps = (*dataset.chunks[:frame_axes], 1)[:2]
        # chunks along the second axis
        self._across = -(-dataset.shape[1] // self._steps[1]) if frame_axes > 1 else 1
        self._whole_rows = dataset.chunks[frame_axes:] == dataset.shape[frame_axes:]
        sizes = dataset.file.id.get_create_plist().get_sizes()
        if tuple(sizes) != (8, 8):
            raise UnknownLayoutError(f"addresses and lengths of {sizes} bytes")
        # h5o.get_info would walk through the whole tree, and HDF5 keep 9 MB of it for each file
        address, _ = h5py.h5g.get_objinfo(dataset.id).objno
        self._root = self._find_root(address, dataset.ndim + 1)
        self.nodes_read = 0
        # size and filter mask of the chunk, its first element in every dimension, its address
        self._entry = np.dtype(
            [("size", "<u4"), ("mask", "<u4"), ("start", "<u8", dataset.ndim + 1), ("at", "<u8")]
        )

    @property
    def empty(self) -> bool:
        """Whether no chunk was ever written."""
        return self._root == _UNDEFINED

    def find(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Locate chunks by their numbers, int (chunk,).

        Returns
        -------
        offset : ndarray, int64 (chunk,)
            Byte in the file, -1 for a chunk that was never written.
        size : ndarray, int64 (chunk,)
            Bytes as stored.
        skipped : ndarray, int64 (chunk,)
            Bit i set: filter i was left out for this chunk.
        """
        if not self._whole_rows:
            raise UnknownLayoutError("chunks do not hold whole frames")
        steps, columns = self._steps, self._across * self._steps[1]
        along, across = np.divmod(numbers.astype(np.int64), self._across)
        rows = along * steps[0] * columns + across * steps[1]
        offset = np.full(len(rows), -1, np.int64)
        size, skipped = np.zeros((2, len(rows)), np.int64)
        if not len(rows) or self._root == _UNDEFINED:
            return offset, size, skipped
        order = np.argsort(rows, kind="stable")
        found = np.full((3, len(rows)), -1, np.int64)
        found[1:] = 0
        about = self._fd, self._root, self._entry["start"].shape[0], self._axes, columns
        self.nodes_read, why = _chunks.find_chunks(*about, rows[order], *found)
        if why:
            raise UnknownLayoutError(why)
        offset[order], size[order], skipped[order] = found
        return offset, size, skipped

    def count_chunks(self, n: int) -> np.ndarray:
        """Return how many chunks were written of each step along the frames' axes, int64 (n,)."""
        found = np.zeros(n, np.int64)
        if self._root != _UNDEFINED:
            for _, leaf in self._all_leaves(self._root, None):
                step = self._number_of(leaf)
                found += np.bincount(step[(step >= 0) & (step < n)], minlength=n)
        return found

    def redirect(self, offset: np.ndarray, size: np.ndarray, skipped: np.ndarray) -> None:
        """Have chunks read from other places; several may share one place.

        HDF5 must not have the file open. It only looks up where a chunk is, so that every version
        reads the result, but a dataset so changed must not be written to again.

        Parameters
        ----------
        offset, size, skipped : ndarray, int64 (chunk,)
            As `find` returns them, for every chunk of the dataset.

        Raises
        ------
        UnknownLayoutError
            If the index lacks a chunk.
        OSError
            If the file cannot be written.
        """
        found = 0
        if self._root != _UNDEFINED:
            for address, leaf in self._all_leaves(self._root, None):
                chunk = self._number_of(leaf)
                if len(chunk) and not 0 <= chunk.min() <= chunk.max() < len(offset):
                    raise UnknownLayoutError(f"the index names chunks beyond {len(offset)}")
                entries = leaf.copy()
                for name, values in (("at", offset), ("size", size), ("mask", skipped)):
                    entries[name] = values[chunk]
                os.pwrite(self._fd, entries.tobytes(), address + _NODE_HEADER)
                found += len(entries)
        if found != len(offset) or (offset < 0).any():
            raise UnknownLayoutError(f"the index has {found} of {len(offset)} chunks")

    def _number_of(self, entries: np.ndarray) -> np.ndarray:
        """Return the numbers of the chunks in a leaf, int64 (entry,)."""
        number = entries["start"][:, 0].astype(np.int64) // self._steps[0]
        if self._axes > 1:
            number = (
                number * self._across + entries["start"][:, 1].astype(np.int64) // self._steps[1]
            )
        return number

    def _all_leaves(self, address: int, level: int | None):
        """Yield address and entries of every leaf; a row may have several chunks."""
        found, entries = self._node(address)
        if found > DEEPEST or (level is not None and found != level):
            raise UnknownLayoutError(f"node of level {found} at {address}, expected {level}")
        if found == 0:
            yield address, entries
            return
        for child in entries["at"].tolist():
            yield from self._all_leaves(child, found - 1)

    def _bytes(self, n: int, address: int) -> bytes:
        """Return up to n bytes of the file; fewer at its end."""
        try:
            return os.pread(self._fd, n, address)
        except (OverflowError, OSError) as error:
            raise UnknownLayoutError(f"impossible address {address}: {error}") from None

    def _node(self, address: int) -> tuple[int, np.ndarray]:
        """Return level and entries of a B-tree node."""
        width = self._entry.itemsize
        node = self._bytes(_NODE_HEADER + (_USUAL_ENTRIES + 1) * width, address)
        if len(node) < _NODE_HEADER or node[:5] != b"TREE\x01":
            raise UnknownLayoutError(f"no B-tree node of chunks at {address}")
        level, n = node[5], struct.unpack_from("<H", node, 6)[0]
        need = _NODE_HEADER + (n + 1) * width - 8
        if len(node) < need:
            node = self._bytes(need, address)
        if len(node) < need:
            raise UnknownLayoutError(f"B-tree node at {address} is cut off")
        entries = np.frombuffer(node, self._entry, n, _NODE_HEADER)
        if n and self._whole_rows and entries["start"][:, self._axes :].any():
            raise UnknownLayoutError("chunks do not hold whole frames")
        return level, entries

    def _find_root(self, address: int, rank: int) -> int:
        """Return the address of the B-tree from the dataset's object header."""
        for kind, data in self._messages(address):
            if kind == _LAYOUT:
                version, layout, dimensions = data[0], data[1], data[2]
                if (version, layout, dimensions) != (3, 2, rank):
                    raise UnknownLayoutError(f"layout message of version {version}, class {layout}")
                return struct.unpack_from("<Q", data, 3)[0]
        raise UnknownLayoutError("no layout message in the object header")

    def _messages(self, address: int):
        """Yield (type, data) of all messages of an object header of version 1 or 2."""
        start = self._bytes(64, address)
        try:
            if start[:4] == b"OHDR":
                flags = start[5]
                at = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
                length = int.from_bytes(start[at : at + (1 << (flags & 3))], "little")
                blocks = [(address + at + (1 << (flags & 3)), length)]
                head = "<BHBH" if flags & 4 else "<BHB"
            else:
                if start[0] != 1:
                    raise UnknownLayoutError(f"object header of version {start[0]}")
                blocks = [(address + 16, struct.unpack_from("<I", start, 8)[0])]
                head = "<HHB3x"
            for i, (at, length) in enumerate(blocks):
                block = self._bytes(min(length, 1 << 20), at)
                for kind, data in _split(block, head):
                    if kind == _CONTINUATION and i < _MOST_HEADER_BLOCKS:
                        place, size = struct.unpack_from("<QQ", data)
                        signature = 4 if start[:4] == b"OHDR" else 0
                        blocks.append((place + signature, size - 2 * signature))
                    yield kind, data
        except (struct.error, IndexError) as error:
            raise UnknownLayoutError(f"damaged object header at {address}: {error}") from None


def _split(block: bytes, head: str):
    """Yield (type, data) of the messages in a block of an object header."""
    at, width = 0, struct.calcsize(head)
    while at + width <= len(block):
        kind, size = struct.unpack_from(head, block, at)[:2]
        yield kind, block[at + width : at + width + size]
        at += width + size
