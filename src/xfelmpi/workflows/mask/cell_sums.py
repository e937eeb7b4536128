"""Sums per memory cell and pixel over a run, too many for one rank: each has some of the pixels.

Every rank reads its own trains, once and in the order of the files, and sends the photons to the
ranks that have their pixels. If the sums do not fit the memory of all ranks together, the
detector is processed in parts; modules in different parts have their bytes in different files,
so that every frame is still read once, until a part is less than a module.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from xfelmpi import mpi
from xfelmpi._kernels import _cells
from xfelmpi._kernels._cells import BAND_PIXELS, HIT, JUDGED, MISS
from xfelmpi.core.frame_table import FrameTable
from xfelmpi.core.sparse_frames import FrameBlock, FrameSums
from xfelmpi.detectors.base import Detector
from xfelmpi.hitfinding.thresholds import ThresholdRule, decide_by_train
from xfelmpi.reduction.frame_loop import Observer, SourceBlock, train_blocks

MOST_OF_PAIRS = 4
"""More photons than this in one pixel of a frame count as so many in the pairs, so that no single
frame can make a pixel look noisy."""

BYTES_PER_ENTRY = 6 + 8 + 8 + 8
"""Of an entry in the sparse buffer, as a word that waits, as one sent, and as one received."""

_BRIGHT = ThresholdRule()
_LEAST_PER_PAIR = 1024


def band_rows(detector: Detector) -> int:
    """Return the rows of a band, which a part of the detector has as a whole, or not at all.

    What is decided within a band does not depend on the parts. In an AGIPD, it is two ASICs side by
    side.
    """
    return BAND_PIXELS // detector.module_shape[1]


def bands_of_module(detector: Detector) -> int:
    """Return the number of bands of a module."""
    return detector.module_pixels // BAND_PIXELS


@dataclass(frozen=True)
class Part:
    """The pixels that are summed in one pass; every rank owns a stripe of them.

    A pixel's *place* is its number among the pixels of the part.

    Parameters
    ----------
    bands : ndarray, int64 (band,)
        Bands of the part, ascending; band b has the pixels from b × `BAND_PIXELS` on.
    n_ranks : int
    detector : Detector
    """

    bands: np.ndarray
    n_ranks: int
    detector: Detector

    @property
    def n_pixels(self) -> int:
        """Pixels of the part."""
        return len(self.bands) * BAND_PIXELS

    @property
    def stripe(self) -> int:
        """Pixels that a rank owns, whole rows; the last ranks may own less, or none."""
        n_fs = self.detector.module_shape[1]
        rows = self.n_pixels // n_fs
        return -(-rows // self.n_ranks) * n_fs

    @property
    def modules(self) -> list[int]:
        """Modules that the part has pixels of."""
        return np.unique(self.bands // bands_of_module(self.detector)).tolist()

    @cached_property
    def place(self) -> np.ndarray:
        """Place of the first pixel of every band of the detector, int64 (band,); -1: elsewhere."""
        n_bands = self.detector.n_modules * bands_of_module(self.detector)
        place = np.full(n_bands, -1, np.int64)
        place[self.bands] = np.arange(len(self.bands)) * BAND_PIXELS
        return place

    def owned(self, rank: int) -> tuple[int, int]:
        """Return the first place that a rank owns, and the end."""
        first = min(rank * self.stripe, self.n_pixels)
        return first, min(first + self.stripe, self.n_pixels)

    def pixels(self, first: int, end: int) -> np.ndarray:
        """Return the pixel numbers at some places, int64 (place,)."""
        places = np.arange(first, end)
        return self.bands[places // BAND_PIXELS] * BAND_PIXELS + places % BAND_PIXELS


def plan_parts(
    detector: Detector, modules_in_run: int, n_cells: int, n_planes: int, limit: int, n_ranks: int
) -> list[Part]:
    """Divide the detector into parts whose sums fit.

    Parameters
    ----------
    detector : Detector
    modules_in_run : int
        Bit field.
    n_cells, n_planes : int
        Of the sums, uint32 (plane, cell, pixel), beside which a byte (cell, pixel) is needed.
    limit : int
        Bytes that a rank has for them; a part has a band at least.
    n_ranks : int
    """
    modules = [m for m in range(detector.n_modules) if modules_in_run >> m & 1]
    of_module = bands_of_module(detector)
    bands = [m * of_module + i for m in modules for i in range(of_module)]
    rows = limit // ((4 * n_planes + 1) * n_cells * detector.module_shape[1])
    fit = max(1, rows * n_ranks // band_rows(detector))
    # parts of whole modules, or of equal parts of one
    if fit >= of_module:
        fit -= fit % of_module
    else:
        fit = 1 << fit.bit_length() - 1
    parts = (np.array(bands[a : a + fit]) for a in range(0, len(bands), fit))
    return [Part(part, n_ranks, detector) for part in parts]


_KINDS = {"judged": JUDGED, "all": None, "hits": HIT, "misses": MISS}


@dataclass(frozen=True, kw_only=True)
class ModuleBlock(SourceBlock):
    """Frames of one module to read next.

    Parameters
    ----------
    module : int
    """

    module: int


class LabelledFrames:
    """The frames of this rank and what they count for, module by module; for all parts.

    Parameters
    ----------
    frames : FrameTable
        Whole trains.
    labels : ndarray, uint16 (frame,)
        Row of the frame's cell, and the bits `HIT`, `MISS`, `JUDGED`.
    n_cells : int
    leave_out_bright : bool
        Whether a frame that stands out in its train, as a hit does, loses `JUDGED`, module by
        module.

    Attributes
    ----------
    counts : dict of str to ndarray, int64 (module, cell)
        Frames read of each module and cell: ``judged``, ``all``, ``hits``, ``misses``.
    """

    def __init__(
        self, frames: FrameTable, labels: np.ndarray, n_cells: int, *, leave_out_bright: bool
    ):
        self._table = frames
        self._labels = labels
        self._leave_out_bright = leave_out_bright
        self.counts = {kind: np.zeros((frames.n_modules, n_cells), np.int64) for kind in _KINDS}
        # of every frame only `entries`, those of the module with most: what a block needs
        self._sums = FrameSums.zeros(len(frames))
        # of the module that is read
        self._label = labels.copy()
        self._missed = np.empty(0, np.int64)

    @property
    def small_block(self) -> int:
        """Frames of one module that always fit the sparse buffer: it holds a full frame of all."""
        return self._table.n_modules

    def source(self, part: Part, capacity: int, kind: str) -> Iterator[ModuleBlock]:
        """Yield blocks of whole trains, module by module of a part, until all lists did fit.

        Parameters
        ----------
        part : Part
        capacity : int
            Entries of the sparse buffer.
        kind : str
            ``proc`` or ``raw``.
        """
        for first, end in train_blocks(self._table, self._sums, capacity, kind):
            for module in part.modules:
                table = _only(self._table[first:end], module)
                yield ModuleBlock(slice(first, end), table, module=module)
                again = self._missed
                for i in range(0, len(again), self.small_block):
                    rows = again[i : i + self.small_block]
                    table = _only(self._table[rows], module)
                    yield ModuleBlock(rows, table, again=True, module=module)

    def labels_of(self, source: ModuleBlock, block: FrameBlock, part: Part) -> np.ndarray:
        """Return the labels of a block that was just read, uint16 (frame,), and note its frames."""
        rows = source.rows
        if source.again:
            return self._label[rows]
        np.maximum(self._sums.entries[rows], block.sums.entries, out=self._sums.entries[rows])
        self._missed = rows.start + np.flatnonzero(~block.stored)
        label, read = self._labels[rows].copy(), block.sums.modules != 0
        if self._leave_out_bright:
            lit, trains = block.sums.lit.astype(np.float32), source.frames.train_id
            bright = decide_by_train(lit, read, trains, _BRIGHT).is_hit
            label[bright] &= np.uint16(0xFFFF - JUDGED)
        self._label[rows] = label
        if part.place[source.module * bands_of_module(part.detector)] >= 0:
            # other parts of the same module read these frames as well
            self._count(source.module, label[read])
        return label

    def _count(self, module: int, label: np.ndarray) -> None:
        for kind, bit in _KINDS.items():
            rows = (label if bit is None else label[label & bit != 0]) & (JUDGED - 1)
            counts = self.counts[kind][module]
            counts += np.bincount(rows, minlength=len(counts))


def _only(table: FrameTable, module: int) -> FrameTable:
    files = np.full_like(table.files, -1)
    files[:, module] = table.files[:, module]
    return replace(table, files=files)


class CellSums(Observer):
    """Sums photons per cell and pixel of a part: sends them to the ranks that have their pixels.

    Ranks wait for each other whenever they exchange words, so they do it seldom.

    Parameters
    ----------
    comm : Intracomm
    part : Part
    frames : LabelledFrames
    shape : (int, int)
        Planes and cells.
    capacity : int
        Words that a rank sends or receives at a time, about.

    Attributes
    ----------
    sums : ndarray, uint32 (plane, cell, place)
        Of the pixels that this rank owns; complete after `finish`.
    """

    def __init__(
        self, comm, part: Part, frames: LabelledFrames, shape: tuple[int, int], capacity: int
    ):
        self._comm = comm
        self._part = part
        self._frames = frames
        self._capacity = capacity
        self._first, end = part.owned(comm.rank)
        self._per_pair = max(_LEAST_PER_PAIR, capacity // comm.size)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._n_waiting = 0
        self.sums = np.zeros((*shape, end - self._first), np.uint32)

    def block(self, source: ModuleBlock, block: FrameBlock) -> None:
        """Take the photons of a block; collective once there are enough."""
        label = self._frames.labels_of(source, block, self._part)
        self._waiting.append(words_by_owner(block, source.module, label, self._part))
        self._n_waiting += len(self._waiting[-1][0])
        if self._n_waiting >= self._capacity:
            self._exchange()

    def finish(self) -> None:
        """Exchange what waits, as often as the rank with most to send."""
        if self._waiting:
            self._exchange()
        nothing = np.empty(0, np.uint64), np.zeros(self._comm.size, np.int64)
        while mpi.allreduce_max(self._comm, False):
            self._add(*nothing)

    def _exchange(self) -> None:
        mpi.allreduce_max(self._comm, True)
        words, number = _joined(self._waiting)
        self._waiting, self._n_waiting = [], 0
        self._add(words, number)

    def _add(self, words: np.ndarray, number: np.ndarray) -> None:
        for received in mpi.alltoallv_chunks(self._comm, words, number, self._per_pair):
            _cells.add_words(received, self._first, MOST_OF_PAIRS, self.sums)


def words_by_owner(
    block: FrameBlock, module: int, label: np.ndarray, part: Part
) -> tuple[np.ndarray, np.ndarray]:
    """Return entries of one module as words, uint64, by owner, and how many each gets, int64."""
    start, stop = (np.ascontiguousarray(a[:, module]) for a in (block.start, block.stop))
    segments = _cells.Segments(
        start=start, stop=stop, pixel=block.pixel, count=block.count, label=label
    )
    number = np.zeros(part.n_ranks, np.int64)
    _cells.count_entries(segments, part.place, part.stripe, number)
    words = np.empty(int(number.sum()), np.uint64)
    cursor = np.cumsum(number) - number
    _cells.pack_entries(segments, part.place, part.stripe, cursor, words)
    return words, number


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    by_owner = [np.split(words, np.cumsum(number)[:-1]) for words, number in parts]
    number = np.sum([number for _, number in parts], axis=0)
    return np.concatenate(
        [words for owner in zip(*by_owner, strict=True) for words in owner]
    ), number
