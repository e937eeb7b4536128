"""Pixels that are not valid photon counts (NaN, infinite, out of range) though no mask says so.

Corrected data have NaN in every pixel that their own masks call bad, which is as it should be; in
any other pixel it is damage. Such a pixel has an entry with count 0 in its frame's list.
"""

import numpy as np

from xfelmpi.core.sparse_frames import FrameBlock, FrameSums
from xfelmpi.run.frames.frame_bytes import READ_ERRORS
from xfelmpi.run.frames.frame_masks import MaskReader

EXAMINED = 8
"""Frames of a module and a train whose own masks are looked up although they do not count. If
these explain all of their invalid pixels, they are believed to do so in the train's other frames:
to read the masks of all would double the time."""

_ALL_BITS = 2**32 - 1


def count_invalid(sums: FrameSums, bad_here, good, mask_row) -> np.ndarray:
    """Return how many pixels of each frame only their values call bad, int64 (frame,).

    Parameters
    ----------
    sums : FrameSums
        Of one module.
    bad_here : ndarray, uint8 (frame, byte)
        Bits of what the frames' own masks call bad; no frame if these do not count.
    good : ndarray, uint8 (row, byte)
        Bits of the good pixels by all other masks.
    mask_row : ndarray, int (frame,)
    """
    invalid = sums.entries.astype(np.int64) - sums.lit
    if len(bad_here) and invalid.any():
        invalid -= np.bitwise_count(bad_here & good[mask_row]).sum(axis=1, dtype=np.int64)
    # a frame that could not be read has no entries
    return np.maximum(invalid, 0)


def unexplained(
    reader: MaskReader,
    number: int,
    rows: np.ndarray,
    invalid: np.ndarray,
    block: FrameBlock,
    frames: np.ndarray,
    module: int,
) -> np.ndarray:
    """Return `invalid` less what the frames' own masks call bad, which are not in use.

    Parameters
    ----------
    reader : MaskReader
    number : int
        The file.
    rows : ndarray, int (frame,)
        Of the file.
    invalid : ndarray, int64 (frame,)
        Invalid pixels of each frame.
    block : FrameBlock
        Has the frames' lists, but of those that did not fit.
    frames : ndarray, int (frame,)
        Rows of the block.
    module : int
    """
    start, stop = block.start[frames, module], block.stop[frames, module]
    some = np.flatnonzero((invalid > 0) & (start >= 0))[:EXAMINED]
    if not len(some):
        return invalid
    try:
        bad, status = reader.bad_pixels(number, rows[some], _ALL_BITS)
    except READ_ERRORS:
        return invalid
    left = invalid.copy()
    for i, frame in enumerate(some):
        here = slice(start[frame], stop[frame])
        pixels = block.pixel[here][block.count[here] == 0] - module * 8 * bad.shape[1]
        explained = bad[i, pixels >> 3] >> (pixels & 7) & 1
        left[frame] -= explained.sum() if status[i] == 0 else 0
    return left if left[some].any() else np.zeros_like(left)
