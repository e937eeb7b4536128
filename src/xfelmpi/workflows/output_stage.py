"""The end of every job that writes the outputs of a run: checks, files, summary."""

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core import fault_injection
from xfelmpi.core.config.parts import AnalysisSettings, MemorySettings, OutputSettings
from xfelmpi.core.errors import EXIT_COMPLETE, EXIT_PARTIAL
from xfelmpi.core.event_table import EventColumns
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.problems import Problem, summarised
from xfelmpi.output.write_inputs import WriteInputs
from xfelmpi.output.write_stage import write_outputs
from xfelmpi.reduction.checkpoint import ReductionState, discard_checkpoint
from xfelmpi.reduction.dead_modules import require_frames, without_dead_modules
from xfelmpi.reduction.frame_reader import HitReader
from xfelmpi.reduction.memory_budget import spare_memory
from xfelmpi.reduction.run_sums import sum_powder
from xfelmpi.workflows.inputs import Inputs
from xfelmpi.workflows.plausible import doubts_of_raw_powder, doubts_of_sums
from xfelmpi.workflows.summary import Summary


def check_sums(
    comm, masks: Masks, result: ReductionState, rows: np.ndarray | slice = slice(None)
) -> tuple[ReductionState, tuple[np.ndarray, np.ndarray] | None, tuple[str, ...]]:
    """Check what was read, and sum the powder of all ranks; collective.

    Parameters
    ----------
    comm : Intracomm
    masks : Masks
    result : ReductionState
    rows : ndarray, int (frame,), or slice
        The frames of this rank that were to be read.

    Returns
    -------
    result : ReductionState
        Without modules of which no frame could be read.
    powder : (ndarray, ndarray) or None
        See `sum_powder`.
    warnings : tuple of str
        On rank 0, what is strange about the sums.

    Raises
    ------
    InputError
        On all ranks, if no frame could be read.
    """
    sums = result.sums.take(rows)
    require_frames(comm, sums, result.sparsifier.problems)
    local_run = without_dead_modules(comm, result.local_run, result.sums, rows)
    total = sum_powder(comm, masks, result.powder)
    about = local_run.facts.detector_type, sums, total and total[1]
    doubts = doubts_of_sums(comm, masks, *about)
    if local_run.facts.kind == "raw":
        doubts += doubts_of_raw_powder(total, local_run.facts.detector_type)
    return replace(result, local_run=local_run), total, doubts


def gather_problems(comm, inputs: Inputs, result: ReductionState, left_out) -> list[Problem]:
    """Return all problems of a pass on rank 0; collective. `left_out` are those of `start_vds`."""
    local_run = result.local_run
    own = [*local_run.problems, *left_out, *inputs.problems, *result.sparsifier.problems]
    return summarised(mpi.gather_objects(comm, [*own, *local_run.facts.machine_problems]))


def write_run(
    job: RunJob, inputs: Inputs, result: ReductionState, events: EventColumns, **known: Any
) -> tuple[WriteInputs, list[Path]]:
    """Write all files of a run; collective.

    Parameters
    ----------
    job : RunJob
    inputs : Inputs
    result : ReductionState
        Whose powder is no longer needed, see `check_sums`.
    events : EventColumns
    **known
        What else `WriteInputs` takes.

    Returns
    -------
    done : WriteInputs
    written : list of Path
    """
    config, local_run, sparsifier = job.config, result.local_run, result.sparsifier
    done = WriteInputs(
        settings=config.part(OutputSettings),
        spare=spare_memory(config.part(MemorySettings), inputs.masks.frame_pixels),
        analysis=config.part(AnalysisSettings),
        local_run=local_run,
        masks=inputs.masks,
        sums=result.sums,
        events=events,
        reader=HitReader(
            local_run.frames,
            result.sums,
            sparsifier,
            inputs.masks,
            result.kept,
            unused=result.powder,
        ),
        geometry=inputs.geometry,
        used=inputs.used,
        so_far=job.so_far,
        **known,
    )
    written = write_outputs(job, done)
    sparsifier.files.close()
    return done, written


def forget_checkpoint(job: RunJob) -> None:
    """Remove the checkpoint: the outputs are complete; collective."""
    # a job that is stopped from here on leaves none
    job.shutdown.save = lambda: None
    if not job.so_far:
        mpi.run_on_root(job.comm, lambda: discard_checkpoint(job.experiment.checkpoint))


def finish(job: RunJob, done: WriteInputs, bytes_read: int, written, done_before: int = 0) -> int:
    """Show the summary and return the exit status; collective.

    Of all frames, an earlier job has read `done_before`.
    """
    comm = job.comm
    fault_injection.inject(comm, "finish")
    facts, events = done.local_run.facts, done.events
    own = {
        "complete": (events.modules == facts.modules_in_run).sum(),
        "trains": len(np.unique(events.trainId)),
        "hits": events.is_hit.sum(),
        "misses": events.is_miss.sum(),
        "dark": (events.is_dark & (events.modules == facts.modules_in_run)).sum(),
        "bytes_read": bytes_read,
    }
    counts = [*own.values(), *done.sums.switched.sum(axis=0, dtype=np.int64)]
    *of_run, medium, low = mpi.allreduce_sum(comm, np.array(counts)).tolist()
    peak = mpi.allreduce_max(comm, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    if comm.rank == 0:
        summary = Summary(
            frames=facts.n_frames,
            **dict(zip(own, of_run, strict=True)),
            peak_memory=peak,
            ranks=comm.size,
            seconds=job.stages.seconds,
            problems=done.problems,
            agreement=done.agreement,
            reduction=facts.reduction,
            files=[str(path) for path in written],
            switched=(medium, low) if facts.kind == "raw" else None,
            done_before=done_before,
        )
        summary.show()
    return EXIT_PARTIAL if comm.bcast(bool(done.problems)) else EXIT_COMPLETE
