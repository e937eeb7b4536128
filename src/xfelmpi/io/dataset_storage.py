"""Where the bytes of a dataset really lie, and whether they are there.

HDF5 hides both. A dataset may be in another file than the one that names it (external links,
links of groups), in files that are not HDF5 (external storage), or in other datasets (virtual
datasets); and what is not there is filled in without an error. numpy's type says nothing of unused
bits, padding or odd floats either. Whoever reads bytes by their offset asks here first, and so does
whoever lets HDF5 read what counts.
"""

import math
import os
import stat
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5t, h5z

from xfelmpi.core.errors import InputError
from xfelmpi.io.chunk_index import ChunkIndex, UnknownLayoutError
from xfelmpi.io.plain_values import LARGEST_CHUNK

_SMALL_CHUNK = 1 << 24
"""Values of a chunk that may be larger than its dataset."""

_PLAIN_TYPES = {
    "|u1": (h5t.STD_U8LE, h5t.STD_U8BE),
    "<u2": (h5t.STD_U16LE,),
    "<u4": (h5t.STD_U32LE,),
    "<f4": (h5t.IEEE_F32LE,),
}
"""Types whose bytes are what numpy takes them for: all bits in use, in the usual order."""


def home_descriptor(data: h5py.Dataset) -> int | None:
    """Return HDF5's own descriptor of the file that holds a dataset, None if it has none.

    It is the file that offsets count in, whatever name led there; open as long as the dataset.
    """
    home = data.file
    return home.id.get_vfd_handle() if home.driver == "sec2" else None


def is_plain(data: h5py.Dataset) -> bool:
    """Return whether the stored bytes are exactly those of the numpy type: u1, u2, u4 or f4."""
    kind = data.id.get_type()
    return any(kind == plain for plain in _PLAIN_TYPES.get(data.dtype.str, ()))


def has_offsets(data: h5py.Dataset) -> bool:
    """Return whether the dataset's bytes are in its own file, at offsets that HDF5 tells."""
    layout = data.id.get_create_plist().get_layout()
    return (
        layout in (h5d.CONTIGUOUS, h5d.CHUNKED)
        and not data.is_virtual
        and data.external is None
        # HDF5 versions differ in whether a chunk's address counts from the user block
        and data.file.userblock_size == 0
    )


def frame_places(dataset: h5py.Dataset, frames: np.ndarray) -> np.ndarray:
    """Return the byte of the file at which each frame begins, int64 (frame,).

    Frames at the same place are the same. Where that is unknown, a frame has a number below -1 of
    its own. HDF5 itself would walk through all chunks for each of them.

    Parameters
    ----------
    dataset : h5py.Dataset
        Chunks hold one frame each.
    frames : ndarray, int (frame,)
    """
    unknown = -2 - frames.astype(np.int64)
    descriptor = home_descriptor(dataset)
    if descriptor is None or dataset.chunks is None or not has_offsets(dataset):
        return unknown
    try:
        found = ChunkIndex(descriptor, dataset).find(frames)[0]
    except UnknownLayoutError:
        return unknown
    return np.where(found >= 0, found, unknown)


def require_readable(data: h5py.Dataset) -> None:
    """Make sure that HDF5 can read a dataset in parts; see `require_filters`.

    Raises
    ------
    InputError
        If a filter is not available, with its number and name.
    ValueError
        If a chunk takes more memory than any rank may use, however small the file is.
    """
    if data.chunks and math.prod(data.chunks) * data.dtype.itemsize > LARGEST_CHUNK:
        raise ValueError(
            f"{data.name} is in chunks of {data.chunks}, expected at most {LARGEST_CHUNK} bytes"
        )
    require_filters(data)


def require_whole_readable(data: h5py.Dataset) -> None:
    """Make sure that HDF5 can read a dataset that is needed as a whole; see `require_filters`.

    Raises
    ------
    InputError
        If a filter is not available, or if a chunk takes more memory than the dataset.
    """
    if data.chunks and math.prod(data.chunks) > max(_SMALL_CHUNK, 2 * data.size):
        raise InputError(
            f"{data.file.filename}: {data.name} of shape {data.shape} is in chunks of {data.chunks}"
        )
    require_filters(data)


