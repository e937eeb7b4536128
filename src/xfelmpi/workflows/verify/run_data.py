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
from xfelmpi.run.distribution import LocalRun, scatter_table, share_run
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
    share : LocalRun
    files : FilePool
    inputs : Inputs
    events : EventColumns
    sums : FrameSums
    """

    share: LocalRun
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
    share = share_run(comm, experiment, settings)
    n = mpi.bcast_from_root(comm, lambda: len(run.events.trainId))
    if n != share.facts.n_frames:
        text = f"has {n:,} frames, expected the {share.facts.n_frames:,} of the run"
        return None, {FRAMES: [Finding(experiment.events.name, text)]}
    sums = FrameSums(**scatter_table(comm, share, run.sums if run else None, FrameSums))
    columns = scatter_table(comm, share, run.events if run else None, EventColumns)
    events = EventColumns(**columns, added=share.added)
    findings = {FRAMES: mpi.gather_objects(comm, _compare_frames(experiment, share, events))}
    files = FilePool(share.facts.files)
    share = without_dead_modules(comm, share, sums)
    inputs = load_inputs(job, share, files)
    digest = mask_digest(comm, inputs.masks)
    findings[MASKS] = mpi.bcast_from_root(
        comm, lambda: compare(experiment.events, "masks_digest", run.masks, digest, "digest")
    )
    if findings[MASKS]:
        text = "was made with other masks than those found now, so that frames are not compared"
        return None, findings | {MASKS: [Finding(experiment.events.name, text)]}
    return RunData(share, files, inputs, events, sums), findings


def _compare_frames(experiment: Experiment, share: LocalRun, events: EventColumns) -> list[Finding]:
    frames, first = share.frames, share.first_frame
    pairs = {
        "trainId": (events.trainId, frames.train_id),
        "cellId": (events.cellId, frames.cell_id),
        "pulseId": (events.pulseId, frames.pulse_id),
        "pulse_energy": (events.pulse_energy, share.pulse_energy),
        "wavelength": (events.wavelength, share.wavelength),
        "n_pulses": (events.n_pulses, share.n_pulses),
    }
    if events.pumped is not None and share.pumped is not None:
        pairs["pumped"] = (events.pumped, share.pumped)
    found = []
    for name, (here, there) in pairs.items():
        found += compare(experiment.events, name, here, there, first=first)
    return found


def check_added(
    comm, experiment: Experiment, share: LocalRun, columns: dict[str, np.ndarray] | None
) -> list[Finding]:
    """Compare the columns that ``--add`` names, given on rank 0 from the file; collective."""
    bounds = np.array([*comm.allgather(share.first_frame), share.facts.n_frames])
    found = []
    for added in share.added:
        values = mpi.scatter_rows(comm, columns[added.name] if columns else None, bounds)
        found += compare(
            experiment.events, added.name, values, added.values, first=share.first_frame
        )
    return mpi.gather_objects(comm, found)
