"""``emc/rRRRR.emc``: hits as Dragonfly's sparse binary format, written by all ranks at once.

Layout (Dragonfly, ``emcfile.c``): a header of 1024 bytes (num_data, num_pix, type 0), then
``ones[num_data]``, ``multi[num_data]``, then for all frames place_ones, place_multi, count_multi,
all little-endian int32. Every rank knows from the sums of its frames where its pieces go.
"""

import os
from pathlib import Path

import numpy as np

from xfelmpi.core.errors import OutputError
from xfelmpi.core.job import agree_on_process_id
from xfelmpi.core.regular_file import open_regular
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.io.output_file import reserve
from xfelmpi.io.partial_file import begin_partial, check_own
from xfelmpi.mpi import MpiFile, exscan_and_total, run_on_root

HEADER_BYTES = 1024
INTEGER = np.dtype("<i4")

_FRAMES_AT_ONCE = 1024


class EmcWriter:
    """Writes hits block by block; every method is collective.

    Parameters
    ----------
    comm : Intracomm
    path : Path
        Final name; the file is complete, but under its temporary name after `close`.
    ones, multi : ndarray, int (hit,)
        Pixels with one and with more photons in the hits of this rank.
    num_pix : int
        Pixels of a frame.

    Raises
    ------
    OutputError
        If there are more hits than Dragonfly's 32-bit numbers can count, or no room for the file.
    """

    def __init__(self, comm, path, ones: np.ndarray, multi: np.ndarray, num_pix: int):
        first, n_hits = exscan_and_total(comm, len(ones))
        if n_hits > np.iinfo(INTEGER).max:
            raise OutputError(f"{path}: {n_hits} hits, but EMC counts them in 32 bits")
        before_ones, all_ones = exscan_and_total(comm, ones.sum())
        before_multi, all_multi = exscan_and_total(comm, multi.sum())
        agree_on_process_id(comm)
        part = begin_partial(path)
        size = HEADER_BYTES + 4 * (2 * n_hits + all_ones + 2 * all_multi)
        run_on_root(comm, lambda: reserve(part, size, anew=True))
        self._file = MpiFile(comm, str(part))
        # MPI opens by name
        run_on_root(comm, lambda: check_own(part))
        header = np.zeros(HEADER_BYTES // 4, INTEGER)
        header[:2] = n_hits, num_pix
        self._file.write_at(0, header if comm.rank == 0 else header[:0])
        self._file.write_at(HEADER_BYTES + 4 * first, ones.astype(INTEGER))
        self._file.write_at(HEADER_BYTES + 4 * (n_hits + first), multi.astype(INTEGER))
        places = HEADER_BYTES + 8 * n_hits
        self._next = [
            places + 4 * before_ones,
            places + 4 * (all_ones + before_multi),
            places + 4 * (all_ones + all_multi + before_multi),
        ]

    def write(self, hits: SparseFrames) -> None:
        """Append a block of this rank's hits, possibly none."""
        is_one, is_multi = hits.count == 1, hits.count > 1
        pieces = (hits.pixel[is_one], hits.pixel[is_multi], hits.count[is_multi])
        for i, piece in enumerate(pieces):
            self._file.write_at(self._next[i], piece.astype(INTEGER))
            self._next[i] += 4 * len(piece)

    def close(self) -> None:
        """Close the file, complete but still under its temporary name."""
        self._file.close()


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
        descriptor = open_regular(path)
        self._n_bytes = os.fstat(descriptor).st_size
        os.close(descriptor)
        header = np.fromfile(path, INTEGER, HEADER_BYTES // 4)
        if len(header) < HEADER_BYTES // 4:
            raise ValueError(f"{4 * len(header)} bytes, expected a header of {HEADER_BYTES}")
        self.num_data, self.num_pix, self.kind = header[:3].tolist()
        numbers = self._values(HEADER_BYTES, 2 * max(self.num_data, 0))
        if self.num_data < 0 or len(numbers) < 2 * self.num_data or (numbers < 0).any():
            raise ValueError(f"no photon counts for {self.num_data} frames")
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

    def photons(self, pixels: np.ndarray) -> np.ndarray:
        """Return the photons of every frame on some pixels, int64 (frame,).

        Parameters
        ----------
        pixels : ndarray, bool (num_pix,)
        """
        total = np.zeros(self.num_data, np.int64)
        for first in range(0, self.num_data, _FRAMES_AT_ONCE):
            block = slice(first, first + _FRAMES_AT_ONCE)
            for part, number, before in (
                (0, self.ones[block], self._before_ones[first]),
                (1, self.multi[block], self._before_multi[first]),
            ):
                counts = pixels[self._read(part, before, int(number.sum()))].astype(np.int64)
                if part:
                    counts *= self._read(2, before, len(counts))
                frame = np.repeat(np.arange(len(number)), number)
                # sums of integers are exact in float64
                total[block] += np.bincount(frame, counts, len(number)).astype(np.int64)
        return total

    def _read(self, part: int, before: int, n: int) -> np.ndarray:
        return self._values(self._starts[part] + 4 * int(before), n)

    def _values(self, at: int, n: int) -> np.ndarray:
        """Return so many integers, or less at the end of the file: memory for no more."""
        n = min(n, max(self._n_bytes - at, 0) // 4)
        return np.fromfile(self._path, INTEGER, n, offset=at)
