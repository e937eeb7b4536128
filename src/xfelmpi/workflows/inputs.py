"""What a job needs besides the run: masks, calibration constants, geometry."""

from dataclasses import dataclass, replace

from xfelmpi import mpi
from xfelmpi.calibration.constants import Calibration, load_calibration
from xfelmpi.calibration.geometry import DetectorGeometry, load_geometry
from xfelmpi.calibration.offset_check import check_offsets
from xfelmpi.calibration.photon_signal import check_photon_signal
from xfelmpi.calibration.pixel_mask import Masks, load_masks
from xfelmpi.calibration.plausible import few_good_pixels
from xfelmpi.core import fault_injection
from xfelmpi.core.config.options import Config
from xfelmpi.core.config.parts import MaskSettings, MemorySettings, OutputSettings, RawSettings
from xfelmpi.core.config.validation import low_sigma, without_effect
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.log import log, plural, size_text
from xfelmpi.core.paths import Experiment
from xfelmpi.core.problems import Problem
from xfelmpi.core.regular_file import is_there
from xfelmpi.core.sparse_frames import ENTRY_BYTES
from xfelmpi.output.hit_formats import check_formats
from xfelmpi.output.provenance import describe_used
from xfelmpi.output.write_inputs import prepare_folders
from xfelmpi.reduction.cell_background import check_cell_memory
from xfelmpi.reduction.frame_buffer import FrameBuffer
from xfelmpi.reduction.memory_budget import node_memory, spare_memory
from xfelmpi.reduction.sparsifier import Sparsifier
from xfelmpi.run.distribution import LocalRun, RunInfo
from xfelmpi.run.frames.file_pool import FilePool
from xfelmpi.workflows.selection import check_selection


@dataclass(frozen=True)
class Inputs:
    """What is needed besides the run itself.

    Parameters
    ----------
    masks : Masks
    calibration : Calibration or None
        Constants, for raw data.
    geometry : DetectorGeometry or None
        On rank 0.
    warnings : tuple of str
        For the log, on rank 0.
    used : tuple of dict
        The files that these come from; see `describe_used`.
    """

    masks: Masks
    calibration: Calibration | None
    geometry: DetectorGeometry | None
    warnings: tuple[str, ...]
    used: tuple[dict, ...] = ()

    @property
    def problems(self) -> list[Problem]:
        """What was found in masks and constants; the same ones on several ranks."""
        return [*self.masks.problems, *(self.calibration.problems if self.calibration else ())]


def with_distance(local_run: LocalRun, inputs: Inputs) -> LocalRun:
    """Return a local run that says where the distance came from; others than rank 0, as it is."""
    along = inputs.geometry.along if inputs.geometry else None
    if along is None:
        return local_run
    facts = replace(local_run.facts, beamline=(*local_run.facts.beamline, along))
    return replace(local_run, facts=facts)


def load_constants(job: RunJob, facts: RunInfo) -> Calibration | None:
    """Load the calibration constants of a raw run, None of a corrected one; collective."""
    if facts.kind != "raw":
        return None
    fault_injection.inject(job.comm, "constants")
    return load_calibration(
        job.comm,
        job.experiment,
        job.config.part(RawSettings),
        facts.cells,
        facts.modules_in_run,
        facts.detector,
        detector=facts.detector_type,
    )


def load_inputs(job: RunJob, local_run: LocalRun, files: FilePool) -> Inputs:
    """Load constants, masks and geometry; collective."""
    comm, experiment, config = job.comm, job.experiment, job.config
    facts = local_run.facts
    calibration = load_constants(job, facts)
    fault_injection.inject(comm, "geometry")
    found = mpi.run_on_root(comm, lambda: load_run_geometry(experiment, config, facts))
    geometry, warnings = found or (None, ())
    bad = mpi.bcast_from_root(comm, lambda: geometry.bad)
    fault_injection.inject(comm, "masks")
    masks = load_masks(
        comm,
        experiment,
        config.part(MaskSettings),
        facts.cells,
        calibration,
        files=files,
        samples=facts.masks,
        detector=facts.detector_type,
        bad=bad,
    )
    warnings += few_good_pixels(comm, masks, facts.modules_in_run)
    if facts.kind != "raw":
        warnings += check_photon_signal(comm, files, local_run, masks, config.adu_per_photon)
    elif calibration:
        warnings += check_offsets(comm, files, local_run, calibration, config.adu_per_photon)
    settings = config.part(OutputSettings)
    warnings = (*warnings, *check_formats(comm, settings, geometry, local_run.wavelength))
    check_selection(job, local_run, geometry)
    files_used = [*masks.files, *(calibration.files if calibration else ())]
    files_used += geometry.files if geometry else ()
    return Inputs(masks, calibration, geometry, warnings, describe_used(comm, files_used))


