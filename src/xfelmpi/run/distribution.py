"""The run, indexed on rank 0 and distributed: every rank gets its frames and the facts all need."""

from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from xfelmpi import mpi
from xfelmpi.core import fault_injection
from xfelmpi.core.config.parts import RunSettings
from xfelmpi.core.event_table import AddedColumn, EventColumns
from xfelmpi.core.frame_table import FrameTable, ModuleFile, differs_from_last
from xfelmpi.core.machine_records import (
    BeamlineSource,
    FacilityHits,
    MachineData,
    QuadrantMotors,
    RunReduction,
    ZMotor,
)
from xfelmpi.core.paths import Experiment
from xfelmpi.core.problems import Problem
from xfelmpi.core.sparse_frames import FrameSums
from xfelmpi.core.text import storable
from xfelmpi.detectors.base import Detector
from xfelmpi.mpi import partition
from xfelmpi.run.mask_samples import MaskSamples, sample_masks

if TYPE_CHECKING:
    from xfelmpi.run.index.run_index import RunIndex
    from xfelmpi.run.virtual_layout import VirtualLayout


@dataclass(frozen=True)
class RunInfo:
    """What every rank knows of the run.

    Parameters
    ----------
    kind : str
        ``proc`` or ``raw``.
    detector : str
        E.g. ``SPB_DET_AGIPD1M-1``.
    detector_type : Detector
        What kind of detector it is.
    files : tuple of ModuleFile
    modules_in_run : int
        Bit m set: module m has at least one frame.
    n_frames : int
        Frames of the run.
    cells : ndarray, int64 (cell,)
        Cells that the run uses, ascending.
    start_time : str
        ISO 8601, or empty.
    sample : str
    notes, warnings : tuple of str
        For the log.
    motors : QuadrantMotors or None
    z_motor : ZMotor or None
    masks : MaskSamples or None
        Frames whose own masks say what is bad all the time, if they have masks that may count.
    machine_files : tuple of str
        Paths of the files of the run that were searched for beamline data.
    machine_problems : tuple of Problem
        The same ones on all ranks.
    proposal : int
        By the data themselves, 0 if they do not say it.
    beamline : tuple of BeamlineSource
        Where values of the beamline came from.
    reduction : RunReduction or None
        What the facility left out.
    run_type : str
        Empty if unknown.
    """

    kind: str
    detector: str
    detector_type: Detector
    files: tuple[ModuleFile, ...]
    modules_in_run: int
    n_frames: int
    cells: np.ndarray
    start_time: str
    sample: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    motors: QuadrantMotors | None
    z_motor: ZMotor | None = None
    masks: MaskSamples | None = None
    machine_files: tuple[str, ...] = ()
    machine_problems: tuple[Problem, ...] = ()
    proposal: int = 0
    beamline: tuple[BeamlineSource, ...] = ()
    reduction: RunReduction | None = None
    run_type: str = ""

    @property
    def input_files(self) -> list[str]:
        """Paths of all files of the run that were read."""
        return [*(file.path for file in self.files), *self.machine_files]


@dataclass(frozen=True)
class LocalRun:
    """The part of the run that one rank works on.

    Parameters
    ----------
    facts : RunInfo
    frames : FrameTable
        Whole trains.
    first_frame : int
        Row of the first of these frames in the run.
    pulse_energy, wavelength : ndarray, float64 (frame,)
        J and m, NaN where unknown.
    n_pulses : ndarray, uint8 (frame,)
        X-ray pulses; 0: the frame is dark, 255: not known.
    pumped : ndarray, uint8 (frame,), or None
        See `MachineData`.
    facility : FacilityHits or None
        What the facility's hit finder says.
    facility_score : (ndarray, ndarray) or None
        Lit and good pixels that the facility counted, float64 (frame,), for ``--score facility``.
    added : tuple of AddedColumn
        What ``--add`` asks for, of these frames.
    problems : tuple of Problem
        Those of the index, on rank 0.
    virtual : VirtualLayout or None
        Of all frames of the run, on rank 0, if wanted.
    """

    facts: RunInfo
    frames: FrameTable
    first_frame: int
    pulse_energy: np.ndarray
    wavelength: np.ndarray
    n_pulses: np.ndarray
    pumped: np.ndarray | None
    added: tuple[AddedColumn, ...]
    problems: tuple[Problem, ...]
    facility: FacilityHits | None = None
    facility_score: tuple[np.ndarray, np.ndarray] | None = None
    virtual: "VirtualLayout | None" = None


