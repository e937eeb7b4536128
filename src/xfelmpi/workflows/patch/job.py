"""Finished files with another geometry, distance, mask or sizes: written anew from the CXI file.

Nothing of the run is read. Frames pass from the old CXI file through all formats of hits, as in the
main job; scores and decisions stay.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.pixel_mask import Masks, load_mask
from xfelmpi.core.config.options import Config
from xfelmpi.core.config.parts import OutputSettings
from xfelmpi.core.errors import EXIT_COMPLETE
from xfelmpi.core.event_table import AddedColumn
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.log import counted, log
from xfelmpi.core.paths import Experiment, MergedFiles
from xfelmpi.detectors.pixel_bits import unpack
from xfelmpi.io.publish import check_writable
from xfelmpi.output.beam import beam_wavelength
from xfelmpi.output.cxi.reader import read_cell_backgrounds
from xfelmpi.output.hit_formats import HitOutputs, check_formats, finish_formats, hit_paths
from xfelmpi.output.hit_writer import FrameSet, HitHeader, HitsToWrite
from xfelmpi.output.provenance import describe_used, provenance
from xfelmpi.output.publishing import publish_together
from xfelmpi.reduction.cell_background import CellBackground
from xfelmpi.workflows.patch.columns import analysed_columns, class_columns, patched_columns
from xfelmpi.workflows.patch.finished_set import FinishedSet, read_set
from xfelmpi.workflows.patch.frames import (
    FrameTally,
    PatchedFrames,
    SetFacts,
    facts_of,
    good_frames,
)
from xfelmpi.workflows.patch.new_inputs import Change
from xfelmpi.workflows.patch.run_files import without_lost, write_run_files
from xfelmpi.workflows.report_stage import report_run

_KEPT = ("run", "proposal", "input_files", "where", "scores_by")
"""Attributes that stay: the data are still of the same run."""


def patch(job: RunJob, sets: list[Experiment | MergedFiles], change: Change) -> int:
    """Patch finished sets of hits, all or none, and return the exit status; collective.

    Parameters
    ----------
    job : RunJob
        With the folders; other settings are those that each set was made with.
    sets : list of Experiment or MergedFiles
    change : Change

    Raises
    ------
    XfelmpiError
        On all ranks, if files are missing or cannot be used.
    """
    comm = job.comm
    # before anything is written
    mpi.run_on_root(comm, lambda: _check_sets(sets, change))
    done = []
    for files in sets:
        done.append(_patch_set(job, files, change))
        # its masks
        mpi.free_unused(comm)
    written = [path for _, paths, _ in done for path in paths]
    old = [path for _, _, obsolete in done for path in obsolete]
    publish_together(comm, written, lambda: old)
    for files, (own, paths, _) in zip(sets, done, strict=True):
        settings = _hit_settings(own.config)
        mpi.run_on_root(comm, lambda s=settings, f=files, p=paths: finish_formats(s, f, p))
        if isinstance(files, Experiment):
            report_run(own, same_hits=True)
    if comm.rank == 0:
        for line in ("files written:", *(f"  {path}" for path in written)):
            log.info(line)
    return EXIT_COMPLETE


def _check_sets(sets: list[Experiment | MergedFiles], change: Change) -> None:
    for files in sets:
        read_set(files, change)


def _patch_set(job: RunJob, files, change: Change) -> tuple[RunJob, list[Path], list[Path]]:
    """Write the files of a set under their temporary names; collective.

    Returns
    -------
    job : RunJob
        That of the set.
    written, obsolete : list of Path
        Final names.
    """
    comm = job.comm
    finished = mpi.run_on_root(comm, lambda: read_set(files, change))
    facts = mpi.bcast_from_root(comm, lambda: facts_of(finished))
    job = _job_of_set(job, facts)
    settings = _hit_settings(job.config)
    mpi.run_on_root(comm, lambda: [check_writable(path) for path in _paths(files, settings)])
    masks = None
    if facts.cell_mask is not None:
        limit = job.config.memory_per_rank
        masks = load_mask(comm, facts.cell_mask, facts.cells, limit, facts.detector)
        finished = finished and _with_cells_masked(finished, masks)
    frames = {
        kind: PatchedFrames(comm, files.cxi, facts, kind, finished, masks) for kind in facts.titles
    }
    with mpi.fail_together(comm):
        tallies = {kind: FrameTally(own, facts.detector) for kind, own in frames.items()}
    if masks is not None and not facts.merged:
        finished = _with_sums(comm, files, facts, tallies, finished)
    wavelength = finished.wavelength if finished else np.empty(0)
    median, _ = beam_wavelength(comm, settings.photon_energy, wavelength)
    if facts.has_classes:
        columns = class_columns(comm, frames["hits"], finished)
    else:
        columns = analysed_columns(comm, facts, frames["hits"], finished, median)
    warnings = check_formats(comm, settings, finished.geometry if finished else None, wavelength)
    _log_start(comm, files, finished, (*(finished.warnings if finished else ()), *warnings))
    attributes = _attributes(job, finished)
    hits = _hits_to_write(comm, settings, files, facts, frames, tallies, columns)
    hits = replace(
        hits,
        attributes=attributes,
        geometry=finished.geometry if finished else None,
        wavelength=median,
    )
    outputs = HitOutputs(hits)
    for kind, own in frames.items():
        outputs.write(kind, own.stream())
    good = hits.good_in_hits()
    written = outputs.close(_header(files, finished, good, masks) if finished else None)
    if isinstance(files, Experiment):
        sums = {kind: tally.gathered(comm) for kind, tally in tallies.items()}
        added = [_gathered(comm, column) for column in columns or ()]
        write_run_files(comm, files, finished, attributes, sums, added, warnings)
        written = [files.events, files.powder, *written]
    return job, written, [path for path in hit_paths(settings, files) if path not in written]


def _job_of_set(job: RunJob, facts: SetFacts) -> RunJob:
    """Return the job as the one that made the set, with the folders of this one."""
    config = replace(facts.config, prefix=job.config.prefix, output=job.config.output)
    experiment = Experiment(config.prefix, config.output, config.run)
    if facts.proposal[1:].isdecimal():
        experiment = experiment.of_proposal(int(facts.proposal[1:]))
    return replace(job, experiment=experiment, config=config, settings=config.to_json())


def _gathered(comm, column: AddedColumn) -> AddedColumn:
    """Return a column with the values of all ranks; collective."""
    return replace(column, values=mpi.allgather_concat(comm, column.values))


def _hit_settings(config: Config) -> OutputSettings:
    # a folder that was made for Dragonfly has links to the files
    return replace(config.part(OutputSettings), dragonfly=None)


def _paths(files: Experiment | MergedFiles, settings: OutputSettings) -> list[Path]:
    own = [files.events, files.powder] if isinstance(files, Experiment) else []
    return [*own, *hit_paths(settings, files)]


def _with_cells_masked(finished: FinishedSet, masks: Masks) -> FinishedSet:
    """Return a set of which pixels that are bad in all cells are bad; one rank."""
    rows = masks.row_of_cell[finished.cells]
    bits = [np.bitwise_or.reduce(good[rows], axis=0) for good in masks.good]
    bad = finished.bad | (unpack(np.stack(bits)).reshape(-1) == 0)
    return replace(finished, bad=bad, warnings=(*finished.warnings, *masks.warnings))


def _with_sums(
    comm,
    files: Experiment,
    facts: SetFacts,
    tallies: dict[str, FrameTally],
    finished: FinishedSet | None,
) -> FinishedSet | None:
    """Return a set with the powders of its frames, of which some cells lost pixels; collective."""
    sums = {}
    for kind, tally in tallies.items():
        photons, bad = (mpi.allreduce_sum(comm, values) for values in (tally.of_pixel, tally.bad))
        sums[kind] = photons, good_frames(facts, facts.titles[kind][1], bad)
    return mpi.run_on_root(comm, lambda: without_lost(files, finished, sums))


def _hits_to_write(comm, settings, files, facts, frames, tallies, analysed) -> HitsToWrite:
    sets = {}
    for kind, own in frames.items():
        tally = tallies[kind]
        sets[kind] = FrameSet(
            title=own.title,
            n_frames=own.n_frames,
            columns=patched_columns(own, kind, tally, analysed, facts),
            # the masks call every pixel of every cell good: bad pixels come with the frames
            cell_id=np.zeros(len(own.rows), np.int64),
            ones=tally.ones,
            multi=tally.lit - tally.ones,
            peak=mpi.allreduce_max(comm, tally.peak.max(initial=0)),
            read=own.stream,
        )
    n_hits, detector = frames["hits"].n_frames, facts.detector
    bad = mpi.allreduce_sum(comm, tallies["hits"].bad)
    return HitsToWrite(
        comm=comm,
        settings=settings,
        files=files,
        attributes={},
        sets=sets,
        detector=detector,
        masks=Masks.all_good(detector),
        modules_in_run=facts.modules,
        geometry=None,
        wavelength=np.nan,
        good_in_hits=lambda: good_frames(facts, n_hits, bad),
    )


def _attributes(job: RunJob, finished: FinishedSet | None) -> dict:
    """Return the root attributes: those of this job, and of those before; collective."""
    comm = job.comm
    new = describe_used(comm, finished.files if finished else ())
    before = mpi.bcast_from_root(comm, lambda: finished.used_before())
    made = provenance(job, (), (*before, *new))
    kept = mpi.bcast_from_root(
        comm,
        lambda: (
            {name: finished.attributes[name] for name in _KEPT if name in finished.attributes}
            | {
                "patched_from": json.dumps(finished.earlier),
                "beamline_sources": finished.beamline_sources,
            }
        ),
    )
    return made | kept


def _header(
    files, finished: FinishedSet, good_in_hits: np.ndarray, masks: Masks | None
) -> HitHeader:
    header, frame = finished.header, finished.detector.frame_shape
    bad = finished.bad.reshape(frame)
    powder, background = header.powder.copy(), header.background.copy()
    powder[bad] = 0
    background[..., bad] = np.nan
    about = (header.start_time, header.sample, header.instrument)
    good = header.good_pixels & ~bad
    arrays = good, powder, background, good_in_hits
    cells = _cell_backgrounds(files.cxi, finished, masks)
    return HitHeader(finished.name, *about, finished.geometry, *arrays, cells)


def _cell_backgrounds(
    path: Path, finished: FinishedSet, masks: Masks | None
) -> CellBackground | None:
    """Return the backgrounds of memory cells without pixels that are bad now; one rank."""
    mean, cells = read_cell_backgrounds(path), finished.header.background_cell
    if mean is None:
        return None
    mean = mean.reshape(len(mean), len(mean[0]), -1)
    bad = finished.bad.reshape(mean[0].shape)
    for own, cell in zip(mean, cells[1:].tolist(), strict=True):
        own[bad] = np.nan
        if masks is not None:
            own[unpack(masks.good[:, masks.row_of_cell[cell]]) == 0] = np.nan
    return CellBackground(cells[1:], mean)


def _log_start(comm, files, finished: FinishedSet | None, warnings: tuple[str, ...]) -> None:
    if comm.rank:
        return
    n = int((finished.bad & finished.header.good_pixels.reshape(-1)).sum())
    about = finished.geometry.description
    where = " in all cells, others by cell" if finished.cell_mask else ""
    log.info(f"{files.cxi}: {about}; {counted(n, 'pixel')} more are bad{where}")
    for line in warnings:
        log.warning(line)
