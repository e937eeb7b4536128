"""Checkpoints: what a rank has read, saved every few minutes, for a later job to go on with.

A checkpoint is a folder of files, each of which holds everything that the pass made of some frames:
their sums, the sparse lists that are kept, their part of the powder, and the problems found. Frames
of a file are whole trains, of one rank of one job; nothing in it depends on the number of ranks.
"""

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic

import numpy as np

from xfelmpi import mpi
from xfelmpi.core import shutdown
from xfelmpi.core.errors import InputError, OutputError
from xfelmpi.core.free_memory import give_back
from xfelmpi.core.log import log
from xfelmpi.core.problems import Problem
from xfelmpi.core.sparse_frames import FrameBlock, FrameSums
from xfelmpi.io.checkpoint_file import (
    CheckpointFile,
    DamagedError,
    open_checkpoint,
    write_checkpoint,
)
from xfelmpi.io.output_file import owned_by
from xfelmpi.io.partial_file import check_lock, final_name
from xfelmpi.reduction.frame_buffer import FrameBuffer, unpacked
from xfelmpi.reduction.frame_loop import Observer, SourceBlock
from xfelmpi.reduction.growing import digest_frames
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.reduction.sparsifier import Sparsifier
from xfelmpi.run.distribution import LocalRun

ENDING = ".checkpoint"

_SHORT = 0.1
"""Of the time between two checkpoints: a pass that took less leaves none when it ends."""

_READ_WORDS = 1 << 20
"""Words of sparse lists that are read at a time."""


@dataclass(frozen=True)
class ReductionState:
    """What the pass makes of a rank's frames.

    Parameters
    ----------
    local_run : LocalRun
    sums : FrameSums
    powder : PowderSum
    kept : FrameBuffer
    sparsifier : Sparsifier
        Which collects the problems.
    """

    local_run: LocalRun
    sums: FrameSums
    powder: PowderSum
    kept: FrameBuffer
    sparsifier: Sparsifier


