"""Simulating a run: who writes which file, in parallel."""

import logging
import os
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from xfelmpi.calibration.constants_file import constants_file
from xfelmpi.calibration.geometry import nominal_geometry
from xfelmpi.core.errors import UsageError
from xfelmpi.core.job import agree_on_process_id, process_id
from xfelmpi.core.paths import Experiment
from xfelmpi.core.progress import Progress
from xfelmpi.core.regular_file import open_regular
from xfelmpi.detectors.agipd import N_MODULES
from xfelmpi.io.partial_file import begin_partial, create_new, final_name, sweep
from xfelmpi.io.publish import give_names
from xfelmpi.simulate import model, truth
from xfelmpi.simulate.bad_cells import BadCells
from xfelmpi.simulate.beamline import write_machine_file
from xfelmpi.simulate.constants import is_simulated, write_constants
from xfelmpi.simulate.model import ModuleModel, Scene
from xfelmpi.simulate.module_file import module_file
from xfelmpi.simulate.options import SimulationOptions
from xfelmpi.simulate.plan import TrainPlan, has_data, plan_train, sequences

log = logging.getLogger("xfelmpi")

MACHINE = -1
"""Stands for a module number where a file has beamline data."""


@dataclass(frozen=True)
class SimulationResult:
    """Where everything is.

    Parameters
    ----------
    experiment : Experiment
        Paths of the run.
    proc, raw : Path
        Folders of the corrected data, if there are any, and of raw and beamline data.
    constants : Path or None
        Folder of the constants of raw data.
    geometry, truth : Path
        The CrystFEL geometry, and the ground truth.
    frames, particles : int
        Number of frames, and of those with a particle in the beam.
    """

    experiment: Experiment
    proc: Path
    raw: Path
    constants: Path | None
    geometry: Path
    truth: Path
    frames: int
    particles: int

    @property
    def written(self) -> tuple[Path, ...]:
        """All folders and files that were written."""
        data = (self.raw, self.constants) if self.constants else (self.proc, self.raw)
        return (*data, self.geometry, self.truth)


def simulate(options: SimulationOptions, comm=None) -> SimulationResult:
    """Write a run, its geometry and its ground truth.

    Parameters
    ----------
    options : SimulationOptions
        What to simulate.
    comm : Intracomm or None
        The ranks to share the work; the files do not depend on their number.

    Returns
    -------
    SimulationResult
        On every rank.

    Raises
    ------
    UsageError
        If the folders of the run or of the constants hold what the simulator did not write.
    """
    rank, size = (comm.rank, comm.size) if comm else (0, 1)
    paths = _Paths.of_run(options)
    scene = None
    if comm:
        agree_on_process_id(comm)
    with _together(comm):
        if rank == 0:
            _prepare(paths, options)
            scene = _write_geometry(paths.geometry, options)
    if comm:
        scene = comm.bcast(scene, root=0)
    with _together(comm):
        _write_files(paths, options, scene, rank, size)
    counts = None
    with _together(comm):
        if rank == 0:
            log.info("joining the files of the ground truth")
            counts = truth.join_pieces(paths.pieces, paths.truth, options, scene)
            give_names(_unfinished(paths))
            shutil.rmtree(paths.pieces)
    frames, particles = comm.bcast(counts, root=0) if comm else counts
    return SimulationResult(
        experiment=paths.experiment,
        proc=paths.proc,
        raw=paths.raw,
        constants=None if options.kind == "proc" else paths.constants,
        geometry=paths.geometry,
        truth=paths.truth,
        frames=frames,
        particles=particles,
    )


def _unfinished(paths: "_Paths") -> list[Path]:
    """Return the final names of all files that this simulation has written."""
    files = [paths.geometry, paths.truth]
    for folder in (paths.proc, paths.raw, paths.constants):
        files += map(final_name, sorted(folder.glob(f"*.{process_id()}.part")))
    return files


def _write_files(paths: "_Paths", options, scene: Scene, rank: int, size: int) -> None:
    """Write what falls to a rank: constants of some modules, and files of the run."""
    if options.kind != "proc":
        for module in range(N_MODULES)[rank::size]:
            write_constants(constants_file(paths.constants, module), options, module)
    files = share(options, rank, size)
    unit = "files" if size == 1 else f"files of one of {size} ranks"
    progress = Progress(len(files), stage="simulating", unit=unit, found="") if rank == 0 else None
    for done, (module, sequence) in enumerate(files, 1):
        if module == MACHINE:
            _write_machine(paths, options, sequence)
        else:
            _write_module(paths, options, scene, module, sequence)
        if progress:
            progress.show([done])
    if progress:
        progress.close()


def share(options: SimulationOptions, rank: int, size: int) -> list[tuple[int, int]]:
    """Return the (module, sequence) of every file that a rank writes, `MACHINE` for beamline data.

    Files are distributed one by one, long ones first.
    """
    files = [
        (-len(trains), module, sequence)
        for module in options.modules
        for sequence, trains in enumerate(sequences(options, module))
    ]
    machine = [(MACHINE, sequence) for sequence in range(len(sequences(options)))]
    return ([file[1:] for file in sorted(files)] + machine)[rank::size]


