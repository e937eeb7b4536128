"""Run and events file side by side, distributed to the ranks: where checks with the run start."""

from dataclasses import dataclass, replace

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.pixel_mask import mask_digest
from xfelmpi.core.config.parts import RunSettings
from xfelmpi.core.event_table import EventColumns
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.paths import Experiment
from xfelmpi.core.sparse_frames import FrameSums
from xfelmpi.output.events import FinishedRun
from xfelmpi.reduction.dead_modules import without_dead_modules
from xfelmpi.run.distribution import LocalRun, distribute_run, scatter_table
from xfelmpi.run.frames.file_pool import FilePool
from xfelmpi.workflows.inputs import Inputs, load_inputs
from xfelmpi.workflows.verify.findings import Finding, compare

FRAMES = "run: frames, their order, beamline data"
MASKS = "run: masks"


@dataclass(frozen=True)
class RunData:
    """A rank's share of the run, and what the events file says of the same frames.

    Parameters
    ----------
    local_run : LocalRun
    files : FilePool
    inputs : Inputs
    events : EventColumns
    sums : FrameSums
    """

    local_run: LocalRun
    files: FilePool
    inputs: Inputs
    events: EventColumns
    sums: FrameSums


def open_run(
    job: RunJob, run: FinishedRun | None
) -> tuple[RunData | None, dict[str, list[Finding]]]:
    """Index the run and load its inputs as the job did; collective.

    Parameters
    ----------
    job : RunJob
        With the settings of the job that made the outputs.
    run : FinishedRun or None
        What the events file says, on rank 0.

    Returns
    -------
    RunData or None
        None if frames of run and events file cannot be compared.
    findings : dict
        By check; on rank 0.

    Raises
    ------
    InputError
        If the run cannot be used.
    """
    comm, experiment = job.comm, job.experiment
    kind = mpi.bcast_from_root(comm, lambda: str(run.attributes["data"]))
    settings = replace(job.config.part(RunSettings), vds=False, data=kind, ask_catalogue=False)
    local_run = distribute_run(comm, experiment, settings)
    n = mpi.bcast_from_root(comm, lambda: len(run.events.trainId))
    if n != local_run.facts.n_frames:
        text = f"has {n:,} frames, expected the {local_run.facts.n_frames:,} of the run"
        return None, {FRAMES: [Finding(experiment.events.name, text)]}
    sums = FrameSums(**scatter_table(comm, local_run, run.sums if run else None, FrameSums))
    columns = scatter_table(comm, local_run, run.events if run else None, EventColumns)
    events = EventColumns(**columns, added=local_run.added)
    findings = {FRAMES: mpi.gather_objects(comm, _compare_frames(experiment, local_run, events))}
    files = FilePool(local_run.facts.files)
    local_run = without_dead_modules(comm, local_run, sums)
    inputs = load_inputs(job, local_run, files)
    digest = mask_digest(comm, inputs.masks)
    findings[MASKS] = mpi.bcast_from_root(
        comm, lambda: compare(experiment.events, "masks_digest", run.masks, digest, "digest")
    )
    if findings[MASKS]:
        text = "was made with other masks than those found now, so that frames are not compared"
        return None, findings | {MASKS: [Finding(experiment.events.name, text)]}
    return RunData(local_run, files, inputs, events, sums), findings


def _compare_frames(
    experiment: Experiment, local_run: LocalRun, events: EventColumns
) -> list[Finding]:
    frames, first = local_run.frames, local_run.first_frame
    pairs = {
        "trainId": (events.trainId, frames.train_id),
        "cellId": (events.cellId, frames.cell_id),
        "pulseId": (events.pulseId, frames.pulse_id),
        "pulse_energy": (events.pulse_energy, local_run.pulse_energy),
        "wavelength": (events.wavelength, local_run.wavelength),
        "n_pulses": (events.n_pulses, local_run.n_pulses),
    }
    if events.pumped is not None and local_run.pumped is not None:
        pairs["pumped"] = (events.pumped, local_run.pumped)
    found = []
    for name, (here, there) in pairs.items():
        found += compare(experiment.events, name, here, there, first=first)
    return found


def check_added(
    comm, experiment: Experiment, local_run: LocalRun, columns: dict[str, np.ndarray] | None
) -> list[Finding]:
    """Compare the columns that ``--add`` names, given on rank 0 from the file; collective."""
    bounds = np.array([*comm.allgather(local_run.first_frame), local_run.facts.n_frames])
    found = []
    for added in local_run.added:
        values = mpi.scatter_rows(comm, columns[added.name] if columns else None, bounds)
        found += compare(
            experiment.events, added.name, values, added.values, first=local_run.first_frame
        )
    return mpi.gather_objects(comm, found)