class CheckpointWriter(Observer):
    """Saves now and then what a rank has read since the last time.

    Parameters
    ----------
    folder : Path
        Of this run's checkpoint.
    fingerprint : dict
        What the result depends on, see `fingerprint.fingerprint_of`.
    minutes : float
        Between two files; 0: none is written.
    rank : int
    result : ReductionState
        Growing.
    masks : dict of str, optional
        Of a run that is still being written, see `growing.digest_masks`: all that is read is
        written down, with what the frames of a file need to be recognised in a longer run.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: dict,
        minutes: float,
        rank: int,
        result: ReductionState,
        masks: dict[str, str] | None = None,
    ):
        self._folder = folder
        self._fingerprint = fingerprint
        # files of a job with other settings are not replaced
        self._key = hashlib.blake2b(json.dumps(fingerprint).encode(), digest_size=4).hexdigest()
        self._seconds = minutes * 60
        self._rank = rank
        self._result = result
        self._masks = masks
        self._last = self._begin = monotonic()
        self._rows: list[tuple[int, int]] = []
        self._kept_before = result.kept.used
        self._problems_before = len(result.sparsifier.problems)
        self._merged = False
        self.n_written = 0
        self.error = ""
        whole = result.powder
        self.recent = whole.zeros_like() if minutes else whole

    def block(self, source: SourceBlock, block: FrameBlock) -> None:
        """Note that a block is done, by all observers before this one; write if it is time."""
        if not self._seconds or not len(block.sums.lit):
            return
        self._rows.append((source.rows.start, source.rows.stop))
        if monotonic() - self._last >= self._seconds:
            self.write()

    def finish(self) -> None:
        """Complete the powder; write the rest, unless the pass was so short that it is no loss.

        What was not written stays for `write`, in case that the job is stopped later.
        """
        with shutdown.defer_shutdown():
            if self._masks is not None or monotonic() - self._begin > _SHORT * self._seconds:
                self.write()
            if self.recent is not self._result.powder and not self._merged:
                self._result.powder.add(self.recent)
                self._merged = True
            if not self._rows:
                # nothing is left to be written: its memory is free for the next stages
                self.recent = self._result.powder

    def write(self) -> None:
        """Write what is new; what goes wrong is noted in `error` and is no reason to stop."""
        if not self._rows:
            return
        first = self._rows[0][0]
        train = int(self._result.local_run.frames.train_id[first])
        path = self._folder / f"train{train:012}_rank{self._rank:04}_{self._key}{ENDING}"
        try:
            write_checkpoint(path, *self._content())
        except (OSError, MemoryError) as error:
            self.error = f"{path.parent}: {getattr(error, 'strerror', None) or error}"
        else:
            self.error = ""
            self._forget()
        # its copies would stay with the process until it ends
        give_back()
        self._last = monotonic()

    def _content(self) -> tuple[dict, dict[str, np.ndarray]]:
        local_run, sums, kept = self._result.local_run, self._result.sums, self._result.kept
        rows = _joined(self._rows)
        # a rank's frames are mostly read in order: nothing is copied then
        mine = slice(*rows[0]) if len(rows) == 1 else np.concatenate([np.r_[a:b] for a, b in rows])
        start, stop, words = kept.since(self._kept_before, mine)
        problems = self._result.sparsifier.problems[self._problems_before :]
        about = {
            "fingerprint": self._fingerprint,
            "time": datetime.now().astimezone().isoformat(timespec="seconds"),
            "rows": [[a + local_run.first_frame, b + local_run.first_frame] for a, b in rows],
            "problems": [asdict(problem) for problem in problems],
        }
        if self._masks is not None:
            frames = local_run.frames[mine]
            about["frames"] = digest_frames(frames, local_run.facts.files)
            cells = np.unique(frames.cell_id).tolist()
            about["masks"] = {str(cell): self._masks[str(cell)] for cell in cells}
        powder = {f"powder/{n}": _small(getattr(self.recent, n)) for n in PowderSum.names()}
        cells, frames_of_row = by_cell(
            self.recent.frames, self._result.sparsifier.row_of_cell, local_run.frames.cell_id[mine]
        )
        powder |= {"powder/cells": cells, "powder/frames": frames_of_row}
        arrays = {
            "train_id": local_run.frames.train_id[mine],
            "cell_id": local_run.frames.cell_id[mine],
            **{f"sums/{name}": getattr(sums, name)[mine] for name in FrameSums.names()},
            **powder,
            "kept/start": start,
            "kept/stop": stop,
            "kept/words": words,
        }
        return about, arrays

    def _forget(self) -> None:
        self.n_written += 1
        self._rows = []
        self._kept_before = self._result.kept.used
        self._problems_before = len(self._result.sparsifier.problems)
        if not self._merged:
            self._result.powder.add(self.recent)
            self.recent.clear()


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ascending ranges with those as one that touch."""
    joined = [ranges[0]]
    for first, end in ranges[1:]:
        if first == joined[-1][1]:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((first, end))
    return joined


def by_cell(frames, row_of_cell, cell_id) -> tuple[np.ndarray, np.ndarray]:
    """Return a powder's frames by memory cell instead of by mask row.

    Rows are other ones when the run has more cells.

    Parameters
    ----------
    frames : ndarray, int64 (module, row)
    row_of_cell : ndarray, int32 (cell,)
    cell_id : ndarray, uint16 (frame,)
        Of the frames that were counted.

    Returns
    -------
    cells : ndarray, uint16 (column,)
        A cell of each mask row in use.
    frames : ndarray, int64 (module, column)
    """
    cells = np.unique(cell_id)
    rows, first = np.unique(row_of_cell[cells], return_index=True)
    return cells[first], frames[:, rows]


def add_powder(powder: PowderSum, row_of_cell, photons, invalid, frames, cells) -> None:
    """Add the powder of a checkpoint, whose frames are `by_cell`; empty arrays are all 0.

    Raises
    ------
    DamagedError
        If it is none of this detector and these cells.
    """
    if cells.ndim != 1 or (cells >= len(row_of_cell)).any():
        raise DamagedError(f"cells of the powder up to {cells.max()}, not {len(row_of_cell) - 1}")
    expected = powder.photons.shape, powder.invalid.shape, (len(powder.frames), len(cells))
    for counts, shape in zip((photons, invalid, frames), expected, strict=True):
        if len(counts) and counts.shape != shape:
            raise DamagedError(f"powder of shape {counts.shape}, expected {shape}")
    for total, counts in ((powder.photons, photons), (powder.invalid, invalid)):
        if len(counts):
            total += counts
    if len(frames):
        np.add.at(powder.frames, (slice(None), row_of_cell[cells]), frames)


def _small(array: np.ndarray) -> np.ndarray:
    """Return counts in the smallest type that holds them; nothing if they are all 0."""
    most = array.max(initial=0)
    return array.astype(np.min_scalar_type(most)) if most else array[:0]


