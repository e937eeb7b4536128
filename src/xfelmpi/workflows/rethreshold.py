"""Re-thresholding: new hits from the scores in the events file, reading only the frames needed.

The events file of a finished run holds every score, and the powder file the sums over all frames.
With new options of the decision, only hits and misses have to be read to write all outputs as the
main job would.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.pixel_mask import Masks, mask_digest
from xfelmpi.core.config.options import PASS_GROUPS, Config
from xfelmpi.core.config.parts import (
    AnalysisSettings,
    HitSettings,
    MemorySettings,
    OutputSettings,
    RunSettings,
)
from xfelmpi.core.errors import InputError, UsageError
from xfelmpi.core.event_table import EventColumns
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.paths import Experiment
from xfelmpi.core.sparse_frames import FrameSums
from xfelmpi.hitfinding.hit_finder import decide_run, draw_misses, hits_by_sigma, scored_before
from xfelmpi.io.checked import checked_array
from xfelmpi.io.input_file import finished_file
from xfelmpi.output.events import FinishedRun, listed_files, read_finished_run, read_settings
from xfelmpi.output.provenance import describe_files
from xfelmpi.output.write_inputs import WriteInputs
from xfelmpi.output.write_stage import write_outputs
from xfelmpi.reduction.dead_modules import without_dead_modules
from xfelmpi.reduction.frame_reader import HitReader
from xfelmpi.reduction.memory_budget import spare_memory
from xfelmpi.run.distribution import LocalRun, distribute_run, scatter_table
from xfelmpi.run.frames.file_pool import FilePool
from xfelmpi.run.index.run_index import RunIndex
from xfelmpi.workflows.inputs import (
    load_inputs,
    log_start,
    make_frame_buffer,
    make_sparsifier,
    prepare_outputs,
    with_distance,
)
from xfelmpi.workflows.output_stage import finish
from xfelmpi.workflows.process import compare_with_facility
from xfelmpi.workflows.report_stage import report_run
from xfelmpi.workflows.selection import write_selection

_FRAME_WORK = 1000
"""Work of a frame that must be read, against one that need not."""


def refuse_other_scores(config: Config, first: Config, chosen: dict[str, str]) -> None:
    """Check that no option differs that made the scores, or that has no effect here.

    Parameters
    ----------
    config : Config
        The settings to decide with.
    first : Config
        Those that the events file was made with.
    chosen : dict
        What some of these came to, by name: the same by name is no difference.

    Raises
    ------
    UsageError
        With the first option that would have to be the same.
    """
    fixed = {f.name for f in fields(Config) if f.metadata.get("group") in PASS_GROUPS}
    fixed |= {"data", "detector", "trains", "suspect_trains", "score", "normalise", "hits"}
    if first.normalise == "pulse-energy":
        # these say which frames the mean energy is taken of
        fixed |= {"min_scores", "min_pulse_energy", "exclude_cells", "first_cell"}
    for name in sorted(fixed):
        old, new = getattr(first, name), getattr(config, name)
        if new not in (old, chosen.get(name, old)):
            raise UsageError(
                f"--{name.replace('_', '-')} {_shown(name, new)} would change the scores, which "
                f"were made with {_shown(name, old)}; to process the run again, leave out "
                "--from-events"
            )

    if config.vds and not first.vds:
        raise UsageError(
            "--vds: the virtual dataset does not depend on the decision, and --from-events writes "
            "none; xfelmpi vds does"
        )


def _shown(name: str, value) -> str:
    if name == "trains":
        return ":".join("" if end is None else str(end) for end in value)
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "its default" if value is None else str(value)


def decide_finished(config: Config, run: FinishedRun) -> EventColumns:
    """Find the hits of a finished run with other thresholds; this process alone.

    Returns
    -------
    EventColumns
        With new hits, misses and statistics.
    """
    alone = mpi.alone()
    settings = config.part(HitSettings)
    scored = scored_before(settings, run.events, run.complete)
    decision = decide_run(alone, settings, scored)
    return replace(
        run.events,
        is_hit=decision.is_hit,
        is_miss=draw_misses(alone, settings, scored, decision),
        hit_median=decision.median,
        hit_std=decision.std,
        hit_threshold=decision.threshold,
        hit_sigma=decision.sigma,
    )


def hit_rates(config: Config, sigmas: list[float]) -> list[str]:
    """Return a table of what other sigmas would give, as lines of text; one rank, reads no frames.

    Raises
    ------
    InputError
        If there is no usable events file.
    """
    experiment = Experiment(config.prefix, config.output, config.run)
    run = read_finished_run(experiment.events)
    settings, events = config.part(HitSettings), run.events
    scored = scored_before(settings, events, run.complete)
    n_complete = int((run.complete & ~events.is_dark).sum())
    lines = [
        f"{experiment.events}: {len(events.trainId):,} frames, {n_complete:,} "
        f"complete{_with_light(events)}, {int(events.is_hit.sum()):,} hits now",
        f"{'sigma':>8} {'hits':>10} {'hit rate':>10} {'threshold':>11}",
    ]
    for sigma, n_hits, threshold in hits_by_sigma(settings, scored, sigmas):
        middle = "-" if np.isnan(threshold) else f"{threshold:,.1f}"
        rate = 100 * n_hits / max(n_complete, 1)
        lines.append(f"{sigma:8g} {n_hits:10,} {rate:8.2f} % {middle:>11}")
    lines.append(
        f"hit rate: of the complete frames{_with_light(events)}; threshold: median over them"
    )
    if config.decide == "fixed":
        lines.append("--decide fixed: sigma has no effect")
    return lines


def _with_light(events: EventColumns) -> str:
    return " with light" if events.is_dark.any() else ""


def rethreshold_run(job: RunJob) -> int:
    """Re-threshold a finished run, rewrite its outputs, and return the exit status; collective.

    Raises
    ------
    XfelmpiError
        On all ranks, if the outputs or the run cannot be used, or do not fit each other.
    """
    # what the stages held is gone before the report, which holds much as well
    job, status = _run_stages(job)
    write_selection(job)
    report_run(job)
    return status


def _run_stages(job: RunJob) -> tuple[RunJob, int]:
    """Run all stages but the report; return the job with the run's proposal, and the status."""
    comm, experiment, config, stages = job.comm, job.experiment, job.config, job.stages
    job.announce()
    with stages.timed("decide"):
        found = mpi.run_on_root(comm, lambda: _decided(experiment, config))
        run, events, total, dark = found or (None, None, None, None)
    with stages.timed("index"):
        local_run = _distribute_by_chosen(job, events)
        mpi.run_on_root(comm, lambda: _check_files(experiment, run, local_run))
        job = job.of_proposal(local_run.facts.proposal)
        experiment = job.experiment
        sums = FrameSums(**scatter_table(comm, local_run, run.sums if run else None, FrameSums))
        events = EventColumns(
            **scatter_table(comm, local_run, events, EventColumns), added=local_run.added
        )
        # what was distributed is not kept by rank 0
        found, run = None, run and _without_tables(run)
        local_run = without_dead_modules(comm, local_run, sums)
        files = FilePool(local_run.facts.files)
        inputs = load_inputs(job, local_run, files)
        local_run = with_distance(local_run, inputs)
        _check_masks(comm, experiment, inputs.masks, run)
        mpi.run_on_root(comm, lambda: _check_constants(experiment, run, inputs.used))
        prepare_outputs(job, local_run)
    warnings = log_start(job, local_run, inputs)
    with stages.timed("write"):
        sparsifier = make_sparsifier(config, inputs, files)
        spare = spare_memory(config.part(MemorySettings), inputs.masks.frame_pixels)
        kept = make_frame_buffer(config, inputs, len(local_run.frames))
        done = WriteInputs(
            settings=config.part(OutputSettings),
            spare=spare,
            analysis=config.part(AnalysisSettings),
            local_run=local_run,
            masks=inputs.masks,
            sums=sums,
            events=events,
            powder=total,
            reader=HitReader(local_run.frames, sums, sparsifier, inputs.masks, kept),
            geometry=inputs.geometry,
            problems=run.problems if run else [],
            warnings=warnings,
            used=inputs.used,
            earlier={"scores_by": comm.bcast(run and run.scores_by)},
            dark_powder=dark,
            agreement=compare_with_facility(comm, local_run, events),
        )
        written = write_outputs(job, done)
        files.close()
    return job, finish(job, done, sparsifier.bytes_read, written)


