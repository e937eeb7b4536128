"""What an analysis of hits is, the analyses by name, and the loop that runs them."""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.core.event_table import AddedColumn
from xfelmpi.core.plugins import load_named
from xfelmpi.core.sparse_frames import SparseFrames

GROUP = "xfelmpi.hit_analyses"
"""Entry points in which other packages name their analyses."""

ANALYSES = {"radius": "xfelmpi.analysis.radius:PhotonRadius"}
"""Analyses for ``--analyse``: name → module:class."""


class AnalysisColumn(NamedTuple):
    """A value per hit: its name in the events file and the CXI file, and its unit."""

    name: str
    units: str


class HitAnalysis(Protocol):
    """Computes columns of the hits, block by block; each rank its own, no communication.

    Parameters
    ----------
    geometry : DetectorGeometry
    """

    columns: ClassVar[tuple[AnalysisColumn, ...]]

    def __init__(self, geometry: DetectorGeometry):
        """Prepare what all hits have in common."""
        ...

    def process(self, hits: SparseFrames) -> list[np.ndarray]:
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


def analyse_hits(
    comm,
    names: tuple[str, ...],
    blocks: Iterator[tuple[np.ndarray, SparseFrames]],
    geometry: DetectorGeometry | None,
    n_frames: int,
) -> tuple[AddedColumn, ...]:
    """Run analyses over the hits of this rank; collective.

    Parameters
    ----------
    comm : Intracomm
    names : tuple of str
    blocks : iterator of (ndarray, SparseFrames)
        Rows among the rank's frames, and the hits.
    geometry : DetectorGeometry or None
        On rank 0.
    n_frames : int
        Of this rank, hits or not.

    Returns
    -------
    tuple of AddedColumn
        One value per frame, NaN where it is no hit.
    """
    known = comm.bcast(geometry)
    analyses = {name: cls(known) for name, cls in hit_analyses(names).items()}
    found = {name: np.full((len(a.columns), n_frames), np.nan) for name, a in analyses.items()}
    with mpi.fail_together(comm):
        for rows, hits in blocks:
            for name, analysis in analyses.items():
                found[name][:, rows] = analysis.process(hits)
    return tuple(
        AddedColumn(column.name, values, f"analysis {name}", column.units)
        for name, analysis in analyses.items()
        for column, values in zip(analysis.columns, found[name], strict=True)
    )
