"""Module frames → sparse lists of photons, their sums per frame, and the powder: the one pass.

A frame is dense only inside the kernel; out of it come lists of (pixel number, count). An entry
with count 0 marks a pixel that is bad in this frame only (NaN, ±inf, or more than 65535 photons).
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xfelmpi import _sparse
from xfelmpi.detector import FRAME_PIXELS, MODULE_PIXELS, N_MODULES
from xfelmpi.masks import Masks
from xfelmpi.powder import PowderSum
from xfelmpi.read import FilePool, FrameBytes
from xfelmpi.records import Problem
from xfelmpi.runindex import FrameTable

_STATUS = {
    1: "bytes cannot be read (file too short?)",
    2: "chunk does not inflate to a frame",
    3: "chunk was never written or cannot be read",
    4: "chunk has an impossible size",
}
"""What the kernel says of a frame; 0 is good."""

H5PY_FRAMES = 32
"""Frames at a time of layouts that only h5py can read, which are dense in memory."""


@dataclass(frozen=True)
class SparseFrames:
    """Photons of some frames.

    Parameters
    ----------
    indptr : ndarray, int64 (frame + 1,)
        Entries of frame i are ``indptr[i]:indptr[i + 1]``, in ascending pixel order.
    pixel : ndarray, uint32 (entry,)
        Pixel number, 0 … 1048575.
    count : ndarray, uint16 (entry,)
        Photons; 0: the pixel is bad in this frame.
    """

    indptr: np.ndarray
    pixel: np.ndarray
    count: np.ndarray

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self.indptr.nbytes + self.pixel.nbytes + self.count.nbytes

    def take(self, frames: np.ndarray) -> "SparseFrames":
        """Return some of the frames, int (frame,), in the order asked for."""
        return _gather(self.indptr[frames], self.indptr[frames + 1], self.pixel, self.count)

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


def _gather(start: np.ndarray, stop: np.ndarray, pixel, count) -> SparseFrames:
    """Copy segments (frame,) or (frame, 16) of a list into one list by frame."""
    segments = stop - start
    length = segments.reshape(-1)
    ends = np.cumsum(length)
    where = np.arange(ends[-1] if len(ends) else 0) + np.repeat(
        start.reshape(-1) - (ends - length), length
    )
    per_frame = segments if segments.ndim == 1 else segments.sum(axis=1)
    indptr = np.concatenate([[0], np.cumsum(per_frame)]).astype(np.int64)
    return SparseFrames(indptr, pixel[where], count[where])


def _zeros(dtype):
    return field(metadata={"dtype": dtype})


@dataclass(frozen=True)
class FrameSums:
    """What is summed over the good pixels of every frame.

    Parameters
    ----------
    lit, region_lit : ndarray, uint32 (frame,)
        Pixels with at least one photon; the same in the hit-finding region.
    photons, region_photons : ndarray, uint64 (frame,)
        Sum of photons; the same in the hit-finding region.
    ones : ndarray, uint32 (frame,)
        Pixels with exactly one photon.
    peak : ndarray, uint16 (frame,)
        Most photons in one pixel.
    entries : ndarray, uint32 (frame,)
        Length of the frame's sparse list.
    modules : ndarray, uint16 (frame,)
        Bit m set: module m has this frame, and it could be read.
    """

    lit: np.ndarray = _zeros(np.uint32)
    photons: np.ndarray = _zeros(np.uint64)
    region_lit: np.ndarray = _zeros(np.uint32)
    region_photons: np.ndarray = _zeros(np.uint64)
    ones: np.ndarray = _zeros(np.uint32)
    peak: np.ndarray = _zeros(np.uint16)
    entries: np.ndarray = _zeros(np.uint32)
    modules: np.ndarray = _zeros(np.uint16)

    @classmethod
    def zeros(cls, n: int) -> "FrameSums":
        """Return sums over nothing for n frames."""
        fields = cls.__dataclass_fields__.values()
        return cls(*(np.zeros(n, f.metadata["dtype"]) for f in fields))

    def put(self, first: int, other: "FrameSums") -> None:
        """Copy the sums of some frames to the rows from `first` on."""
        for name in self.__dataclass_fields__:
            column = getattr(other, name)
            getattr(self, name)[first : first + len(column)] = column


@dataclass(frozen=True)
class FrameBlock:
    """Frames just read: their sums, and the sparse lists while the buffer is not used again.

    Parameters
    ----------
    sums : FrameSums
    start, stop : ndarray, int64 (frame, 16)
        Segment of every module in `pixel` and `count`; start -1: it did not fit.
    pixel : ndarray, uint32 (room,)
    count : ndarray, uint16 (room,)
    """

    sums: FrameSums
    start: np.ndarray
    stop: np.ndarray
    pixel: np.ndarray
    count: np.ndarray

    @property
    def stored(self) -> np.ndarray:
        """Whether all of a frame's list is there, bool (frame,)."""
        return (self.start >= 0).all(axis=1)

    def take(self, frames: np.ndarray) -> SparseFrames:
        """Copy the lists of some frames, int (frame,), all of them `stored`."""
        return _gather(self.start[frames], self.stop[frames], self.pixel, self.count)


def photon_cut(adu_per_photon: float, threshold: float) -> float:
    """Return the smallest float32 signal that is one photon.

    photons = floor(signal / adu_per_photon + (1 - threshold)), every step in float32, grows with
    the signal, so that one comparison settles a pixel without photons.
    """
    adu, shift = np.float32(adu_per_photon), np.float32(1 - threshold)

    # the bits of floats from 0 on, read as integers, are in the order of the floats
    low, high = 0, int(np.finfo(np.float32).max.view(np.uint32))
    with np.errstate(over="ignore"):
        while low < high:
            middle = (low + high) // 2
            signal = np.uint32(middle).view(np.float32)
            if np.floor(signal / adu + shift) >= 1:
                high = middle
            else:
                low = middle + 1
    return float(np.uint32(low).view(np.float32))


