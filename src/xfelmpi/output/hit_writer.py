"""What an output format of hits is: a `HitWriter`, fed block by block on all ranks.

How to add one: docs/howto/add-an-output-format.md.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.config.parts import OutputSettings
from xfelmpi.core.paths import Experiment, MergedFiles
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.base import Detector
from xfelmpi.reduction.cell_background import CellBackground


class FrameColumn(NamedTuple):
    """One value per frame.

    Parameters
    ----------
    path : str
        Where it is in a CXI entry; its last part is the column's name.
    values : ndarray (frame,)
    attributes : dict
        ``units`` and the like.
    """

    path: str
    values: np.ndarray
    attributes: dict

    @property
    def name(self) -> str:
        """The last part of the path, e.g. ``trainId``."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class FrameSet:
    """Frames of one kind, hits or misses, that a job writes: those of this rank.

    Parameters
    ----------
    title : str
        What they are, for a person.
    n_frames : int
        Of all ranks.
    columns : list of FrameColumn
    cell_id : ndarray, int (frame,)
        Which masks of the job apply.
    ones, multi : ndarray, int64 (frame,)
        Pixels with one and with more photons.
    peak : int
        Most photons in one pixel of any frame of all ranks.
    read : callable
        Returns an iterator over the frames in blocks; for what must be known before they are
        written. Reads them once more.
    """

    title: str
    n_frames: int
    columns: list[FrameColumn]
    cell_id: np.ndarray
    ones: np.ndarray
    multi: np.ndarray
    peak: int
    read: Callable[[], Iterator[SparseFrames]]

    def column(self, name: str) -> np.ndarray:
        """Return the values of a column by its name, (frame,)."""
        return next(column.values for column in self.columns if column.name == name)


@dataclass(frozen=True, kw_only=True)
class HitsToWrite:
    """What a writer gets when it opens its files.

    Parameters
    ----------
    comm : Intracomm
    settings : OutputSettings
    files : Experiment or MergedFiles
        Says where files go.
    attributes : dict
        Where the data come from, for the root of every file.
    sets : dict of FrameSet
        ``hits``, and ``misses`` if they are asked for.
    detector : Detector
        What kind of detector the frames are of.
    masks : Masks
    modules_in_run : int
        Bit field.
    geometry : DetectorGeometry or None
        On rank 0.
    wavelength : float
        Median in m, NaN if unknown.
    good_in_hits : callable
        Returns in how many of the hits each pixel is good, int (pixel,), on rank 0; collective, and
        may have to read the hits once more.
    """

    comm: object
    settings: OutputSettings
    files: Experiment | MergedFiles
    attributes: dict
    sets: dict[str, FrameSet]
    detector: Detector
    masks: Masks
    modules_in_run: int
    geometry: DetectorGeometry | None
    wavelength: float
    good_in_hits: Callable[[], np.ndarray | None]


class HitBlock(NamedTuple):
    """Some frames of this rank, possibly none.

    Parameters
    ----------
    kind : str
        ``hits`` or ``misses``.
    frames : SparseFrames
    rows : slice
        Which frames of the `FrameSet` they are.
    cell_id : ndarray, int (frame,)
    """

    kind: str
    frames: SparseFrames
    rows: slice
    cell_id: np.ndarray


@dataclass(frozen=True)
class HitHeader:
    """What is known only when all frames have been written; on rank 0.

    Parameters
    ----------
    name, start_time, sample, instrument : str
        `start_time` is ISO 8601 with zone, or empty.
    geometry : DetectorGeometry
    good_pixels : ndarray, bool (module, ss, fs)
        Good in at least one cell.
    powder : ndarray, uint64 (module, ss, fs)
        Over all frames.
    background : ndarray, float32 (module, ss, fs) or (run, module, ss, fs)
        Mean photons per good frame over all non-hits, NaN where no frame was good.
    good_in_hits : ndarray, int (pixel,), or None
        In how many of the hits each pixel is good; None: not counted yet.
    cells : CellBackground or None
        Of ``--background cell``.
    """

    name: str
    start_time: str
    sample: str
    instrument: str
    geometry: DetectorGeometry
    good_pixels: np.ndarray
    powder: np.ndarray
    background: np.ndarray
    good_in_hits: np.ndarray | None = None
    cells: CellBackground | None = None


class HitWriter(Protocol):
    """One output format of hits; all methods but `paths` are collective.

    Writers open their files under temporary names (`begin_partial`) in the order of the registry,
    get the blocks side by side, and close in the opposite order. The job gives all files their
    names when all are complete. A subclass defines `paths`, `__init__`, `write` and `close`.
    """

    takes: ClassVar[tuple[str, ...]] = ("hits",)
    """The kinds of frames that `write` gets."""

    without_hits: ClassVar[bool] = False
    """Whether a run without hits has the files as well."""

    @classmethod
    def paths(cls, files: Experiment | MergedFiles) -> list[Path]:
        """Return the final names of all files that may be written.

        One that a later job does not write is removed by that: it has other hits.
        """
        ...

    @classmethod
    def check(
        cls,
        comm,
        settings: OutputSettings,
        geometry: DetectorGeometry | None,
        wavelength: np.ndarray,
    ) -> tuple[str, ...]:
        """Check, before frames are read, that the files can be made; return warnings on rank 0.

        Parameters
        ----------
        comm : Intracomm
        settings : OutputSettings
        geometry : DetectorGeometry or None
            On rank 0.
        wavelength : ndarray, float64 (frame,)
            In m, of frames of this rank; NaN where unknown.
        """
        return ()

    def __init__(self, hits: HitsToWrite):
        """Open the files."""
        ...

    def write(self, block: HitBlock) -> None:
        """Append a block of frames; every rank is called as often, with an empty block at last."""
        ...

    def close(self, header: HitHeader | None) -> list[Path]:
        """Complete the files and return their final names; the header is given on rank 0."""
        ...

    @classmethod
    def published(
        cls, settings: OutputSettings, files: Experiment | MergedFiles, written: list[Path]
    ) -> None:
        """Do what needs the files' final names; rank 0 only, also if none was written."""