def distribute_run(
    comm, experiment: Experiment, settings: RunSettings, work_of=None, *, so_far: bool = False
) -> LocalRun:
    """Index the run, whose files all ranks read, and give every rank its share; collective.

    Parameters
    ----------
    comm : Intracomm
    experiment : Experiment
    settings : RunSettings
    work_of : callable, optional
        Called on rank 0 with the `RunIndex`; returns how much work every frame is,
        int (frame,), which is what is balanced over the ranks. Default: all the same.
    so_far : bool
        The run is still being written: what it lacks is no problem.

    Raises
    ------
    InputError
        On all ranks, if the run cannot be used.
    """
    fault_injection.inject(comm, "index")
    looked = mpi.run_on_root(comm, lambda: _looked(experiment, settings))
    contents, opened_run = _read_together(comm, experiment, settings, looked)
    about = (experiment, settings, work_of, looked, contents, opened_run)
    with opened_run or nullcontext():
        found = mpi.run_on_root(comm, lambda: _found(*about, so_far=so_far))
    index, machine, virtual, problems, work, facility = found or (None, None, None, (), None, None)
    table, for_all = None, None
    if index:
        table = index.frames
        for_all = _facts(settings, index, machine), _bounds(table, work, comm.size)
    facts, bounds = comm.bcast(for_all)
    fault_injection.inject(comm, "deal")
    frames = _deal_frames(comm, table, bounds)
    of_machine = _deal_machine(comm, machine, bounds)
    hits, score = _deal_facility(comm, facility, bounds)
    return LocalRun(
        facts=facts,
        frames=frames,
        first_frame=int(bounds[comm.rank]),
        problems=problems,
        facility=hits,
        facility_score=score,
        virtual=virtual,
        **of_machine,
    )


def _deal_frames(comm, table: FrameTable | None, bounds: np.ndarray) -> FrameTable:
    """Give every rank its frames of the table that rank 0 holds; collective."""
    dealt = {}
    for name in ("train_id", "cell_id", "pulse_id", "group", "row"):
        column = getattr(table, name, None)
        if name == "row" and column is not None and column.strides[1] == 0:
            # one column stands for all
            column = column[:, :1]
        dealt[name] = mpi.scatter_rows(comm, column, bounds)
    # groups ascend: those of a rank stand together
    group = dealt["group"]
    files, of_ranks = _files_by_rank(table, bounds) if table is not None else (None, None)
    files = mpi.scatter_rows(comm, files, comm.bcast(of_ranks))
    dealt["group"] = group - group[:1]
    dealt["row"] = np.broadcast_to(dealt["row"], (len(group), files.shape[1]))
    return FrameTable(**dealt, files=files).compact()


