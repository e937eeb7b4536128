"""Which checkpoints of an earlier job can be used; the run shared by what is left to read."""

from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xfelmpi import mpi
from xfelmpi.core.config.parts import InputFileSettings, RunSettings
from xfelmpi.core.job_context import JobContext
from xfelmpi.core.log import plural
from xfelmpi.io.checkpoint_file import DamagedError, open_checkpoint
from xfelmpi.io.partial_file import check_lock
from xfelmpi.reduction.checkpoint import ENDING
from xfelmpi.reduction.fingerprint import (
    RUN_FILES,
    catalogue_constants,
    digest_contents,
    fingerprint_of,
)
from xfelmpi.reduction.growing import digest_frames, ranges_of_trains
from xfelmpi.run.distribution import LocalRun, distribute_run

if TYPE_CHECKING:
    from xfelmpi.run.index.run_index import RunIndex


_WORK_TO_READ, _WORK_DONE = 8, 1
"""Work of a frame that must be read, and of one that is done but may have to be written."""


@dataclass(frozen=True)
class CheckpointInfo:
    """A file of an earlier job.

    Parameters
    ----------
    path : Path
    damage : str
        Why it cannot be used, empty if it can.
    fingerprint : dict or None
    rows : tuple of (int, int)
        Ranges of the run's frames that it has.
    time : str
    frames : str
        Digest of its frames, if the run was still being written.
    masks : dict of str
        Digests of the masks by memory cell, likewise.
    trains : ndarray, uint64 (train,), or None
        Its trains, ascending, likewise.
    """

    path: Path
    damage: str = ""
    fingerprint: dict | None = None
    rows: tuple[tuple[int, int], ...] = ()
    time: str = ""
    frames: str = ""
    masks: dict[str, str] = field(default_factory=dict)
    trains: np.ndarray | None = None


@dataclass(frozen=True)
class ResumePlan:
    """What a job starts from.

    Parameters
    ----------
    fingerprint : dict
        What the result of the pass depends on.
    files : tuple of CheckpointInfo
        Those that are used: no frame is in two of them.
    n_done : int
        Frames in them.
    notes, warnings : tuple of str
        What was found, for the log.
    """

    fingerprint: dict
    files: tuple[CheckpointInfo, ...] = ()
    n_done: int = 0
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def files_of(self, local_run: LocalRun) -> list[tuple[Path, tuple[tuple[int, int], ...]]]:
        """Return the files with frames of this rank, and which frames of the run they have."""
        first, end = local_run.first_frame, local_run.first_frame + len(local_run.frames)
        return [
            (file.path, file.rows)
            for file in self.files
            if any(a < end and b > first for a, b in file.rows)
        ]

    def with_masks(self, masks: dict[str, str]) -> "ResumePlan":
        """Return the plan without files that were made with other masks of their cells.

        Parameters
        ----------
        masks : dict of str
            Of this job, see `growing.digest_masks`.
        """
        fitting = tuple(file for file in self.files if file.masks.items() <= masks.items())
        if len(fitting) == len(self.files):
            return self
        n_done = sum(b - a for file in fitting for a, b in file.rows)
        n_other = len(self.files) - len(fitting)
        warning = f"{_files(n_other)} left out, made with other masks: their frames are read again"
        return replace(
            self, files=fitting, n_done=n_done, warnings=(*self.warnings, warning), notes=()
        )


def without_other_masks(comm, plan: ResumePlan, masks: dict[str, str]) -> ResumePlan:
    """Return the plan without files of other masks, which are removed; collective.

    They would be chosen again by the next round, before ones that fit.
    """
    fitting = plan.with_masks(masks)
    paths = {file.path for file in plan.files} - {file.path for file in fitting.files}

    def remove() -> None:
        check_lock()
        for path in paths:
            # one that stays is left out each time
            with suppress(OSError):
                path.unlink()

    mpi.run_on_root(comm, remove)
    return fitting


def distribute_remaining(
    job: JobContext,
    settings: RunSettings,
    inputs: InputFileSettings,
    options: dict[str, str],
    *,
    resume: bool,
) -> tuple[LocalRun, ResumePlan]:
    """Share the run so that all ranks have as much to read; collective.

    Parameters
    ----------
    job : JobContext
    settings : RunSettings
    inputs : InputFileSettings
    options : dict of str
        What else the pass depends on, see `Config.of_groups`.
    resume : bool
        Frames in the checkpoint of an earlier job are done.

    Raises
    ------
    InputError
        As `distribute_run`.
    """
    comm, experiment = job.comm, job.experiment
    found = _find_files(comm, experiment.checkpoint) if resume else []
    contents = digest_contents(comm, experiment, settings, inputs)
    selection = None

    def work_of(index: "RunIndex") -> np.ndarray:
        """Return the work that every frame makes, int64 (frame,), and note what is done."""
        nonlocal selection
        n_frames = len(index.frames)
        known = contents | catalogue_constants(experiment, inputs.constants, index)
        selection = ResumePlan(fingerprint_of(options, index, known, growing=job.growing))
        if resume and (found or not job.growing):
            files = [_placed(file, index) for file in found] if job.growing else found
            selection = choose(files, selection.fingerprint, n_frames)
        work = np.full(n_frames, _WORK_TO_READ, np.int64)
        for a, b in (rows for file in selection.files for rows in file.rows):
            work[a:b] = _WORK_DONE
        return work

    local_run = distribute_run(comm, experiment, settings, work_of, so_far=bool(job.so_far))
    return local_run, comm.bcast(selection)


