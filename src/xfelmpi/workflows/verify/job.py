"""All checks of a run in their order."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from xfelmpi import mpi
from xfelmpi.core.config.options import Config
from xfelmpi.core.errors import EXIT_COMPLETE, EXIT_UNUSABLE, InputError, XfelmpiError
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.log import log
from xfelmpi.core.paths import Experiment
from xfelmpi.workflows.verify import (
    analyses,
    cxi,
    dragonfly,
    full_rerun,
    powder,
    profiles,
    provenance,
    run_data,
    sample,
)
from xfelmpi.workflows.verify import (
    events as tables,
)
from xfelmpi.workflows.verify.cxi_frames import check_frames
from xfelmpi.workflows.verify.findings import Finding, Results
from xfelmpi.workflows.verify.open_outputs import Outputs, damaged_events, leftovers, opened_outputs
from xfelmpi.workflows.verify.selection import check_selection

EXIT_FAILED = 1

FILES = "files: there, and can be opened"
SAMPLE = "run, sample: frames and hits"
RUN = "run: can be read"

COLUMNS = "events: columns"
FOLDER = "Dragonfly: list of hits in the folder"

_CHECKS: tuple[tuple[str, tuple[str, ...], Callable], ...] = (
    (COLUMNS, ("events",), tables.columns),
    ("events: rows ascend by train and cell", ("events",), tables.order),
    ("events: sums fit each other", ("events",), tables.sums),
    ("events: hits and misses by scores and settings", ("events",), tables.decision),
    ("events: pulses of the frames", ("events",), tables.pulses),
    ("events: problems", ("events",), tables.problems),
    ("powder: shapes", ("powder",), powder.shapes),
    ("powder: photons are those of the events", ("powder",), powder.photons),
    ("powder: hits and misses are parts of all", ("powder",), powder.parts),
    ("CXI: structure", ("cxi",), cxi.structure),
    ("CXI: shapes", ("cxi",), cxi.shapes),
    ("CXI: rows are those of the events", ("cxi",), cxi.rows),
    ("CXI: powder, background, geometry", ("cxi", "powder"), cxi.singles),
    ("analyses: columns", ("cxi", "events"), analyses.columns),
    ("classes: columns", ("cxi", "events"), analyses.classes),
    ("analyses: some hits once more", ("cxi", "events"), analyses.again),
    ("CXI: radial profiles", ("cxi", "events"), profiles.profiles),
    ("CXI: processing step", ("cxi",), provenance.process_entry),
    ("EMC: header", (), dragonfly.emc_header),
    ("Dragonfly: detector", ("cxi", "powder"), dragonfly.detector),
    (FOLDER, ("cxi",), dragonfly.folder),
    ("VDS: frames and sources", ("vds",), tables.virtual),
    ("provenance: complete", (), provenance.provenance),
    ("provenance: one job", (), provenance.one_job),
)
"""Name of each check, the files that it needs, and what does it; all on rank 0."""

_WITHOUT_COLUMNS = (COLUMNS, "powder: shapes", "provenance: complete", "provenance: one job")
"""Checks that need no column of the events file."""


def verify(comm, config: Config, frames: int | None) -> int:
    """Check the outputs of a run, show what was found, and return the exit status; collective.

    See `check_run` for the parameters and what is raised.
    """
    results = check_run(comm, config, frames)
    if comm.rank == 0:
        results.show()
    failed = comm.bcast(bool(results.failed))
    return EXIT_FAILED if failed else EXIT_COMPLETE


def check_run(comm, config: Config, frames: int | None) -> Results:
    """Do all checks of a run; collective.

    Parameters
    ----------
    comm : Intracomm
    config : Config
        Settings of the job that made the outputs, with where they lie now.
    frames : int or None
        So many frames are read again from the run; None: all.

    Returns
    -------
    Results
        Empty but on rank 0.

    Raises
    ------
    InputError
        If the run has not been processed.
    """
    job = RunJob.of(comm, config)
    experiment = job.experiment
    results = Results()
    with ExitStack() as stack:
        outputs = mpi.run_on_root(comm, lambda: _open(stack, experiment, results))
        if comm.bcast(outputs is not None):
            usable = _check_outputs(comm, experiment, outputs, results)
            if usable and frames != 0:
                _check_input(job, outputs, results, frames)
    return results


def _open(stack: ExitStack, experiment: Experiment, results: Results) -> Outputs | None:
    """Open the outputs; None if the events file is there, but of no use at all."""
    try:
        outputs = stack.enter_context(opened_outputs(experiment))
    except InputError as error:
        if not experiment.events.exists():
            raise
        results.add(FILES, [damaged_events(experiment, error)])
        return None
    log.info(_introduction(outputs))
    results.add(FILES, outputs.findings)
    return outputs


def _check_outputs(comm, experiment: Experiment, outputs: Outputs | None, results: Results) -> bool:
    """Check the outputs among themselves; collective. Returns if the events file's columns are."""
    if comm.rank == 0:
        for name, needed, check in _CHECKS:
            if COLUMNS in results.failed and name not in _WITHOUT_COLUMNS:
                continue
            if all(file in outputs.files for file in needed):
                path = outputs.files[needed[0]].filename if needed else experiment.events
                results.run(name, lambda check=check: check(outputs), Path(path))
        results.notes += leftovers(experiment)
        results.notes += provenance.changed_files(outputs)
        results.notes += dragonfly.folder_notes(outputs)
        if COLUMNS in results.failed:
            results.notes.append(
                "not checked: what needs the columns of the events file, because they are damaged"
            )
    usable = comm.bcast(COLUMNS not in results.failed)
    if usable and comm.bcast(outputs is not None and "cxi" in outputs.files):
        found = check_frames(comm, experiment, outputs)
        for name, findings in (found or {}).items():
            results.add(name, findings)
        check_selection(comm, experiment, outputs, results)
    return usable


