"""Which rows of which files make up the virtual dataset of a run; pure arithmetic.

HDF5 keeps, copies and searches every mapping one by one, and each costs about 20 kB of memory in
every reader; so rows are joined into as few mappings as possible. A mapping is a regular hyperslab
on both sides, whose rows must be in ascending order on both sides.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from xfelmpi.core.frame_table import FrameTable, ModuleFile
from xfelmpi.core.problems import Problem
from xfelmpi.detectors.base import Detector

if TYPE_CHECKING:
    from xfelmpi.run.index.run_index import RunIndex

BYTES_PER_MAPPING = 26_000
"""Memory that HDF5 1.10 takes to write a virtual dataset, per mapping (measured)."""

MAX_MAPPINGS = 200_000
"""More cannot be used: every reader would take 4 GB and many seconds to open the file."""


@dataclass(frozen=True)
class Mappings:
    """Rows of files at rows of the virtual dataset: `count` blocks of `length` rows each.

    Parameters
    ----------
    module, file : ndarray, int64 (mapping,)
        Module, and number of its file in the run index.
    frame, row : ndarray, int64 (mapping,)
        First row in the virtual dataset and in the file's dataset.
    frame_step, row_step : ndarray, int64 (mapping,)
        Rows from the start of a block to that of the next, at least `length`.
    count, length : ndarray, int64 (mapping,)
    """

    module: np.ndarray
    file: np.ndarray
    frame: np.ndarray
    row: np.ndarray
    frame_step: np.ndarray
    row_step: np.ndarray
    count: np.ndarray
    length: np.ndarray

    def __len__(self) -> int:
        return len(self.module)

    def __iter__(self):
        """Yield (module, file, frame, row, frame_step, row_step, count, length) as int."""
        names = self.__dataclass_fields__
        return zip(*(getattr(self, name).tolist() for name in names), strict=True)


@dataclass(frozen=True, kw_only=True)
class VirtualLayout:
    """All that is needed to write the virtual dataset of a run.

    Parameters
    ----------
    kind : str
        ``raw`` or ``proc``.
    detector : str
        E.g. ``SPB_DET_AGIPD1M-1``.
    detector_type : Detector
    dtype : str
        Of the frames, in numpy's notation, e.g. ``<f4``.
    files : tuple of ModuleFile
        All of the run index.
    mappings : Mappings
    train_id, pulse_id : ndarray, uint64 (frame,)
    cell_id : ndarray, uint16 (frame,)
    """

    kind: str
    detector: str
    detector_type: Detector
    dtype: str
    files: tuple[ModuleFile, ...]
    mappings: Mappings
    train_id: np.ndarray
    pulse_id: np.ndarray
    cell_id: np.ndarray


def plan_virtual(index: "RunIndex") -> tuple[VirtualLayout | None, list[Problem]]:
    """Lay out the virtual dataset of a run.

    Returns
    -------
    layout : VirtualLayout or None
        None if it would take more than `MAX_MAPPINGS`.
    problems : list of Problem
        That, and files left out because their frames have another type than most.
    """
    # the run index may name files none of whose frames are used
    used = np.unique(index.frames.segments[:, 3])
    types = Counter(index.files[number].dtype for number in used)
    dtype = min(types, key=lambda name: (-types[name], name))
    problems = []
    fits = np.zeros(len(index.files), bool)
    for number in used:
        file = index.files[number]
        fits[number] = file.dtype == dtype
        if not fits[number]:
            what = f"frames are {np.dtype(file.dtype)}, those of most files {np.dtype(dtype)}"
            name = file.path.rpartition("/")[2]
            problems.append(Problem(what, name, file.module, 0, "left out of the virtual dataset"))
    frames = index.frames
    mappings = find_mappings(frames, fits, np.array([f.frames_per_train for f in index.files]))
    if mappings is None:
        what = f"cells in ever new order: virtual dataset needs more than {MAX_MAPPINGS:,} mappings"
        return None, [*problems, Problem(what, action="virtual dataset not written")]
    layout = VirtualLayout(
        kind=index.kind,
        detector=index.detector,
        detector_type=index.detector_type,
        dtype=dtype,
        files=index.files,
        mappings=mappings,
        train_id=frames.train_id,
        pulse_id=frames.pulse_id,
        cell_id=frames.cell_id,
    )
    return layout, problems


def find_mappings(
    frames: FrameTable, fits: np.ndarray, per_train: np.ndarray | None = None
) -> Mappings | None:
    """Join the frames of every module into mappings, or return None for more than `MAX_MAPPINGS`.

    Parameters
    ----------
    frames : FrameTable
    fits : ndarray, bool (file,)
        Files that take part.
    per_train : ndarray, int (file,), optional
        Frames along the second axis of a file's dataset, 0 without such an axis: a mapping has the
        same ones of every train. Default: without.
    """
    per_train = np.zeros(len(fits), int) if per_train is None else per_train
    new_train = np.flatnonzero(np.diff(frames.train_id, prepend=frames.train_id[:1]))
    train_start = np.zeros(len(frames), np.int64)
    train_start[new_train] = new_train
    train_start = np.maximum.accumulate(train_start)
    parts, total = [], 0
    bounds = np.searchsorted(frames.segments[:, 0], np.arange(frames.n_modules + 1))
    for module, (a, b) in enumerate(pairwise(bounds.tolist())):
        runs = _find_runs(frames.segments[a:b].astype(np.int64), fits, per_train)
        parts.append(_join_repeats(module, *runs, train_start, per_train))
        total += len(parts[-1][0])
        if total > MAX_MAPPINGS:
            return None
    return Mappings(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _find_runs(
    segments: np.ndarray, fits: np.ndarray, per_train: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return file, frame, row and length of the runs in which both frame and row advance by one.

    No run goes on in the next row of a dataset whose rows are trains.

    Parameters
    ----------
    segments : ndarray, int64 (run, 5)
        Those of a module, see `FrameTable.segments`.
    fits, per_train
        As for `find_mappings`.
    """
    _, first, end, file, row = segments[fits[segments[:, 3]]].T
    length, n = end - first, per_train[file]
    if not n.any():
        return file, first, row, length
    before = np.where(n > 0, row % np.maximum(n, 1), 0)
    n = np.where(n > 0, n, length)
    pieces = -(-(before + length) // n)
    of = np.repeat(np.arange(len(file)), pieces)
    number = np.arange(len(of)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = np.maximum(number * n[of] - before[of], 0)
    stop = np.minimum((number + 1) * n[of] - before[of], length[of])
    return file[of], first[of] + start, row[of] + start, stop - start


def _join_repeats(
    module, file, frame, row, length, train_start, per_train
) -> tuple[np.ndarray, ...]:
    """Join runs that come again at equal steps, as cells stored in another order do every train.

    Runs of one file and length at the same place of their trains are candidates; they are joined
    as long as the steps to the next, in the virtual dataset and in the file, stay the same.
    """
    place = frame - train_start[frame]
    order = np.lexsort((frame, place, length, file))
    file, frame, row, length, place = (c[order] for c in (file, frame, row, length, place))
    keys = np.stack([file, length, place])
    frame_step, row_step = np.diff(frame), np.diff(row)
    # rows that do not ascend in the file are no hyperslab in this order
    joined = (np.diff(keys) == 0).all(axis=0) & (row_step >= length[1:])
    joined &= row_step % np.maximum(per_train[file[1:]], 1) == 0
    same = (np.diff(frame_step) == 0) & (np.diff(row_step) == 0)
    joined[1:] &= same | ~joined[:-1]
    first = np.flatnonzero(np.concatenate([np.ones(len(frame[:1]), bool), ~joined]))
    count = np.diff(first, append=len(frame))
    # a single block has no step, but HDF5 wants one that is not smaller than the block
    frame_step, row_step = (
        np.where(count > 1, np.append(step, 0)[first], length[first])
        for step in (frame_step, row_step)
    )
    module = np.full(len(first), module, np.int64)
    return module, file[first], frame[first], row[first], frame_step, row_step, count, length[first]