def require_filters(data: h5py.Dataset) -> None:
    """Make sure that HDF5 can unpack a dataset; plugins are registered where one is needed.

    Raises
    ------
    InputError
        If a filter is not available, with its number and name.
    """
    plist = data.id.get_create_plist()
    for i in range(plist.get_nfilters()):
        number, _, _, name = plist.get_filter(i)
        if not _can_filter(number):
            label = f" ({name.decode('ascii', 'replace')})" if name else ""
            raise InputError(
                f"{data.file.filename}: {data.name} is packed with HDF5 filter {number}{label}, "
                "which is not available here; HDF5 looks for plugins in HDF5_PLUGIN_PATH"
            )


def _can_filter(number: int) -> bool:
    if not h5z.filter_avail(number):
        # Zstandard, LZ4, bitshuffle, Blosc2 and more; a file without them need not wait for it
        import hdf5plugin  # noqa: F401
    return bool(h5z.filter_avail(number))


def written_rows(data: h5py.Dataset, axes: int = 1) -> np.ndarray | None:
    """Return which rows of a dataset that is not virtual were ever written and are still there.

    Parameters
    ----------
    data : h5py.Dataset
    axes : int
        How many axes number the rows, 1 or 2.

    Returns
    -------
    ndarray, bool (row,), or None
        None: all of them.
    """
    n_rows = math.prod(data.shape[:axes])
    if data.external is not None:
        return _external_rows(data, n_rows)
    if data.chunks is None:
        empty = data.size and data.id.get_storage_size() == 0
        return np.zeros(n_rows, bool) if empty else None
    grid = [-(-n // c) for n, c in zip(data.shape, data.chunks, strict=True)]
    if data.id.get_num_chunks() == np.prod(grid, dtype=np.int64):
        return None
    descriptor = home_descriptor(data)
    found = None
    if has_offsets(data) and descriptor is not None:
        try:
            found = ChunkIndex(descriptor, data, axes).count_chunks(math.prod(grid[:axes]))
        except UnknownLayoutError:
            # of another kind, which HDF5 reads one chunk at a time
            found = None
    if found is None:
        found = np.zeros(grid[:axes], np.int64)
        for i in range(data.id.get_num_chunks()):
            start = data.id.get_chunk_info(i).chunk_offset[:axes]
            found[tuple(a // b for a, b in zip(start, data.chunks, strict=False))] += 1
    there = found.reshape(grid[:axes]) == math.prod(grid[axes:])
    for axis in range(axes):
        there = np.repeat(there, data.chunks[axis], axis)
    return there[tuple(slice(n) for n in data.shape[:axes])].reshape(-1)


def _external_rows(data: h5py.Dataset, n_rows: int) -> np.ndarray | None:
    """Return which rows of external storage are in files that are there and long enough."""
    n_bytes = data.size * data.dtype.itemsize
    row_bytes = n_bytes // n_rows if n_rows else 1
    there = np.ones(n_rows, bool)
    at = 0
    for name, offset, size in data.external:
        size = min(size, n_bytes - at)
        available = min(max(_length(_external_path(data, name)) - offset, 0), size)
        if available < size:
            there[(at + available) // row_bytes : -(-(at + size) // row_bytes)] = False
        at += size
    there[at // row_bytes :] &= at >= n_bytes
    return None if there.all() else there


def _external_path(data: h5py.Dataset, name: str) -> Path:
    """Return the file that HDF5 opens for external storage of that name."""
    prefix = os.environ.get("HDF5_EXTFILE_PREFIX", "")
    if prefix.startswith("${ORIGIN}"):
        prefix = str(Path(data.file.filename).resolve().parent) + prefix[len("${ORIGIN}") :]
    return Path(prefix, name)


def _length(path: Path) -> int:
    """Return the length of a regular file, 0 if there is none."""
    try:
        status = path.stat()
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
