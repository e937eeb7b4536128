"""The main job: its stages in order. No file format here, and arithmetic only elsewhere."""

from dataclasses import replace
from functools import partial

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core import fault_injection, shutdown
from xfelmpi.core.config.options import PASS_GROUPS
from xfelmpi.core.config.parts import HitSettings, InputFileSettings, MemorySettings, RunSettings
from xfelmpi.core.event_table import EventColumns
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.log import log
from xfelmpi.core.progress import Progress
from xfelmpi.core.sparse_frames import FrameSums
from xfelmpi.hitfinding.hit_finder import decide_run, draw_misses
from xfelmpi.hitfinding.scores import ScoredFrames
from xfelmpi.hitfinding.thresholds import Decision
from xfelmpi.output.provenance import provenance
from xfelmpi.output.write_inputs import begin_vds
from xfelmpi.reduction.checkpoint import (
    CheckpointWriter,
    ReductionState,
    discard_checkpoint,
    restore,
    warn_of_failures,
)
from xfelmpi.reduction.frame_loop import run_pass, train_source
from xfelmpi.reduction.growing import digest_masks
from xfelmpi.reduction.memory_budget import spare_memory
from xfelmpi.reduction.observers import (
    FrameKeeper,
    LikelyHits,
    PassProgress,
    SumKeeper,
    frame_scorer,
)
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.reduction.resume import ResumePlan, distribute_remaining, without_other_masks
from xfelmpi.run.distribution import LocalRun
from xfelmpi.workflows.inputs import (
    load_and_prepare,
    log_start,
    make_frame_buffer,
    make_sparsifier,
)
from xfelmpi.workflows.output_stage import (
    check_sums,
    finish,
    forget_checkpoint,
    gather_problems,
    write_run,
)
from xfelmpi.workflows.report_stage import report_run
from xfelmpi.workflows.selection import write_selection


def process(job: RunJob, *, resume: bool = False) -> int:
    """Run the main job on all ranks, or continue an earlier one, and return its exit status.

    Raises
    ------
    XfelmpiError
        On all ranks, if the run, a mask, the geometry or an output folder cannot be used.
    """
    # what the stages held is gone before the report, which holds much as well
    job, status = _run_stages(job, resume=resume)
    write_selection(job)
    report_run(job)
    return status


def _run_stages(job: RunJob, *, resume: bool) -> tuple[RunJob, int]:
    """Run all stages but the report; return the job with the run's proposal, and the status."""
    comm, config, stages = job.comm, job.config, job.stages
    job.announce()
    with stages.timed("index"):
        about = config.part(RunSettings), config.part(InputFileSettings)
        local_run, selection = distribute_remaining(
            job, *about, config.of_groups(*PASS_GROUPS), resume=resume
        )
        job, local_run, files, inputs = load_and_prepare(job, local_run)
        local_run, vds, left_out = start_vds(job, local_run, inputs.used)
    warnings = log_start(job, local_run, inputs)
    masks = inputs.masks
    digests = digests_if_growing(job, local_run, masks)
    if digests is not None:
        selection = without_other_masks(comm, selection, digests)
    kept = make_frame_buffer(config, inputs, len(local_run.frames))
    sparsifier = make_sparsifier(config, inputs, files)
    sums = FrameSums.zeros(len(local_run.frames))
    powder = PowderSum.zeros(masks.good.shape[1], local_run.facts.detector_type)
    result = ReductionState(local_run, sums, powder, kept, sparsifier)
    with stages.timed("photons"):
        _read_frames(job, masks, selection, result, digests, resume=resume)
        result, total, doubts = check_sums(comm, masks, result)
    with stages.timed("decide"):
        events = decide(job, result.local_run, masks, sums)
        agreement = compare_with_facility(comm, result.local_run, events)
    with stages.timed("write"):
        done, written = write_run(
            job,
            inputs,
            result,
            events,
            powder=total,
            problems=gather_problems(comm, inputs, result, left_out),
            vds=vds,
            warnings=(*warnings, *doubts),
            agreement=agreement,
        )
    forget_checkpoint(job)
    return job, finish(job, done, sparsifier.bytes_read, written, selection.n_done)


def start_vds(job: RunJob, local_run: LocalRun, used):
    """Write the virtual dataset on rank 0; return its path there, and problems.

    Before them, `local_run` without the layout of the virtual dataset, which would stay in memory.
    """
    fault_injection.inject(job.comm, "vds")
    memory = spare_memory(
        job.config.part(MemorySettings), local_run.facts.detector_type.frame_pixels
    )
    attributes = provenance(job, local_run.facts.input_files, used, local_run.facts.beamline)
    begun = mpi.run_on_root(
        job.comm, lambda: begin_vds(job.experiment, attributes, local_run, memory)
    )
    path, problems = begun or (None, ())
    return replace(local_run, virtual=None), path, problems


