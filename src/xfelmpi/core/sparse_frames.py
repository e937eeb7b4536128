"""Sparse frames and what is summed over them: the data between the pass and everything after it.

An entry of a sparse list is a pixel number and a count; count 0 marks a pixel that is bad in this
frame only (NaN, ±inf, more than 65535 photons, a bad gain stage, or the frame's own mask).
"""

from dataclasses import dataclass

import numpy as np

from xfelmpi.core.event_table import typed_field

MAX_COUNT = 65535
"""More photons than this in one pixel of one frame cannot be a signal: the pixel is bad there."""

ENTRY_BYTES = 6
"""Memory of one entry: pixel number and count."""


@dataclass(frozen=True)
class SparseFrames:
    """Photons of some frames.

    Parameters
    ----------
    indptr : ndarray, int64 (frame + 1,)
        Entries of frame i are ``indptr[i]:indptr[i + 1]``, in ascending pixel order.
    pixel : ndarray, uint32 (entry,)
        Pixel number, see `Detector`.
    count : ndarray, uint16 (entry,)
        Photons; 0: the pixel is bad in this frame.
    """

    indptr: np.ndarray
    pixel: np.ndarray
    count: np.ndarray

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def take(self, frames: np.ndarray) -> "SparseFrames":
        """Return some of the frames, int (frame,), in the order asked for."""
        return gather(self.indptr[frames], self.indptr[frames + 1], self.pixel, self.count)

    @property
    def frame_of_entry(self) -> np.ndarray:
        """The frame of every entry, int64 (entry,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))

    def ones_and_multi(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels of each frame with exactly one photon and with more, int64 (frame,)."""
        n, frame = len(self), self.frame_of_entry
        ones, multi = (frame[chosen] for chosen in (self.count == 1, self.count > 1))
        return np.bincount(ones, minlength=n), np.bincount(multi, minlength=n)

    @staticmethod
    def empty() -> "SparseFrames":
        """Return no frames."""
        return SparseFrames(np.zeros(1, np.int64), np.empty(0, np.uint32), np.empty(0, np.uint16))

    @staticmethod
    def join(parts: list["SparseFrames"]) -> "SparseFrames":
        """Return the frames of all parts, one after the other."""
        if not parts:
            return SparseFrames.empty()
        lengths = np.concatenate([np.diff(p.indptr) for p in parts])
        return SparseFrames(
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.concatenate([p.pixel for p in parts]),
            np.concatenate([p.count for p in parts]),
        )


_GATHER_ENTRIES = 1 << 19

_LONG = 256
"""Entries of a segment in the mean above which slices are faster than positions."""


def gather(start: np.ndarray, stop: np.ndarray, pixel, count) -> SparseFrames:
    """Copy segments (frame,) or (frame, module) of a list into one list by frame."""
    segments = stop - start
    length = segments.reshape(-1)
    ends = np.cumsum(length)
    total = int(ends[-1]) if len(ends) else 0
    first = start.reshape(-1)
    per_frame = segments if segments.ndim == 1 else segments.sum(axis=1)
    indptr = np.concatenate([[0], np.cumsum(per_frame)]).astype(np.int64)
    if total > _LONG * len(length):
        ranges = [slice(*ends) for ends in zip(first.tolist(), stop.ravel().tolist(), strict=True)]
        return SparseFrames(
            indptr, *(np.concatenate([c[r] for r in ranges]) for c in (pixel, count))
        )
    out_pixel, out_count = np.empty(total, pixel.dtype), np.empty(total, count.dtype)
    # some segments at a time: the positions take several times the memory of what is copied
    a = 0
    while a < len(length):
        done = int(ends[a] - length[a])
        b = max(a + 1, int(np.searchsorted(ends, done + _GATHER_ENTRIES, side="right")))
        where = np.arange(int(ends[b - 1]) - done)
        where += np.repeat(first[a:b] - (ends[a:b] - length[a:b]) + done, length[a:b])
        out_pixel[done : ends[b - 1]] = pixel[where]
        out_count[done : ends[b - 1]] = count[where]
        a = b
    return SparseFrames(indptr, out_pixel, out_count)


