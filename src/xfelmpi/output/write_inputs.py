"""What the write stage starts from: all that is known, folders that can be written, room."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xfelmpi.analysis.hit_analysis import hit_analyses, require_columns
from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.config.parts import AnalysisSettings, OutputSettings
from xfelmpi.core.event_table import EventColumns
from xfelmpi.core.paths import Experiment
from xfelmpi.core.problems import Problem
from xfelmpi.core.sparse_frames import FrameSums
from xfelmpi.io.output_file import check_room
from xfelmpi.io.parallel_hdf5 import check_mpi_io
from xfelmpi.io.partial_file import sweep
from xfelmpi.io.publish import check_name, check_writable
from xfelmpi.output.hit_formats import hit_paths
from xfelmpi.output.vds import write_vds
from xfelmpi.reduction.frame_reader import HitReader
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.run.distribution import LocalRun
from xfelmpi.run.virtual_layout import BYTES_PER_MAPPING

_EVENT_BYTES = 80
"""Of a frame in the events file, at least."""


@dataclass(frozen=True)
class WriteInputs:
    """Everything known when the files are written.

    Parameters
    ----------
    settings : OutputSettings
    spare : int
        Bytes that a rank has for frames; see `spare_memory`.
    analysis : AnalysisSettings
    local_run : LocalRun
    masks : Masks
    sums : FrameSums
    events : EventColumns
    powder : (ndarray, ndarray) or None
        Of all frames of the run, on rank 0; see `sum_powder`.
    reader : HitReader
        Gives hits and misses as sparse frames.
    geometry : DetectorGeometry or None
        On rank 0.
    problems : list of Problem
        Of the run, on rank 0.
    vds : Path or None
        The virtual dataset on rank 0, if written: complete but for its name.
    warnings : tuple of str
        Those of the log at the start, on rank 0.
    used : tuple of dict
        Masks, constants and geometry; see `describe_used`.
    earlier : dict
        Attributes that name the job that made the scores, if it is not this one.
    dark_powder : (ndarray, ndarray) or None
        As `powder`, of the frames without an X-ray pulse, if an earlier job has summed them.
    hit_powder : tuple or None
        As `powder`, of the hits, where `hits_summed`.
    hits_summed : bool
        Whether the hits have been read and summed.
    whole : bool
        All frames of the run were read, not only hits and misses.
    agreement : dict of str to int
        How the hits agree with those of the facility's hit finder, empty without these.
    so_far : str
        What there is of a run that is still being written, empty if it is complete.
    """

    settings: OutputSettings
    spare: int
    analysis: AnalysisSettings
    local_run: LocalRun
    masks: Masks
    sums: FrameSums
    events: EventColumns
    powder: tuple[np.ndarray, np.ndarray] | None
    reader: HitReader
    geometry: DetectorGeometry | None
    problems: list[Problem]
    vds: Path | None = None
    warnings: tuple[str, ...] = ()
    used: tuple[dict, ...] = ()
    earlier: dict[str, str] = field(default_factory=dict)
    dark_powder: tuple[np.ndarray, np.ndarray] | None = None
    hit_powder: tuple[np.ndarray, np.ndarray] | None = None
    hits_summed: bool = False
    whole: bool = True
    agreement: dict[str, int] = field(default_factory=dict)
    so_far: str = ""

    @property
    def read(self) -> np.ndarray:
        """Which frames were read, bool (frame,)."""
        return self.events.was_read(whole=self.whole)

    def no_frames(self) -> PowderSum:
        """Return the sum over no frames, with the shapes of this run."""
        return PowderSum.zeros(self.masks.good.shape[1], self.local_run.facts.detector_type)


def prepare_folders(
    experiment: Experiment,
    settings: OutputSettings,
    analyse: tuple[str, ...],
    added: tuple[str, ...],
    n_frames: int,
) -> None:
    """Make the output folders and check that they can be written; one rank.

    How much room the hits need is known only later.

    Parameters
    ----------
    experiment : Experiment
    settings : OutputSettings
    analyse : tuple of str
        Names of analyses: one that is unknown shall not be found after the pass.
    added : tuple of str
        Names of columns that ``--add`` asks for.
    n_frames : int
        Of the run.

    Raises
    ------
    OutputError
        If they cannot.
    """
    require_columns(hit_analyses(analyse), added)
    for path in (experiment.events, experiment.powder, *hit_paths(settings, experiment)):
        check_writable(path)
    check_mpi_io(experiment.events)
    # not every job writes these
    others = [experiment.vds("proc"), experiment.vds("raw")]
    sweep(others)
    for path in others:
        check_name(path)
    check_room(experiment.output, n_frames * _EVENT_BYTES)


def begin_vds(
    experiment: Experiment, attributes: dict, local_run: LocalRun, memory: int
) -> tuple[Path | None, tuple[Problem, ...]]:
    """Write the virtual dataset, if wanted, under its temporary name; rank 0 only.

    This comes before the frames are read, because HDF5 needs the memory that they will take.

    Parameters
    ----------
    experiment : Experiment
    attributes : dict
        Root attributes.
    local_run : LocalRun
    memory : int
        Bytes; with more mappings than fit there is a problem instead of a virtual dataset.

    Returns
    -------
    path : Path or None
        The final name.
    problems : tuple of Problem
    """
    if local_run.virtual is None:
        return None, ()
    n, limit = len(local_run.virtual.mappings), memory // BYTES_PER_MAPPING
    if n > limit:
        what = f"virtual dataset needs {n:,} mappings, {limit:,} fit into --memory-per-rank"
        return None, (Problem(what, action="not written; xfelmpi vds writes it, however many"),)
    check_writable(experiment.vds(local_run.facts.kind))
    return write_vds(experiment, attributes, local_run.virtual), ()
