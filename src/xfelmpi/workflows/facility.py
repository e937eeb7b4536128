"""Hits or scores of the facility instead of a pass: only hits and misses are read.

``--hits facility`` takes hits, misses, scores and thresholds from the facility's hit finder;
``--score facility`` takes its lit pixels as scores, and finds hits in these. All files are those of
the main job, but for what needs all frames: sums of frames that were not read are 0, and there is
no powder of all frames.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from xfelmpi import mpi
from xfelmpi.core import shutdown
from xfelmpi.core.config.options import Config
from xfelmpi.core.config.parts import HitSettings, RunSettings
from xfelmpi.core.event_table import EventColumns
from xfelmpi.core.frame_table import FrameTable
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.log import log
from xfelmpi.core.sparse_frames import FrameBlock, FrameSums
from xfelmpi.detectors.module_bits import bits_of, modules_of
from xfelmpi.hitfinding.hit_finder import score_frames
from xfelmpi.hitfinding.scores import unmasked_factor, usable_frames
from xfelmpi.hitfinding.thresholds import Decision, named_decision
from xfelmpi.reduction.checkpoint import ReductionState
from xfelmpi.reduction.frame_buffer import FrameBuffer
from xfelmpi.reduction.frame_loop import Observer, SourceBlock, run_pass
from xfelmpi.reduction.frame_reader import HitReader
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.run.distribution import LocalRun, distribute_run
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
from xfelmpi.workflows.process import decide_scored, event_columns, process, start_vds
from xfelmpi.workflows.report_stage import report_run
from xfelmpi.workflows.selection import write_selection


def process_by_facility(job: RunJob, *, resume: bool = False) -> int:
    """Process a run by what the facility found, and return the exit status; collective.

    If the run has nothing of it, this is the main job, which `resume` continues.

    Raises
    ------
    XfelmpiError
        On all ranks, if the run, a mask, the geometry or an output folder cannot be used.
    """
    job, status = _run_stages(job)
    if status is None:
        return process(job, resume=resume)
    write_selection(job)
    report_run(job)
    return status


def _run_stages(job: RunJob) -> tuple[RunJob, int | None]:
    """Run all stages but the report; return the job with the run's proposal, and the status.

    None instead of it: what is needed is not there, and the job returned is the main job.
    """
    comm, config, stages = job.comm, job.config, job.stages
    job.announce()
    with stages.timed("index"):
        settings = config.part(RunSettings)
        local_run = distribute_run(comm, job.experiment, settings, so_far=bool(job.so_far))
        if lacking := _lacking(config, local_run):
            if comm.rank == 0:
                log.warning(
                    f"{lacking}; all frames are read, and hits found in the scores of these"
                )
            own = replace(config, hits="own", score=_own_score(config))
            return replace(job, config=own, settings=own.to_json()), None
        job, local_run, files, inputs = load_and_prepare(job, local_run)
        local_run, vds, left_out = start_vds(job, local_run, inputs.used)
    warnings = log_start(job, local_run, inputs)
    sums = FrameSums.zeros(len(local_run.frames))
    sums.modules[:] = bits_of(local_run.frames.files >= 0)[local_run.frames.group]
    with stages.timed("decide"):
        score, decision, is_miss = _decide(job, local_run, sums.modules)
    with stages.timed("write"):
        sparsifier = make_sparsifier(config, inputs, files)
        kept = make_frame_buffer(config, inputs, len(local_run.frames))
        powder = PowderSum.zeros(inputs.masks.good.shape[1], local_run.facts.detector_type)
        result = ReductionState(local_run, sums, powder, kept, sparsifier)
        rows = np.flatnonzero(decision.is_hit | is_miss)
        with mpi.fail_together(comm):
            _read_rows(result, rows)
            files.check_unchanged()
        result, _, doubts = check_sums(comm, inputs.masks, result, rows)
        local_run = result.local_run
        # frames that were not read lack the same modules
        sums.modules[:] &= sums.modules.dtype.type(local_run.facts.modules_in_run)
        events = _without_incomplete(
            event_columns(local_run, sums, score, decision, is_miss), local_run
        )
        done, written = write_run(
            job,
            inputs,
            result,
            events,
            powder=None,
            problems=gather_problems(comm, inputs, result, left_out),
            vds=vds,
            warnings=(*warnings, *doubts),
            whole=False,
        )
    forget_checkpoint(job)
    return job, finish(job, done, sparsifier.bytes_read, written)


def _read_rows(result: ReductionState, rows: np.ndarray) -> None:
    """Read some frames of this rank, and keep their sums and photons."""
    run_pass(
        _blocks(result.local_run.frames, rows, HitReader.BLOCK_FRAMES),
        partial(result.sparsifier.frames, powder=result.powder, name_invalid=True),
        (_RowKeeper(result.sums, result.kept),),
        shutdown.defer_shutdown,
    )


def _own_score(config: Config) -> str:
    return Config.score if config.score == "facility" else config.score


def _lacking(config: Config, local_run: LocalRun) -> str:
    """Return what the run does not have, the same on all ranks; empty if all is there."""
    if config.hits == "facility" and local_run.facility is None:
        return "--hits facility: the run has no REDU/SPI_HITFINDER with hit flags"
    if config.hits == "own" and local_run.facility_score is None:
        return "--score facility: the run has no lit pixels (litpx) of all modules asked for"
    return ""


def _decide(
    job: RunJob, local_run: LocalRun, modules: np.ndarray
) -> tuple[np.ndarray, Decision, np.ndarray]:
    """Return scores, float32 (frame,), decision, and which frames are misses; collective."""
    comm, config, frames = job.comm, job.config, local_run.frames
    seen = (modules == local_run.facts.modules_in_run) & (local_run.n_pulses != 0)
    if config.hits == "facility":
        named = local_run.facility
        lost = named.is_hit & ~seen
        n_lost = int(mpi.allreduce_sum(comm, np.array([lost.sum()]))[0])
        if n_lost and comm.rank == 0:
            log.warning(f"{n_lost:,} hits of the facility are incomplete or dark frames: left out")
        seen = usable_frames(
            seen & named.known,
            frames.cell_id,
            local_run.pulse_energy,
            excluded=config.exclude_cells,
            first_cell=config.first_cell,
            min_energy=config.min_pulse_energy,
        )
        decision = named_decision(
            named.is_hit, seen, named.score, named.median, named.width, named.threshold
        )
        return named.score.astype(np.float32), decision, named.is_miss & seen & ~decision.is_hit
    lit, good = local_run.facility_score
    score = np.where(good > 0, lit, np.nan)
    if config.normalise == "unmasked":
        in_run = modules_of(local_run.facts.modules_in_run, local_run.frames.n_modules)
        n_modules = len(config.hit_modules) if config.hit_modules else int(in_run.sum())
        score = score * unmasked_factor(
            good, n_modules * local_run.facts.detector_type.module_pixels
        )
    ids = frames.train_id, frames.cell_id
    settings = config.part(HitSettings)
    scored = score_frames(comm, settings, *ids, local_run.pulse_energy, seen, score)
    return scored.score, *decide_scored(comm, settings, scored)


def _without_incomplete(events: EventColumns, local_run: LocalRun) -> EventColumns:
    """Return the same without hits and misses that could not be read in every module."""
    whole = events.modules == local_run.facts.modules_in_run
    return replace(events, is_hit=events.is_hit & whole, is_miss=events.is_miss & whole)


def _blocks(frames: FrameTable, rows: np.ndarray, most: int) -> Iterator[SourceBlock]:
    for a in range(0, len(rows), most):
        part = rows[a : a + most]
        yield SourceBlock(part, frames[part])


class _RowKeeper(Observer):
    """Keeps sums and lists of frames that are read in any order.

    Parameters
    ----------
    sums : FrameSums
        Of all frames of the rank.
    kept : FrameBuffer
    """

    def __init__(self, sums: FrameSums, kept: FrameBuffer):
        self._sums = sums
        self._kept = kept

    def block(self, source: SourceBlock, block: FrameBlock) -> None:
        """Put the sums where they belong, and keep the lists that fit."""
        for name in FrameSums.names():
            getattr(self._sums, name)[source.rows] = getattr(block.sums, name)
        there = np.flatnonzero(block.stored)
        self._kept.store(source.rows[there], block.take(there))

    def finish(self) -> None:
        """Do nothing: all is kept."""