def _find_files(comm, folder: Path) -> list[CheckpointInfo]:
    """Check all files of a checkpoint, each rank some; returns all on rank 0; collective."""
    names = mpi.bcast_from_root(comm, lambda: sorted(p.name for p in folder.glob("*" + ENDING)))
    mine = [_read_about(folder / name) for name in names[comm.rank :: comm.size]]
    return sorted(mpi.gather_objects(comm, mine), key=lambda file: file.path.name)


def _placed(file: CheckpointInfo, index: "RunIndex") -> CheckpointInfo:
    """Return the file of a shorter run with where its frames are now; one rank.

    One whose frames are not all there, and the same, is one of other files.
    """
    if file.damage or file.trains is None:
        return file
    rows = ranges_of_trains(file.trains, index.frames.train_id)
    if rows:
        frames = index.frames[np.concatenate([np.arange(a, b) for a, b in rows])]
        if digest_frames(frames, index.files) == file.frames:
            return replace(file, rows=rows)
    return replace(file, fingerprint={**(file.fingerprint or {}), RUN_FILES: "others"})


def _read_about(path: Path) -> CheckpointInfo:
    """Return what a file of a checkpoint says of itself, or why it cannot be used."""
    try:
        file = open_checkpoint(path)
        about = file.about
        rows = tuple((int(a), int(b)) for a, b in about["rows"])
        if not rows or any(not 0 <= a < b for a, b in rows):
            raise DamagedError(f"rows {rows} are none")
        found = CheckpointInfo(path, "", dict(about["fingerprint"]), rows, str(about["time"]))
        if "frames" not in about:
            return found
        masks = {str(cell): str(digest) for cell, digest in about["masks"].items()}
        trains = np.unique(file.array("train_id"))
        return replace(found, frames=str(about["frames"]), masks=masks, trains=trains)
    except (DamagedError, KeyError, TypeError, ValueError, AttributeError) as error:
        return CheckpointInfo(path, str(error))


def choose(found: list[CheckpointInfo], fingerprint: dict[str, str], n_frames: int) -> ResumePlan:
    """Return which files to use, and what is to be said of all of them; one rank.

    Of files that share frames, as two jobs at the same time may leave them, those with most frames
    are used, by name if they have as many.

    Parameters
    ----------
    found : list of CheckpointInfo
    fingerprint : dict
        Of this job.
    n_frames : int
        Frames of the run.
    """
    found = [replace(f, damage=_beyond(n_frames, f)) if not f.damage else f for f in found]
    damaged = [file for file in found if file.damage]
    fitting = [file for file in found if not file.damage and file.fingerprint == fingerprint]
    foreign = [file for file in found if not file.damage and file.fingerprint != fingerprint]
    taken = np.zeros(n_frames, bool)
    chosen = []
    for file in sorted(fitting, key=lambda f: (-sum(b - a for a, b in f.rows), f.path.name)):
        if not any(taken[a:b].any() for a, b in file.rows):
            chosen.append(file)
            for a, b in file.rows:
                taken[a:b] = True
    warnings = [f"{file.path} is damaged and left out: {file.damage}" for file in damaged]
    if foreign:
        warnings.append(_why_not(foreign, fingerprint))
    if n_double := len(fitting) - len(chosen):
        warnings.append(f"{_files(n_double)} left out: others have the same frames")
    n_done = int(taken.sum())
    note = "resume: no checkpoint that fits, starting over"
    if chosen:
        last = max(file.time for file in chosen)
        note = f"resume: {n_done:,} of {n_frames:,} frames are done ({_files(len(chosen))}, "
        note += f"the last of {last})"
    return ResumePlan(fingerprint, tuple(chosen), n_done, (note,), tuple(warnings))


def _beyond(n_frames: int, file: CheckpointInfo) -> str:
    last = max((b for _, b in file.rows), default=0)
    return f"rows up to {last}, but {n_frames} frames" if last > n_frames else ""


def _files(n: int) -> str:
    return f"{n} {plural(n, 'checkpoint file')}"


def _why_not(foreign: list[CheckpointInfo], fingerprint: dict[str, str]) -> str:
    reasons = []
    for name, now in fingerprint.items():
        then = sorted({file.fingerprint.get(name, "none") for file in foreign} - {now})
        if then and name.startswith("--"):
            reasons.append(f"{name} was {', '.join(then)} and is {now}")
        elif then:
            reasons.append(f"{name} changed")
    return f"{_files(len(foreign))} left out, made with other input: {'; '.join(reasons)}"