def _rows(outputs: Outputs, frames: int | None) -> np.ndarray:
    """Return the rows of a sample; None: all that were read."""
    run = outputs.run
    return sample.draw(run.events.is_hit, run.was_read, frames or len(run.was_read))


def _introduction(outputs: Outputs) -> str:
    about, events = outputs.run.attributes, outputs.run.events
    return (
        f"run {outputs.experiment.run} in {outputs.experiment.output}: {len(events.trainId):,} "
        f"frames, {len(outputs.hits):,} hits, made by xfelmpi {about.get('program_version')} "
        f"(commit {about.get('program_commit')}), {about.get('end_time')}"
    )


def _check_input(
    job: RunJob, outputs: Outputs | None, results: Results, frames: int | None
) -> None:
    """Check the outputs against the run, all frames if `frames` is None; collective."""
    comm, experiment = job.comm, job.experiment
    if comm.bcast(outputs and outputs.mask_patched):
        results.notes.append("frames are not compared with the run: pixels were masked later")
        return
    try:
        data, findings = run_data.open_run(job, outputs and outputs.run)
    except XfelmpiError as error:
        # the error of one rank is another one on the others, which must all go on then
        if not getattr(error, "agreed", False) or error.exit_status != EXIT_UNUSABLE:
            raise
        results.notes.append("--frames 0 checks without the run")
        data, findings = None, {RUN: [Finding("", str(error))]}
    if data is not None:
        columns = None
        if outputs:
            names = [added.name for added in data.local_run.added]
            columns = {name: outputs.files["events"][name][()] for name in names}
        added = run_data.check_added(comm, experiment, data.local_run, columns)
        if comm.rank == 0:
            findings[run_data.FRAMES] = [*findings[run_data.FRAMES], *added]
        whole = mpi.bcast_from_root(comm, lambda: outputs.run.whole)
        if frames or not whole:
            rows = mpi.bcast_from_root(comm, lambda: _rows(outputs, frames))
            name = f"{SAMPLE}, {len(rows):,}"
            findings[name] = sample.check_sample(job, data, rows)
        else:
            findings |= full_rerun.check_all(job, data, outputs)
        data.files.close()
    if comm.rank == 0:
        for name, found in findings.items():
            results.add(name, found)