_ADDED = (
    *("lit", "photons", "region_lit", "region_photons"),
    *("region_bad", "ones", "entries", "switched"),
)


@dataclass(frozen=True)
class FrameSums:
    """What is summed over the good pixels of every frame.

    Parameters
    ----------
    lit, region_lit : ndarray, uint32 (frame,)
        Pixels with at least one photon; the same in the hit-finding region.
    photons, region_photons : ndarray, uint64 (frame,)
        Sum of photons; the same in the hit-finding region.
    region_bad : ndarray, uint32 (frame,)
        Pixels of the hit-finding region that the masks of the cell call good, but that are bad in
        this frame.
    ones : ndarray, uint32 (frame,)
        Pixels with exactly one photon.
    peak : ndarray, uint16 (frame,)
        Most photons in one pixel.
    entries : ndarray, uint32 (frame,)
        Length of the frame's sparse list.
    modules : ndarray, uint16 (frame,)
        Bit m set: module m has this frame, and it could be read.
    switched : ndarray, uint32 (frame, 2)
        Good pixels in medium and in low gain; 0 in corrected data.
    """

    lit: np.ndarray = typed_field(np.uint32)
    photons: np.ndarray = typed_field(np.uint64)
    region_lit: np.ndarray = typed_field(np.uint32)
    region_photons: np.ndarray = typed_field(np.uint64)
    region_bad: np.ndarray = typed_field(np.uint32)
    ones: np.ndarray = typed_field(np.uint32)
    peak: np.ndarray = typed_field(np.uint16)
    entries: np.ndarray = typed_field(np.uint32)
    modules: np.ndarray = typed_field(np.uint16)
    switched: np.ndarray = typed_field((np.uint32, 2))

    @classmethod
    def zeros(cls, n: int) -> "FrameSums":
        """Return sums over nothing for n frames."""
        fields = cls.__dataclass_fields__.values()
        return cls(*(np.zeros(n, f.metadata["dtype"]) for f in fields))

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the columns."""
        return list(cls.__dataclass_fields__)

    def add_module(self, module: int, rows: np.ndarray, other: "FrameSums", good: np.ndarray):
        """Add the sums of one module's frames.

        Parameters
        ----------
        module : int
        rows : ndarray, int (frame,)
            Where the frames stand here.
        other : FrameSums
            Of these frames, this module alone.
        good : ndarray, bool (frame,)
            Which of them could be read.
        """
        for name in _ADDED:
            getattr(self, name)[rows] += getattr(other, name)
        self.peak[rows] = np.maximum(self.peak[rows], other.peak)
        self.modules[rows[good]] |= self.modules.dtype.type(1 << module)

    def take(self, rows: np.ndarray | slice) -> "FrameSums":
        """Return the sums of some of the frames."""
        return FrameSums(*(getattr(self, name)[rows] for name in self.names()))

    def store(self, first: int, other: "FrameSums") -> None:
        """Copy the sums of some frames to the rows from `first` on."""
        for name in self.__dataclass_fields__:
            column = getattr(other, name)
            here = getattr(self, name)[first : first + len(column)]
            # pages of new arrays take no memory until they are written
            if column.any() or here.any():
                here[...] = column


@dataclass(frozen=True)
class FrameBlock:
    """Frames just read: their sums, and the sparse lists while the buffer is not used again.

    Parameters
    ----------
    sums : FrameSums
    start, stop : ndarray, int64 (frame, module)
        Segment of every module in `pixel` and `count`; start -1: it did not fit.
    pixel : ndarray, uint32 (capacity,)
    count : ndarray, uint16 (capacity,)
    """

    sums: FrameSums
    start: np.ndarray
    stop: np.ndarray
    pixel: np.ndarray
    count: np.ndarray

    @property
    def stored(self) -> np.ndarray:
        """Whether all of a frame's list is there, bool (frame,)."""
        return np.all(self.start >= 0, axis=1)

    def take(self, frames: np.ndarray) -> SparseFrames:
        """Copy the lists of some frames, int (frame,), all of them `stored`."""
        return gather(self.start[frames], self.stop[frames], self.pixel, self.count)