def prepare_outputs(job: RunJob, local_run: LocalRun) -> None:
    """Make the output folders, and check them before frames are read; collective."""
    settings, analyse = job.config.part(OutputSettings), job.config.analyse
    added = tuple(column.name for column in local_run.added)
    about = (job.experiment, settings, analyse, added, local_run.facts.n_frames)
    mpi.run_on_root(job.comm, lambda: prepare_folders(*about))
    if settings.background == "cell":
        detector = local_run.facts.detector_type
        spare = spare_memory(job.config.part(MemorySettings), detector.frame_pixels)
        needs = len(local_run.facts.cells), detector, spare
        mpi.run_on_root(job.comm, lambda: check_cell_memory(*needs))


def load_and_prepare(job: RunJob, local_run: LocalRun) -> tuple[RunJob, LocalRun, FilePool, Inputs]:
    """Load what frames are read with, and prepare the outputs; collective.

    Returns
    -------
    job : RunJob
        Of the run's proposal.
    local_run : LocalRun
        With the distance of its motors, see `with_distance`.
    files : FilePool
        Of the run's files.
    inputs : Inputs
    """
    job = job.of_proposal(local_run.facts.proposal)
    files = FilePool(local_run.facts.files)
    inputs = load_inputs(job, local_run, files)
    local_run = with_distance(local_run, inputs)
    prepare_outputs(job, local_run)
    return job, local_run, files, inputs


def make_sparsifier(config: Config, inputs: Inputs, files: FilePool) -> Sparsifier:
    """Return what turns this rank's frames into sparse lists."""
    return Sparsifier(
        files,
        inputs.masks,
        config.adu_per_photon,
        config.photon_threshold,
        spare_memory(config.part(MemorySettings), inputs.masks.frame_pixels) // 4 // ENTRY_BYTES,
        inputs.calibration,
    )


def make_frame_buffer(config: Config, inputs: Inputs, n_frames: int) -> FrameBuffer:
    """Return what keeps frames of this rank's, of which there are `n_frames`.

    A quarter of what there is for frames is for those that are being read.
    """
    settings = config.part(MemorySettings)
    spare = spare_memory(settings, inputs.masks.frame_pixels, n_frames)
    return FrameBuffer(n_frames, 3 * spare // 4)


def log_start(job: RunJob, local_run: LocalRun, inputs: Inputs) -> tuple[str, ...]:
    """Say on rank 0 what is going to be processed, and with what; return the warnings there."""
    comm, config = job.comm, job.config
    if comm.rank:
        return ()
    log.info(f"run: {local_run.facts.n_frames:,} frames, {comm.size} {plural(comm.size, 'rank')}")
    calibration = inputs.calibration
    constants = calibration.notes if calibration else ()
    for line in (
        *local_run.facts.notes,
        *constants,
        *inputs.masks.notes,
        inputs.geometry.description,
    ):
        log.info(line)
    warnings = (*local_run.facts.warnings, *inputs.warnings)
    if calibration and config.adu_per_photon == Config.adu_per_photon:
        warnings += ("raw data with --adu-per-photon 1: every ADU counts as a photon",)
    warnings += calibration.warnings if calibration else ()
    for problem in calibration.problems if calibration else ():
        warnings += (f"{problem.file}: {problem.what}; {problem.action}",)
    warnings += inputs.masks.warnings
    warnings += tuple(filter(None, (without_effect(config), low_sigma(config))))
    if config.memory_per_rank > node_memory():
        warnings += (f"--memory-per-rank: this node has {size_text(node_memory())} in all",)
    for line in warnings:
        log.warning(line)
    return warnings


def load_run_geometry(
    experiment: Experiment, config: Config, facts: RunInfo
) -> tuple[DetectorGeometry, tuple]:
    """Load the named geometry, the one at its usual place, or the nominal one; one rank."""
    path, detector = config.geometry, facts.detector_type
    if path is None and is_there(usual := experiment.geometry(detector)):
        path = usual
    return load_geometry(
        path, detector, config.distance, facts.motors, config.distance_offset, facts.z_motor
    )
