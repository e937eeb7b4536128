"""Blocks of n × n pixels as one: for smaller problems in Dragonfly. Pure.

n divides the edges of an ASIC, so that no block spans a gap. Block number: ``(module · n_ss/n +
ss // n) · n_fs/n + fs // n``, the pixel number of a detector with pixels n times as large.
"""

import numpy as np

from xfelmpi.core.sparse_frames import SparseFrames


def n_blocks(n_pixels: int, n: int) -> int:
    """Return the number of blocks of a frame of `n_pixels`."""
    return n_pixels // n**2


def block_of_pixel(pixel: np.ndarray, n_fs: int, n: int) -> np.ndarray:
    """Return the block number of pixel numbers, int64 (…), in modules of `n_fs` pixels a row."""
    row, fs = np.divmod(pixel.astype(np.int64), n_fs)
    return row // n * (n_fs // n) + fs // n


def in_blocks(values: np.ndarray, n: int) -> np.ndarray:
    """Return a view (…, ss block, n, fs block, n) of values (…, ss, fs)."""
    *outer, ss, fs = values.shape
    return values.reshape(*outer, ss // n, n, fs // n, n)


def bin_frames(frames: SparseFrames, n: int, usable: np.ndarray) -> SparseFrames:
    """Sum the photons of the usable pixels of every block.

    Parameters
    ----------
    frames : SparseFrames
    n : int
        Edge of a block in pixels.
    usable : ndarray, bool (module, ss, fs)
        Photons on other pixels are left out.

    Returns
    -------
    SparseFrames
        With block numbers for pixel numbers, and counts in uint32, none of them 0.
    """
    frame = frames.frame_of_entry
    counts = (frames.count > 0) & usable.reshape(-1)[frames.pixel]
    block = block_of_pixel(frames.pixel[counts], usable.shape[-1], n)
    per_frame = n_blocks(usable.size, n)
    keys, where = np.unique(frame[counts] * per_frame + block, return_inverse=True)
    total = np.zeros(len(keys), np.uint32)
    np.add.at(total, where, frames.count[counts])
    of_frame, block = np.divmod(keys, per_frame)
    lengths = np.bincount(of_frame, minlength=len(frames))
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return SparseFrames(indptr, block.astype(np.uint32), total)