def restore(
    files: Iterable[tuple[Path, tuple[tuple[int, int], ...]]], result: ReductionState
) -> np.ndarray:
    """Put what files hold of this rank's frames into an empty result.

    The powder of a file goes to the rank that has the file's first frame, and only to that.

    Parameters
    ----------
    files : iterable of (Path, tuple of (int, int))
        Files with frames of this rank, among others, and ranges of the run's frames that they
        have; no frame is in two of them.
    result : ReductionState

    Returns
    -------
    ndarray, bool (frame,)
        Which of the rank's frames are done.

    Raises
    ------
    InputError
        If a file changed since it was chosen.
    """
    done = np.zeros(len(result.local_run.frames), bool)
    for path, ranges in files:
        try:
            _restore_file(open_checkpoint(path), ranges, result, done)
        except DamagedError as error:
            raise InputError(f"{path}: changed while it was used: {error}") from None
    return done


def _restore_file(file: CheckpointFile, ranges, result: ReductionState, done: np.ndarray) -> None:
    rows = np.concatenate([np.arange(a, b) for a, b in ranges])
    rows -= result.local_run.first_frame
    here = np.flatnonzero((rows >= 0) & (rows < len(done)))
    if len(here):
        _check_ids(file, rows[here], here, result.local_run)
        done[rows[here]] = True
        _restore_frames(file, rows[here], here, result)
    if 0 <= rows[0] < len(done):
        arrays = (file.array(f"powder/{n}") for n in ("photons", "invalid", "frames", "cells"))
        add_powder(result.powder, result.sparsifier.row_of_cell, *arrays)
        result.sparsifier.problems += [Problem(**p) for p in file.about["problems"]]


def _check_ids(file: CheckpointFile, rows, here, local_run: LocalRun) -> None:
    """Check that a file's frames are those of the rows that it names."""
    for name in ("train_id", "cell_id"):
        if not np.array_equal(file.array(name)[here], getattr(local_run.frames, name)[rows]):
            raise DamagedError(f"{name} are not those of the run's frames")


def _restore_frames(file: CheckpointFile, rows, here, result: ReductionState) -> None:
    for name in FrameSums.names():
        column = file.array(f"sums/{name}")[here]
        # pages of new arrays take no memory until they are written
        if column.any():
            getattr(result.sums, name)[rows] = column
    start, stop = file.array("kept/start")[here], file.array("kept/stop")[here]
    entries = file.array("sums/entries")[here]
    order = np.flatnonzero(start >= 0)
    # a frame without entries begins where the next one does
    order = order[np.lexsort((stop[order], start[order]))]
    a = 0
    while a < len(order):
        first = start[order[a]]
        b = max(a + 1, int(np.searchsorted(stop[order], first + _READ_WORDS, side="right")))
        some = order[a:b]
        words = file.part("kept/words", first, stop[some[-1]])
        sparse = unpacked(start[some] - first, stop[some] - first, entries[some], words)
        result.kept.store(rows[some], sparse)
        a = b


def warn_of_failures(comm, writer: CheckpointWriter) -> None:
    """Say on rank 0 if checkpoints could not be written on any rank; collective."""
    failed = mpi.gather_objects(comm, [writer.error] if writer.error else [])
    if failed:
        log.warning(
            "checkpoints could not be written on %d of %d ranks (%s): --resume will read more",
            len(failed),
            comm.size,
            failed[0],
        )


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a run, and nothing else; one rank.

    Raises
    ------
    OutputError
        If that fails.
    """
    if not folder.is_dir():
        return
    try:
        for path in folder.iterdir():
            if path.name.endswith((ENDING, ENDING + ".part")) or final_name(path) != path:
                path.unlink(missing_ok=True)
    except FileNotFoundError:  # its job has just removed it
        return
    except OSError as error:
        owner = owned_by(Path(error.filename), error)
        what = f"{error.filename}: cannot be removed ({error.strerror}{owner})"
        raise OutputError(what) from None
    for empty in (folder, folder.parent):
        with suppress(OSError):  # in use, perhaps by the job of another run
            empty.rmdir()


def discard_checkpoint(folder: Path, why: str = "is not needed any more") -> None:
    """Remove the checkpoint of a run, which is useless because of `why`, if it can be; one rank."""
    check_lock()
    try:
        remove_checkpoint(folder)
    except OutputError as error:
        log.warning("the checkpoint %s, but %s", why, error)
