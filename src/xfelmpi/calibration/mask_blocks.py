"""Good pixels of a mask file, read block by block, so that no chunk is inflated twice.

Programs write masks per cell in any layout: h5py's own guess for (352, 16, 512, 128) is chunks of
(44, 2, 64, 16), of which every one has a part of 88 frames. Blocks follow the chunks.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import h5py
import numpy as np
from h5py import h5d, h5p

from xfelmpi.core.errors import InputError
from xfelmpi.detectors.pixel_bits import pack

BLOCK_BYTES = 2 << 20
"""What is read at once, or one chunk."""

_LARGE = 32 << 20
"""Blocks above are read in parts, while HDF5 keeps their chunks inflated."""


@dataclass(frozen=True)
class MaskBlock:
    """A part of a mask.

    Parameters
    ----------
    masks : ndarray, int (mask,)
        Which masks of the file are wanted of it, ascending.
    modules, ss : slice
        All pixels along `fs` belong to it.
    """

    masks: np.ndarray
    modules: slice
    ss: slice


def mask_blocks(good: h5py.Dataset, wanted: np.ndarray) -> list[MaskBlock]:
    """Divide a mask into blocks that have no chunk in common.

    Parameters
    ----------
    good : h5py.Dataset
        (mask, module, ss, fs), or without the first axis.
    wanted : ndarray, int (mask,)
        Masks along the first axis that are needed, ascending.
    """
    _, n_modules, n_ss, n_fs = (1, *good.shape)[-4:]
    masks, modules, ss, _ = (1, *(good.chunks or (1,) * good.ndim))[-4:]
    rows = masks * modules * n_fs * good.dtype.itemsize
    # bits of a mask are bytes only where rows of pixels end with one
    ss = n_ss if n_fs % 8 else min(n_ss, ss * max(1, BLOCK_BYTES // (ss * rows)))
    joined = max(1, BLOCK_BYTES // (ss * rows)) if ss == n_ss else 1
    return [
        MaskBlock(part, slice(m, min(m + modules, n_modules)), slice(s, min(s + ss, n_ss)))
        for part in _runs_of_chunks(wanted, masks, joined)
        for m in range(0, n_modules, modules)
        for s in range(0, n_ss, ss)
    ]


def _runs_of_chunks(wanted: np.ndarray, size: int, joined: int) -> list[np.ndarray]:
    """Divide the wanted masks by chunks of `size`; up to `joined` neighbours go together."""
    parts: list[list[int]] = []
    first = last = -2
    for mask in wanted.tolist():
        chunk = mask // size
        if chunk > last + 1 or chunk >= first + joined:
            parts.append([])
            first = chunk
        parts[-1].append(mask)
        last = chunk
    return [np.array(part) for part in parts]


def read_block(
    good: h5py.Dataset, block: MaskBlock
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Read a block.

    Yields
    ------
    masks : ndarray, int (mask,)
        Some of the block's.
    bits : ndarray, uint8 (mask, module, byte)
        Their good pixels.
    largest : int
        The largest number among them.

    Raises
    ------
    InputError
        If a floating-point mask has anything but 0 and 1.
    """
    per_mask = (block.modules.stop - block.modules.start) * (block.ss.stop - block.ss.start)
    per_mask *= good.shape[-1] * good.dtype.itemsize
    at_once = len(block.masks)
    if per_mask * (block.masks[-1] + 1 - block.masks[0]) > _LARGE:
        at_once = max(1, BLOCK_BYTES // per_mask)
    for a in range(0, len(block.masks), at_once):
        masks = block.masks[a : a + at_once]
        pixels = (block.modules, block.ss)
        if good.ndim == 3:
            values = good[pixels][None]
        else:
            values = good[(slice(masks[0], masks[-1] + 1), *pixels)]
            if len(values) > len(masks):
                values = values[masks - masks[0]]
        if values.dtype.kind == "f" and not ((values == 0) | (values == 1)).all():
            other = values[(values != 0) & (values != 1)][0]
            raise InputError(
                f"{good.file.filename}: {good.name.lstrip('/')} has the value {other}, expected 0 "
                "for bad and 1 for good pixels"
            )
        largest = _largest(values) if values.dtype.kind in "iu" else 1
        yield masks, pack(values if values.dtype == bool else values != 0), largest


def _largest(values: np.ndarray) -> int:
    """Return the largest absolute value of whole numbers, at most that of an int64."""
    if not values.size:
        return 0
    return min(max(int(values.max()), -int(values.min())), np.iinfo(np.int64).max)


def with_chunk_cache(file: h5py.File, name: str) -> h5py.Dataset:
    """Open a mask; if its chunks are large, HDF5 keeps those of a block while it is read."""
    good = file[name]
    if good.chunks is None:
        return good
    fs = math.ceil(good.shape[-1] / good.chunks[-1])
    n_bytes = math.prod(good.chunks) * good.dtype.itemsize * fs
    if n_bytes <= _LARGE:
        return good
    del good
    access = h5p.create(h5p.DATASET_ACCESS)
    access.set_chunk_cache(101 * fs, n_bytes, 1.0)
    return h5py.Dataset(h5d.open(file.id, name.encode(), access))