def _without_tables(run: FinishedRun) -> FinishedRun:
    """Return the same without its frames."""
    return replace(run, events=run.events.take(np.arange(0)), sums=FrameSums.zeros(0))


def _decided(experiment: Experiment, config: Config):
    run = read_finished_run(experiment.events)
    return run, decide_finished(config, run), *_read_powder(experiment, run)


def _read_powder(experiment: Experiment, run: FinishedRun):
    """Return photons and good frames of the run, (module, pixel) each, from the powder file.

    The same of the dark frames after that, None if there are none.
    """
    path = experiment.powder
    if not run.whole:
        raise InputError(
            f"{experiment.events}: only hits and misses were read (--hits facility or --score "
            "facility); process the run again"
        )
    with finished_file(path, "a powder file") as file:
        frame = run.detector_type.frame_shape

        def sums(suffix: str) -> tuple[np.ndarray, ...]:
            return tuple(
                checked_array(file, name + suffix, dtype, frame).reshape(frame[0], -1)
                for name, dtype in (("powder", np.uint64), ("good_frames", np.uint32))
            )

        photons, good = sums("")
        dark = sums("_dark") if "powder_dark" in file else None
    in_powder, in_events = int(photons.sum()), int(run.events.photons.sum())
    if in_powder != in_events:
        raise InputError(
            f"{path}: found {in_powder:,} photons, expected the {in_events:,} of "
            f"{experiment.events}; process the run again"
        )
    return (photons, good), dark