@dataclass(frozen=True)
class _Paths:
    experiment: Experiment
    proc: Path
    raw: Path
    constants: Path
    geometry: Path
    truth: Path
    pieces: Path

    @classmethod
    def of_run(cls, options: SimulationOptions) -> "_Paths":
        """Return where the files of a run lie."""
        prefix = Path(options.prefix)
        experiment = Experiment(prefix, prefix / "scratch", options.run)
        folder = experiment.output / "truth"
        return cls(
            experiment=experiment,
            proc=experiment.run_folder("proc"),
            raw=experiment.run_folder("raw"),
            constants=experiment.det / "constants",
            geometry=experiment.geometry(options.detector_type),
            truth=folder / f"{experiment.name}_truth.h5",
            pieces=folder / f"{experiment.name}_pieces",
        )

    @property
    def proposal(self) -> int:
        return int(self.experiment.proposal[1:])


def _prepare(paths: _Paths, options: SimulationOptions) -> None:
    """Make the folders, empty: an earlier simulation may have had other files."""
    old = [
        path
        for folder in (paths.proc, paths.raw)
        if folder.exists()
        for path in folder.iterdir()
        if path.is_file()
    ]
    ours = paths.truth.exists() or paths.pieces.exists()
    if old and not ours:
        raise UsageError(
            f"{old[0].parent} holds a run that was not simulated (there is no {paths.truth}); "
            "choose another folder or run number"
        )
    if options.kind != "proc":
        _check_constants(paths.constants)
    # pieces first: if this is interrupted, they show the next attempt that the run is simulated
    paths.pieces.mkdir(parents=True, exist_ok=True)
    for path in [*old, *paths.pieces.iterdir()]:
        path.unlink()
    paths.truth.unlink(missing_ok=True)
    constants = [constants_file(paths.constants, module) for module in range(N_MODULES)]
    sweep([paths.truth, paths.geometry, *constants], held=False)
    data = paths.proc if options.kind == "proc" else paths.constants
    for folder in (data, paths.raw, paths.geometry.parent):
        folder.mkdir(parents=True, exist_ok=True)
    if options.kind != "proc" and paths.proc.exists() and not any(paths.proc.iterdir()):
        # what an earlier simulation leaves: a run folder without files is no run
        paths.proc.rmdir()
    log.info(
        "simulating run %d: %d trains, %d cells, into %s",
        options.run,
        options.trains,
        len(options.cells),
        paths.experiment.prefix,
    )


def _check_constants(folder: Path) -> None:
    """Raise if there are constants that a simulation did not write."""
    for path in (constants_file(folder, module) for module in range(N_MODULES)):
        if path.exists() and not is_simulated(path):
            raise UsageError(
                f"{path} was not simulated and would be overwritten; "
                "choose another folder, or move it away"
            )


_SIMULATED = "; simulated, nominal positions of the quadrants\n"


def _write_geometry(path: Path, options: SimulationOptions) -> Scene:
    """Write the nominal geometry as CrystFEL file and return what the model needs of it.

    Raises
    ------
    UsageError
        If there is a geometry that no simulation wrote: it may be the experiment's own.
    """
    if path.exists() and not _begins_with(path, _SIMULATED):
        raise UsageError(f"{path} was not written by a simulation; choose another folder")
    geometry = nominal_geometry(options.detector_type)
    part = begin_partial(path)
    os.close(create_new(part))
    geometry.write_crystfel_geom(
        str(part), clen=options.distance, photon_energy=options.photon_energy_kev * 1e3
    )
    part.write_text(_SIMULATED + part.read_text())
    return model.make_scene(geometry.get_pixel_positions(), options)


def _begins_with(path: Path, text: str) -> bool:
    try:
        with open(open_regular(path), "rb") as file:
            return file.read(len(text)) == text.encode()
    except OSError:
        return False


def _write_machine(paths: _Paths, options: SimulationOptions, sequence: int) -> None:
    trains = sequences(options)[sequence]
    write_machine_file(
        paths.raw / f"RAW-R{options.run:04d}-DA01-S{sequence:05d}.h5",
        [plan_train(options, position) for position in trains],
        options=options,
        proposal=paths.proposal,
        sequence=sequence,
    )


def _write_module(paths: _Paths, options, scene: Scene, module: int, sequence: int) -> None:
    """Write one file of a module, and the piece of the truth that belongs to it."""
    trains = sequences(options, module)[sequence]
    plans = [_module_plan(options, module, position) for position in trains]
    photon_model = ModuleModel(scene, options, module)
    bad_cells = BadCells(options, module) if options.kind == "proc" and options.bad_cells else None
    piece = truth.Piece(options)
    detector = options.detector_type
    part = f"{detector.file_name}{detector.first_module + module:02d}"
    folder, prefix = (paths.proc, "CORR") if options.kind == "proc" else (paths.raw, "RAW")
    path = folder / f"{prefix}-R{options.run:04d}-{part}-S{sequence:05d}.h5"
    log.debug("writing %s", path)
    with module_file(
        path, plans, module=module, sequence=sequence, proposal=paths.proposal, options=options
    ) as images:
        for plan in plans:
            if len(plan):
                photons = photon_model.draw(plan)
                if bad_cells:
                    photons = bad_cells.spoil(plan, photons)
                piece.append(plan, images.append(plan, photons, photon_model.noise(plan)))
    piece.write(truth.piece_path(paths.pieces, module, sequence))


def _module_plan(options: SimulationOptions, module: int, position: int) -> TrainPlan:
    """Return the plan of a train as one module sees it: without frames if it lost the train."""
    plan = plan_train(options, position)
    return plan if has_data(options, module, position) else plan.without_frames()


def _together(comm):
    """Let all ranks fail if one does; without MPI there is nobody else."""
    if comm is None:
        return nullcontext()
    # loads MPI, which a single process must not need
    from xfelmpi.mpi import fail_together

    return fail_together(comm)
