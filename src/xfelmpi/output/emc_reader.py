"""Dragonfly's sparse file read back, frame by frame; `write/emc.py` has its layout."""

from pathlib import Path

import numpy as np

from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.output.emc import HEADER_BYTES, INTEGER


class EmcFile:
    """An EMC file, open for reading.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    num_data, num_pix, kind : int
        Frames, pixels of a frame, and type (0: sparse integers), as the header has them.
    ones, multi : ndarray, int64 (frame,)
        Pixels with one and with more photons.
    expected_bytes : int
        Size of the file by its own numbers.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or is too short for the numbers of its frames.
    """

    def __init__(self, path: Path):
        self._path = path
        header = np.fromfile(path, INTEGER, HEADER_BYTES // 4)
        if len(header) < HEADER_BYTES // 4:
            raise ValueError(f"{4 * len(header)} bytes, expected a header of {HEADER_BYTES}")
        self.num_data, self.num_pix, self.kind = header[:3].tolist()
        numbers = np.fromfile(path, INTEGER, 2 * max(self.num_data, 0), offset=HEADER_BYTES)
        if self.num_data < 0 or len(numbers) < 2 * self.num_data or (numbers < 0).any():
            raise ValueError(f"no numbers of photons for {self.num_data} frames")
        self.ones, self.multi = numbers.reshape(2, -1).astype(np.int64)
        starts = [
            HEADER_BYTES + 8 * self.num_data,
            HEADER_BYTES + 8 * self.num_data + 4 * int(self.ones.sum()),
            HEADER_BYTES + 8 * self.num_data + 4 * int(self.ones.sum() + self.multi.sum()),
        ]
        self._starts = starts
        self._before_ones = np.concatenate([[0], np.cumsum(self.ones)])
        self._before_multi = np.concatenate([[0], np.cumsum(self.multi)])
        self.expected_bytes = starts[2] + 4 * int(self.multi.sum())

    def frame(self, number: int) -> SparseFrames:
        """Return one frame, with pixels in ascending order and counts in int32."""
        ones, multi = int(self.ones[number]), int(self.multi[number])
        place_ones = self._read(0, self._before_ones[number], ones)
        place_multi = self._read(1, self._before_multi[number], multi)
        count_multi = self._read(2, self._before_multi[number], multi)
        pixel = np.concatenate([place_ones, place_multi])
        count = np.concatenate([np.ones(ones, INTEGER), count_multi])
        order = np.argsort(pixel, kind="stable")
        return SparseFrames(np.array([0, len(pixel)]), pixel[order], count[order])

    def _read(self, part: int, before: int, n: int) -> np.ndarray:
        return np.fromfile(self._path, INTEGER, n, offset=self._starts[part] + 4 * int(before))