def _distribute_by_chosen(job: RunJob, events: EventColumns | None) -> LocalRun:
    """Share the run so that every rank has as many hits and misses to read; collective."""
    comm, experiment, config = job.comm, job.experiment, job.config

    def work_of(index: RunIndex) -> np.ndarray:
        """Return the work that every frame makes, int64 (frame,)."""
        frames = index.frames
        same = len(frames) == len(events.trainId) and (
            np.array_equal(frames.train_id, events.trainId)
            and np.array_equal(frames.cell_id, events.cellId)
        )
        if not same:
            raise InputError(
                f"{experiment.events}: has {len(events.trainId):,} frames, which are not the "
                f"{len(frames):,} that are in the run now; process the run again"
            )
        return (events.is_hit | events.is_miss) * _FRAME_WORK + 1

    # what `auto` chose the first time
    kind = mpi.bcast_from_root(comm, lambda: read_settings(experiment.events)[1]["data"])
    settings = replace(config.part(RunSettings), vds=False, data=kind)
    return distribute_run(comm, experiment, settings, work_of)


def _check_files(experiment: Experiment, run: FinishedRun, local_run: LocalRun) -> None:
    """Check that the run's files are those that the scores were made from, where they still lie."""
    listed = listed_files(run.attributes, "input_files")
    before = {file["path"]: (file["size"], file["mtime"]) for file in listed}
    for file in describe_files([file.path for file in local_run.facts.files]):
        now = file["size"], file["mtime"]
        if before.get(file["path"], now) != now:
            raise InputError(
                f"{file['path']}: changed since {experiment.events} was made from it; process the "
                "run again"
            )


def _check_constants(experiment: Experiment, run: FinishedRun, used: Sequence[dict]) -> None:
    """Check that calibration constants are those that the scores were made with, by content."""
    before, now = (
        sorted((Path(f["path"]).name, str(f["role"]), str(f["sha256"])) for f in files)
        for files in map(_constants_among, (listed_files(run.attributes, "used_files"), used))
    )
    if before != now:
        other = next(entry for entry in [*now, *before] if entry not in before or entry not in now)
        raise InputError(
            f"{experiment.events}: was made with other calibration constants than those found now "
            f"(e.g. {other[0]}); process the run again"
        )


def _constants_among(files: Sequence[dict]) -> list[dict]:
    return [file for file in files if str(file["role"]).partition(" ")[0] == "constants"]


def _check_masks(comm, experiment: Experiment, masks: Masks, run: FinishedRun | None) -> None:
    digest = mask_digest(comm, masks)

    def check():
        if digest != run.masks:
            raise InputError(
                f"{experiment.events}: was made with other masks than those found now; "
                "process the run again"
            )

    mpi.run_on_root(comm, check)