def _files_by_rank(table: FrameTable, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the files of the groups that each rank has, and where those of every rank begin."""
    own = []
    for a, b in pairwise(bounds.tolist()):
        groups = table.group[[a, b - 1]] if b > a else (0, -1)
        own.append(table.files[groups[0] : groups[1] + 1])
    return np.concatenate(own), np.cumsum([0, *map(len, own)])


def _deal_machine(comm, machine, bounds: np.ndarray) -> dict:
    """Give every rank its rows of the beamline data, by their names in `LocalRun`; collective."""

    def deal(column):
        return mpi.scatter_rows(comm, column, bounds)

    names = ["pulse_energy", "wavelength", "n_pulses"]
    dealt = {name: deal(getattr(machine, name, None)) for name in names}
    has_laser = comm.bcast(machine is not None and machine.pumped is not None)
    pumped = deal(machine.pumped if machine else None) if has_laser else None
    whole = machine.added if machine else ()
    empty = comm.bcast(tuple(replace(column, values=None) for column in whole))
    added = tuple(
        replace(column, values=deal(whole[i].values if machine else None))
        for i, column in enumerate(empty)
    )
    return {**dealt, "pumped": pumped, "added": added}


def _deal_facility(comm, facility, bounds: np.ndarray):
    """Give every rank its rows of what the facility says of frames; collective."""
    hits, score = facility or (None, None)
    dealt = []
    for found in (hits and [getattr(hits, f.name) for f in fields(FacilityHits)], score):
        n = comm.bcast(len(found) if found else 0)
        columns = [mpi.scatter_rows(comm, found[i] if found else None, bounds) for i in range(n)]
        dealt.append(columns or None)
    return dealt[0] and FacilityHits(*dealt[0]), dealt[1] and tuple(dealt[1])


def _looked(experiment: Experiment, settings: RunSettings):
    """Return which data are read, and their index if it was kept; for the import see `_found`."""
    from xfelmpi.run.find_run import look_for_run

    return look_for_run(experiment, settings)


def _read_together(comm, experiment: Experiment, settings: RunSettings, looked):
    """Read files of a run for its index, every rank its share; collective.

    Rank 0 needs the beamline data: of several ranks, it reads them meanwhile, and fewer files.

    Parameters
    ----------
    comm : Intracomm
    experiment : Experiment
    settings : RunSettings
    looked : LookedFor or None
        On rank 0.

    Returns
    -------
    contents : dict of Path to FileContent, or None
        On rank 0, of all files; None if an index was kept.
    opened_run : OpenRun or None
        On rank 0.
    """
    paths, n_beamline = comm.bcast((looked.kept.files, looked.n_beamline) if looked else None)
    if not paths:
        return None, None
    found: dict = {}
    opened_run = None
    with mpi.fail_together(comm):
        # most jobs have an index from before: their ranks do not wait for these modules
        from xfelmpi.run.index.run_index import read_files, share_of_files

        share = share_of_files(paths, comm.rank, comm.size, n_beamline)
        found = read_files(share, settings.detector, quiet=comm.rank > 0)
        if comm.rank == 0 and comm.size > 1:
            from xfelmpi.run.find_run import read_beamline_ahead

            opened_run = read_beamline_ahead(experiment, settings, found)
    return dict(mpi.gather_objects(comm, list(found.items()))), opened_run


def _found(*about, so_far: bool):
    # the other ranks do without the thirty modules that read index and beamline data
    from xfelmpi.run.find_run import find_run

    return find_run(*about, so_far=so_far)


def _bounds(frames: FrameTable, work: np.ndarray, n_ranks: int) -> np.ndarray:
    """Return where the share of every rank begins and the last one ends, int64 (rank + 1,)."""
    first = np.flatnonzero(differs_from_last(frames.train_id))
    trains = partition.split_trains(np.add.reduceat(work, first), n_ranks)
    return np.append(first, len(frames))[trains]


def _facts(settings: RunSettings, index: "RunIndex", machine: MachineData) -> RunInfo:
    cells = np.unique(index.frames.cell_id).astype(np.int64)
    masks = None
    has_masks = index.kind == "proc" and any(file.has_mask for file in index.files)
    if has_masks and set(settings.mask) & {"auto", "run", "run-static"}:
        masks = sample_masks(index.frames, cells, settings.mask_trains)
    sources = f"{index.detector}, source {index.source}"
    return RunInfo(
        kind=index.kind,
        detector=index.detector,
        detector_type=index.detector_type,
        files=index.files,
        modules_in_run=index.modules_in_run,
        n_frames=len(index.frames),
        cells=cells,
        start_time=index.start_time,
        sample=storable(machine.sample),
        notes=(sources, *index.notes, *machine.notes),
        warnings=machine.warnings,
        motors=machine.motors,
        z_motor=machine.z_motor,
        masks=masks,
        machine_files=machine.files,
        machine_problems=machine.problems,
        proposal=index.proposal,
        beamline=machine.sources,
        reduction=machine.reduction,
        run_type=storable(machine.run_type),
    )


def scatter_table(comm, local_run: LocalRun, table: FrameSums | EventColumns | None, cls) -> dict:
    """Give every rank its rows of each column of a table that rank 0 holds, by name; collective."""
    bounds = np.array([*comm.allgather(local_run.first_frame), local_run.facts.n_frames])

    def columns():
        names = [f.name for f in fields(cls)]
        return [n for n in names if isinstance(getattr(table, n), np.ndarray)]

    return {
        name: mpi.scatter_rows(comm, getattr(table, name, None), bounds)
        for name in mpi.bcast_from_root(comm, columns)
    }