def _begin_pass(
    job: RunJob, selection: ResumePlan, result: ReductionState, *, resume: bool
) -> np.ndarray:
    """Restore what an earlier job has done, or remove its checkpoint; collective.

    Returns
    -------
    ndarray, bool (frame,)
        Which of the rank's frames are done.
    """
    if not resume:
        # a colleague's that cannot be removed is no reason to stop
        why = "of an earlier job is not used"
        mpi.run_on_root(job.comm, lambda: discard_checkpoint(job.experiment.checkpoint, why))
    for line in selection.warnings:
        log.warning(line)
    for line in selection.notes:
        log.info(line)
    with mpi.fail_together(job.comm):
        return restore(selection.files_of(result.local_run), result)


def digests_if_growing(job: RunJob, local_run: LocalRun, masks: Masks) -> dict[str, str] | None:
    """Return digests of the masks for checkpoints of a run that is being written; collective."""
    if not job.growing:
        return None
    return mpi.bcast_from_root(job.comm, lambda: digest_masks(masks, local_run.facts.cells))


def _read_frames(
    job: RunJob, masks, selection: ResumePlan, result: ReductionState, digests, *, resume: bool
) -> None:
    """Read what an earlier job has not read, and write checkpoints; collective."""
    comm, experiment, config = job.comm, job.experiment, job.config
    done_before = _begin_pass(job, selection, result, resume=resume)
    folder, minutes = experiment.checkpoint, config.checkpoint_minutes
    writer = CheckpointWriter(folder, selection.fingerprint, minutes, comm.rank, result, digests)
    local_run, sparsifier = result.local_run, result.sparsifier
    n_run, kind = local_run.facts.n_frames, local_run.facts.kind
    n_before = int(mpi.allreduce_sum(comm, np.array([done_before.sum()]))[0])
    progress = Progress(n_run - n_before)
    settings = config.part(HitSettings)
    hits = LikelyHits(settings, frame_scorer(settings, local_run, masks))
    shown = PassProgress(comm, progress, hits)
    job.shutdown.progress = lambda: f"after about {n_before + shown.total:,} of {n_run:,} frames"
    job.shutdown.save = writer.write
    job.shutdown.resumable = minutes > 0
    run_pass(
        train_source(local_run.frames, result.sums, sparsifier.capacity, kind, done_before),
        partial(sparsifier.frames, powder=writer.recent, name_invalid=True),
        (
            SumKeeper(result.sums),
            hits,
            FrameKeeper(settings, result.kept, hits, local_run.n_pulses == 0),
            writer,
            shown,
        ),
        shutdown.defer_shutdown,
    )
    progress.close()
    # later stages are not counted in frames
    job.shutdown.progress = str
    with mpi.fail_together(comm):
        sparsifier.files.check_unchanged()
    warn_of_failures(comm, writer)


def decide(job: RunJob, local_run: LocalRun, masks: Masks, sums: FrameSums) -> EventColumns:
    """Decide hits and draw misses; collective. Returns the rows of the events file."""
    comm, settings = job.comm, job.config.part(HitSettings)
    fault_injection.inject(comm, "decide")
    scored = frame_scorer(settings, local_run, masks).score(sums, comm=comm)
    return event_columns(local_run, sums, scored.score, *decide_scored(comm, settings, scored))


def decide_scored(comm, settings: HitSettings, scored: ScoredFrames) -> tuple[Decision, np.ndarray]:
    """Return the decision, and which frames are misses, bool (frame,); collective."""
    decision = decide_run(comm, settings, scored)
    n_decided = mpi.allreduce_sum(comm, np.array([decision.decidable.sum()]))[0]
    if comm.rank == 0 and not n_decided:
        log.warning("no frame can be a hit: no hits, no misses")
    elif comm.rank == 0 and decision.note:
        log.info(decision.note)
    return decision, draw_misses(comm, settings, scored, decision)


def event_columns(
    local_run: LocalRun,
    sums: FrameSums,
    score: np.ndarray,
    decision: Decision,
    is_miss: np.ndarray,
) -> EventColumns:
    """Return the rows of the events file."""
    frames = local_run.frames
    return EventColumns(
        trainId=frames.train_id,
        pulseId=frames.pulse_id,
        cellId=frames.cell_id,
        litpixels=sums.lit,
        photons=sums.photons,
        hitscore=score,
        is_hit=decision.is_hit,
        is_miss=is_miss,
        hit_median=decision.median,
        hit_std=decision.std,
        hit_threshold=decision.threshold,
        hit_sigma=decision.sigma,
        pulse_energy=local_run.pulse_energy,
        wavelength=local_run.wavelength,
        modules=sums.modules,
        n_pulses=local_run.n_pulses,
        gain_switched=sums.switched if local_run.facts.kind == "raw" else None,
        pumped=local_run.pumped,
        added=local_run.added,
    )


def compare_with_facility(comm, local_run: LocalRun, events: EventColumns) -> dict[str, int]:
    """Return how many hits both have, or one alone; empty without the facility's; collective."""
    named = local_run.facility
    if named is None:
        return {}
    own = events.is_hit
    counts = {
        "both": own & named.is_hit,
        "only ours": own & named.known & ~named.is_hit,
        "only theirs": ~own & named.is_hit,
    }
    of_run = mpi.allreduce_sum(comm, np.array([values.sum() for values in counts.values()]))
    return dict(zip(counts, of_run.tolist(), strict=True))
