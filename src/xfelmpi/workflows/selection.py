"""The selection of a main job: its hits that fulfil ``--where``, as files of their own.

The files of the run keep all hits. The selection is what ``xfelmpi merge`` makes of the run alone,
after them: sizes and analyses are known then.
"""

import shlex
from dataclasses import fields

import numpy as np

from xfelmpi import mpi
from xfelmpi.analysis.hit_analysis import chosen_analyses
from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.core.config.parts import AnalysisSettings, OutputSettings
from xfelmpi.core.errors import InputError
from xfelmpi.core.event_table import AddedColumn, EventColumns
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.log import log
from xfelmpi.core.paths import Experiment, MergedFiles
from xfelmpi.io.checked import checked_attribute
from xfelmpi.io.input_file import finished_files, input_file
from xfelmpi.io.lock_file import held_if_there
from xfelmpi.io.output_file import cannot_write
from xfelmpi.io.publish import check_writable, give_names
from xfelmpi.output.beam import beam_wavelength
from xfelmpi.output.cxi.reader import HitColumn, read_hit_columns
from xfelmpi.output.hit_columns import hit_columns
from xfelmpi.output.hit_formats import hit_paths, obsolete_hit_files
from xfelmpi.run.distribution import LocalRun
from xfelmpi.workflows.merge.hits import choose_hits, with_run
from xfelmpi.workflows.merge.job import merge


def selected_files(experiment: Experiment) -> MergedFiles:
    """Return the paths of the selection of a run."""
    return MergedFiles(experiment.output, f"{experiment.name}_selected")


def check_selection(job: RunJob, local_run: LocalRun, geometry: DetectorGeometry | None) -> None:
    """Check the condition against the columns that the hits will have; collective.

    Raises
    ------
    UsageError, OutputError
        On all ranks, if it cannot be used, or the selection cannot be written.
    """
    comm, config = job.comm, job.config
    if not config.where:
        return
    settings = config.part(AnalysisSettings)
    wavelength, _ = beam_wavelength(comm, settings.photon_energy, local_run.wavelength)

    def check() -> None:
        analyses = chosen_analyses(settings, geometry.distance, wavelength)
        found = [c for analysis in analyses.values() for c in analysis.columns]
        choose_hits(with_run(_without_rows(local_run, found), config.run), config.where, config.run)
        for path in hit_paths(config.part(OutputSettings), selected_files(job.experiment)):
            check_writable(path)

    mpi.run_on_root(comm, check)


def _without_rows(local_run: LocalRun, analysed: list) -> dict[str, HitColumn]:
    """Return the columns that hits will have, for no hits."""
    none = np.empty(0)
    tables = {f.name: none for f in fields(EventColumns) if f.name != "added"}
    added = [(c.name, c.units, c.group) for c in (*local_run.added, *analysed)]
    events = EventColumns(
        **tables, added=tuple(AddedColumn(name, none, "", *about) for name, *about in added)
    )
    columns = hit_columns("", events, none, none, none, local_run.facts.detector_type)
    return {column.path: HitColumn(column.values, column.attributes) for column in columns}


def write_selection(job: RunJob) -> None:
    """Write the selection of a job whose files have their names, if one is wanted; collective.

    Else the selection of an earlier job is removed: it is not one of these hits.

    Raises
    ------
    XfelmpiError
        On all ranks, if it cannot be written; the files of the run stay.
    """
    comm, config = job.comm, job.config
    files = selected_files(job.experiment)
    wanted = bool(config.where) and not job.so_far
    if not wanted and not mpi.bcast_from_root(comm, lambda: _is_selection(files, config.run)):
        return
    run, output = config.run, job.experiment.output
    held = held_if_there(comm, output, files.lock, f"the selection of run {run} is being written")
    if not wanted:
        with held:
            mpi.run_on_root(comm, lambda: _remove_earlier(job, files))
        return
    with job.stages.timed("selection"), held, finished_files.unchanged():
        if mpi.bcast_from_root(comm, lambda: _any_chosen(job)):
            merge(job, (run,), config.where, files.name)
        else:
            mpi.run_on_root(comm, lambda: _remove(job, files))


def _any_chosen(job: RunJob) -> bool:
    if not job.experiment.cxi.exists():
        return False
    columns = read_hit_columns(job.experiment.cxi)
    run = job.config.run
    return bool(choose_hits(with_run(columns, run), job.config.where, run).any())


def _is_selection(files: MergedFiles, run: int) -> bool:
    """Return whether there are files of this name that a job of this run has written; one rank.

    Those that ``xfelmpi merge`` was asked for are the user's.
    """
    if not files.cxi.exists():
        return False
    try:
        with input_file(files.cxi, "a selection") as file:
            runs = np.atleast_1d(file.attrs["run"]).tolist()
            ours = file.attrs["program"] == "xfelmpi" and runs == [run] and file.attrs["where"]
            words = shlex.split(checked_attribute(file, "command_line", str))
    except (InputError, KeyError, TypeError, ValueError):
        return False
    return bool(ours) and words[:2] != ["xfelmpi", "merge"]


def _remove_earlier(job: RunJob, files: MergedFiles) -> None:
    """Remove the selection of an earlier job, if it can be; one rank."""
    try:
        _remove_files(job, files)
    except OSError as error:
        log.warning("%s of an earlier job cannot be removed: %s", files.cxi, error.strerror)
    else:
        log.info("the selection of an earlier job, %s, is removed", files.cxi)


def _remove_files(job: RunJob, files: MergedFiles) -> None:
    settings = job.config.part(OutputSettings)
    give_names((), obsolete_hit_files(settings, files, files.cxi, []))


def _remove(job: RunJob, files: MergedFiles) -> None:
    """Remove the selection of an earlier job, and say that there is none; one rank."""
    try:
        _remove_files(job, files)
    except OSError as error:
        raise cannot_write(files.cxi, error) from None
    log.warning(f"no hit fulfils --where {job.config.where!r}: no files of a selection")
