"""What the mask of a run is made from: its options, run, masks, constants, and labels of frames."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xfelmpi import mpi
from xfelmpi._kernels._cells import HIT, JUDGED, MISS
from xfelmpi.calibration.constants import Calibration
from xfelmpi.calibration.constants_file import constants_file
from xfelmpi.calibration.pixel_mask import Masks, load_masks
from xfelmpi.calibration.plausible import few_good_pixels
from xfelmpi.core.config.parts import MaskSettings, RunSettings
from xfelmpi.core.errors import UsageError
from xfelmpi.core.input_files import UsedFile
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.log import log, plural
from xfelmpi.core.paths import Experiment
from xfelmpi.detectors.module_bits import modules_of
from xfelmpi.run.distribution import LocalRun, distribute_run
from xfelmpi.workflows.inputs import load_constants
from xfelmpi.workflows.mask.bad_pixels import BadPixelCriteria
from xfelmpi.workflows.mask.hit_labels import HitLabels, share_hit_labels


@dataclass(frozen=True)
class MaskOptions:
    """What the mask shall be; the rest is in the `Config`.

    Parameters
    ----------
    limits : BadPixelCriteria
    leave_out : str
        Frames that do not count: ``bright``, ``hits`` or ``none``.
    noise : Path or None
        Folder of constants with the noise.
    noise_sigma : float
    asic_edges : bool
    mask_file : Path or None
        Where the mask goes, if not to its usual place.
    overwrite : bool
    powder_cells : bool
        Whether to write the powder per cell.
    """

    limits: BadPixelCriteria
    leave_out: str
    noise: Path | None
    noise_sigma: float
    asic_edges: bool
    mask_file: Path | None
    overwrite: bool
    powder_cells: bool


@dataclass(frozen=True)
class MaskInputs:
    """What a mask is made from.

    Parameters
    ----------
    local_run : LocalRun
        This rank's part of the run.
    masks : Masks
        Those that apply already.
    calibration : Calibration or None
        Constants, for raw data.
    events : HitLabels or None
        Hits and misses of the run, if asked for and there.
    labels : ndarray, uint16 (frame,)
        Of this rank's frames: place of the cell in `RunInfo.cells`, and the bits `JUDGED`, `HIT`
        and `MISS`.
    """

    local_run: LocalRun
    masks: Masks
    calibration: Calibration | None
    events: HitLabels | None
    labels: np.ndarray


def used_files(experiment: Experiment, options: MaskOptions, inputs: MaskInputs) -> list[UsedFile]:
    """Return the files that are read besides the run."""
    masks, calibration, facts = inputs.masks, inputs.calibration, inputs.local_run.facts
    files = [*masks.files, *(calibration.files if calibration else ())]
    if inputs.events is not None:
        files.append(UsedFile("events", str(experiment.events)))
    if options.noise:
        modules = np.flatnonzero(modules_of(facts.modules_in_run, masks.n_modules))
        files += [UsedFile("noise", str(constants_file(options.noise, m))) for m in modules]
    return files


def load_mask_inputs(job: RunJob, options: MaskOptions) -> MaskInputs:
    """Index the run, read masks and constants, and say so; collective."""
    comm, experiment, config = job.comm, job.experiment, job.config
    local_run = distribute_run(comm, experiment, config.part(RunSettings))
    facts = local_run.facts
    calibration = load_constants(job, facts)
    masks = load_masks(
        comm,
        experiment,
        config.part(MaskSettings),
        facts.cells,
        calibration,
        only_global=True,
        detector=facts.detector_type,
    )
    log.info("run: %s frames, %s %s", f"{facts.n_frames:,}", comm.size, plural(comm.size, "rank"))
    for line in (*facts.notes, *(calibration.notes if calibration else ()), *masks.notes):
        log.info(line)
    doubts = few_good_pixels(comm, masks, facts.modules_in_run)
    if comm.rank == 0:
        for line in (*doubts, *(calibration.warnings if calibration else ())):
            log.warning(line)
    events = None
    if options.powder_cells or options.leave_out == "hits":
        events = share_hit_labels(comm, experiment.events)
        if events is None and options.leave_out == "hits":
            raise UsageError(f"--leave-out hits: no events file {experiment.events}")
    labels, unknown = _labels(local_run, events, options.leave_out)
    unknown = int(mpi.allreduce_sum(comm, np.array([unknown]))[0])
    if comm.rank == 0 and options.powder_cells and events is None:
        log.warning(f"no powder of hits and misses: {experiment.events} does not exist")
    if comm.rank == 0 and unknown:
        log.warning(f"{unknown:,} frames are not in {experiment.events}: neither hits nor misses")
    return MaskInputs(local_run, masks, calibration, events, labels)


def _labels(
    local_run: LocalRun, events: HitLabels | None, leave_out: str
) -> tuple[np.ndarray, int]:
    """Return the label of every frame of this rank, uint16 (frame,), and how many are unknown."""
    frames = local_run.frames
    labels = np.searchsorted(local_run.facts.cells, frames.cell_id).astype(np.uint16)
    labels |= np.uint16(JUDGED)
    if events is None or not len(frames):
        return labels, 0
    row = events.find(frames.train_id, frames.cell_id)
    is_hit, is_miss = ((row >= 0) & column[row] for column in (events.is_hit, events.is_miss))
    labels[is_hit] |= np.uint16(HIT)
    labels[is_miss] |= np.uint16(MISS)
    if leave_out == "hits":
        labels[is_hit] &= np.uint16(0xFFFF - JUDGED)
    return labels, int((row < 0).sum())