class Sparsifier:
    """Turns frames into sparse lists with one set of buffers.

    Parameters
    ----------
    files : FilePool
    masks : Masks
    adu_per_photon, photon_threshold : float
        How float signals become photons.
    room : int
        Entries that the sparse buffer holds, at least one full frame; frames that do not fit are
        counted but not stored.
    """

    def __init__(self, files: FilePool, masks: Masks, adu_per_photon, photon_threshold, room: int):
        self._files = files
        self._masks = masks
        self._float = (
            photon_cut(adu_per_photon, photon_threshold),
            adu_per_photon,
            1 - photon_threshold,
        )
        self.room = max(room, FRAME_PIXELS)
        self._inflater = _sparse.Inflater()
        self._pixel = np.empty(self.room, np.uint32)
        self._count = np.empty(self.room, np.uint16)
        self._packed = self._spare = self._dense = np.empty(1, np.uint8)
        self.problems: list[Problem] = []
        self.bytes_read = 0

    def frames(self, table: FrameTable, powder: PowderSum) -> FrameBlock:
        """Read frames of all modules and add them to `powder`.

        What cannot be read becomes a problem, and that module's bit stays unset in the frame.
        """
        n = len(table)
        block = FrameBlock(
            FrameSums.zeros(n),
            np.zeros((n, N_MODULES), np.int64),
            np.zeros((n, N_MODULES), np.int64),
            self._pixel,
            self._count,
        )
        mask_row = self._masks.row_of_cell[table.cell_id]
        used = 0
        for module in range(N_MODULES):
            for number in np.unique(table.file[:, module]):
                if number < 0:
                    continue
                these = np.flatnonzero(table.file[:, module] == number)
                used = self._one_file(
                    table, block, module, int(number), these, mask_row, powder, used
                )
        return block

    def _one_file(self, table, block, module, number, these, mask_row, powder, used) -> int:
        try:
            file = self._files.get(number)
        except (OSError, KeyError) as error:
            self._report(f"file cannot be opened: {error}", number, module, table.train_id[these])
            return used
        step = len(these) if file.direct else H5PY_FRAMES
        for a in range(0, len(these), step):
            part = these[a : a + step]
            try:
                source = file.frames(table.row[part, module])
            except (OSError, ValueError, RuntimeError) as error:
                self._report(
                    f"frames cannot be located: {error}", number, module, table.train_id[part]
                )
                continue
            status, used = self._run(source, block, module, part, mask_row[part], powder, used)
            for code, text in _STATUS.items():
                bad = part[status == code]
                if len(bad):
                    self._report(text, number, module, table.train_id[bad])
        return used

    def _run(self, source: FrameBytes, block, module, part, mask_row, powder, used):
        n = len(part)
        self._need_buffers(source)
        sums = FrameSums.zeros(n)
        start, stop = np.zeros(n, np.int64), np.zeros(n, np.int64)
        status = np.zeros(n, np.uint8)
        is_float = source.dtype.kind == "f"
        cut, adu, shift = (1.0, 1.0, 0.0) if source.from_integers else self._float
        used = _sparse.sparsify(
            self._inflater,
            source.fd,
            source.memory,
            source.offset,
            source.size,
            source.filters,
            source.within,
            source.dtype.itemsize,
            is_float,
            source.chunk_frames,
            cut,
            adu,
            shift,
            self._masks.good[module],
            mask_row,
            self._masks.region[module],
            module * MODULE_PIXELS,
            self._packed,
            self._spare,
            self._dense,
            used,
            self._pixel,
            self._count,
            powder.photons[module],
            powder.invalid[module],
            start,
            stop,
            status,
            sums.lit,
            sums.photons,
            sums.region_lit,
            sums.region_photons,
            sums.ones,
            sums.peak,
            sums.entries,
        )
        # frames of one chunk share its bytes
        _, chunks = np.unique(source.offset[status == 0], return_index=True)
        self.bytes_read += int(source.size[status == 0][chunks].sum())
        block.start[part, module], block.stop[part, module] = start, stop
        for name in ("lit", "photons", "region_lit", "region_photons", "ones", "entries"):
            getattr(block.sums, name)[part] += getattr(sums, name)
        block.sums.peak[part] = np.maximum(block.sums.peak[part], sums.peak)
        good = part[status == 0]
        block.sums.modules[good] |= np.uint16(1 << module)
        powder.add_frames(module, mask_row[status == 0])
        return status, used

    def _need_buffers(self, source: FrameBytes) -> None:
        need = source.chunk_frames * MODULE_PIXELS * source.dtype.itemsize
        if len(self._dense) < need:
            self._dense = np.empty(need, np.uint8)
            self._spare = np.empty(need, np.uint8)
            # deflate adds 5 bytes to 64 KiB at the worst, other encoders a little more
            self._packed = np.empty(need + need // 64 + 1024, np.uint8)

    def _report(self, what: str, number: int, module: int, trains: np.ndarray) -> None:
        name = Path(self._files.path(number)).name
        for train, n in zip(*np.unique(trains, return_counts=True), strict=True):
            self.problems.append(
                Problem(
                    f"{n} frames: {what}",
                    name,
                    module,
                    int(train),
                    "frames count as missing in this module",
                )
            )
