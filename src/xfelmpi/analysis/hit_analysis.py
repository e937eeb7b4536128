"""What an analysis of hits is, the analyses by name, and the loop that runs them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.config.parts import AnalysisSettings
from xfelmpi.core.errors import InputError
from xfelmpi.core.event_table import AddedColumn
from xfelmpi.core.plugins import load_named, load_object
from xfelmpi.core.sparse_frames import SparseFrames

GROUP = "xfelmpi.hit_analyses"
"""Entry points in which other packages name their analyses."""

ANALYSES = {"radius": "xfelmpi.analysis.radius:PhotonRadius"}
"""Analyses for ``--analyse``: name → module:class."""

SIZES = {
    "sphere": "xfelmpi.analysis.sphere_size:SphereSize",
    "spheroid": "xfelmpi.analysis.spheroid_size:SpheroidSize",
}
"""Analyses for ``--size``, likewise."""


class AnalysisColumn(NamedTuple):
    """A value per hit.

    Parameters
    ----------
    name : str
        In the events file and the CXI file.
    units : str
    group : str
        Where it is below the entry of the CXI file; empty: with the instrument.
    dtype : str
        ``f8`` or ``f4``.
    """

    name: str
    units: str
    group: str = ""
    dtype: str = "f8"


@dataclass(frozen=True)
class AnalysedRun:
    """What all hits of a run have in common.

    Parameters
    ----------
    settings : AnalysisSettings
    geometry : DetectorGeometry
    wavelength : float
        Median in m, NaN if unknown.
    background : ndarray, float32 (pixel,)
        Mean photons per good frame over the non-hits; NaN where there is none.
    masks : Masks
    modules_in_run : int
        Bit field.
    """

    settings: AnalysisSettings
    geometry: DetectorGeometry
    wavelength: float
    background: np.ndarray
    masks: Masks
    modules_in_run: int


@dataclass(frozen=True)
class AnalysedHits:
    """Some hits.

    Parameters
    ----------
    frames : SparseFrames
    cell_id : ndarray, int (hit,)
        Memory cells, whose masks count.
    weighting : ndarray, float64 (hit,)
        What scales the background to each hit.
    wavelength : ndarray, float64 (hit,)
        In m, NaN where unknown.
    """

    frames: SparseFrames
    cell_id: np.ndarray
    weighting: np.ndarray
    wavelength: np.ndarray


class HitAnalysis(Protocol):
    """Computes columns of the hits, block by block; each rank its own, no communication.

    What comes out for a hit must not depend on the other hits of its block: which ones these are
    depends on the number of ranks.

    Parameters
    ----------
    run : AnalysedRun
    """

    columns: ClassVar[tuple[AnalysisColumn, ...]]

    def __init__(self, run: AnalysedRun):
        """Prepare what all hits have in common."""
        ...

    def process(self, hits: AnalysedHits) -> list[np.ndarray]:
        """Return the values of each column, float64 (hit,), NaN where there is none."""
        ...


def hit_analyses(names: tuple[str, ...]) -> dict[str, type[HitAnalysis]]:
    """Return analyses by name.

    Raises
    ------
    UsageError
        If one is unknown.
    """
    return load_named(names, ANALYSES, GROUP, "--analyse")


def size_analysis(settings: AnalysisSettings, distance: float, wavelength: float) -> str | None:
    """Return the name of the analysis that measures sizes, None if there is none.

    Raises
    ------
    InputError
        If sizes are asked for, and the distance or the wavelength is unknown.
    """
    known = np.isfinite(distance) and np.isfinite(wavelength)
    if settings.size == "none" or (settings.size == "auto" and not known):
        return None
    if not known:
        what, option = (
            ("distance", "--distance") if np.isnan(distance) else ("wavelength", "--photon-energy")
        )
        raise InputError(f"--size {settings.size}: the {what} is unknown; give {option}")
    return "sphere" if settings.size == "auto" else settings.size


def chosen_analyses(
    settings: AnalysisSettings, distance: float, wavelength: float
) -> dict[str, type[HitAnalysis]]:
    """Return all analyses that the options ask for, by name.

    Raises
    ------
    UsageError, InputError
        As `hit_analyses` and `size_analysis`.
    """
    size = size_analysis(settings, distance, wavelength)
    return hit_analyses(settings.analyse) | ({size: load_object(SIZES[size])} if size else {})


def analyse_hits(
    comm,
    classes: dict[str, type[HitAnalysis]],
    run: AnalysedRun,
    blocks: Iterator[tuple[np.ndarray, AnalysedHits]],
    n_frames: int,
) -> tuple[AddedColumn, ...]:
    """Run analyses over the hits of this rank; collective.

    Parameters
    ----------
    comm : Intracomm
    classes : dict
        Analyses by name.
    run : AnalysedRun
    blocks : iterator of (ndarray, AnalysedHits)
        Rows among the rank's frames, and the hits.
    n_frames : int
        Of this rank, hits or not.

    Returns
    -------
    tuple of AddedColumn
        One value per frame, NaN where it is no hit.
    """
    columns = {
        name: [(c, np.full(n_frames, np.nan, c.dtype)) for c in cls.columns]
        for name, cls in classes.items()
    }
    analyses: dict[str, HitAnalysis] = {}
    with mpi.fail_together(comm):
        for rows, hits in blocks:
            # a rank without hits prepares nothing
            analyses = analyses or {name: cls(run) for name, cls in classes.items()}
            for name, analysis in analyses.items():
                for (_, column), values in zip(columns[name], analysis.process(hits), strict=True):
                    column[rows] = values
    return tuple(
        AddedColumn(about.name, values, f"analysis {name}", about.units, about.group)
        for name, of_analysis in columns.items()
        for about, values in of_analysis
    )
