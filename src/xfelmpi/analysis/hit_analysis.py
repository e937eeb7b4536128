"""What an analysis of hits is, the analyses by name, and the loop that runs them."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.config.parts import AnalysisSettings
from xfelmpi.core.config.validation import TAKEN_COLUMNS
from xfelmpi.core.errors import InputError, UsageError
from xfelmpi.core.event_table import AddedColumn
from xfelmpi.core.plugins import blame, load_named, load_object
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

_OTHERS_GROUPS = ("instrument_1/", "data_1", "entry")
"""Starts of groups below the entry of the CXI file whose datasets others write."""


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
        ``f8`` or ``f4``: frames that are no hits have NaN.
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
        If one is unknown, or its columns cannot be in the outputs.
    """
    classes = load_named(names, ANALYSES, GROUP, "--analyse")
    require_columns(classes)
    return classes


def require_columns(classes: dict[str, type[HitAnalysis]], added: tuple[str, ...] = ()) -> None:
    """Check what analyses say of their columns.

    Parameters
    ----------
    classes : dict
        Analyses by name.
    added : tuple of str
        Names of columns that ``--add`` asks for.

    Raises
    ------
    UsageError
        If a column is no column of floats, or has the name of another one.
    """
    taken = dict.fromkeys(TAKEN_COLUMNS, "the outputs have that already")
    taken |= dict.fromkeys(added, "--add has that already")
    for analysis, cls in classes.items():
        who = f"--analyse {analysis}"
        columns = getattr(cls, "columns", None)
        if not isinstance(cls, type) or not isinstance(columns, tuple | list) or not columns:
            raise UsageError(f"{who}: is no HitAnalysis with columns, see AnalysisColumn")
        for column in columns:
            if not isinstance(column, AnalysisColumn) or not all(map(_is_text, column)):
                raise UsageError(f"{who}: found the column {column!r}, expected an AnalysisColumn")
            if column.dtype not in ("f4", "f8"):
                raise UsageError(
                    f"{who}: column {column.name} is {column.dtype}, expected f4 or f8: frames "
                    "that are no hits have NaN"
                )
            path = [*column.group.split("/"), column.name] if column.group else [column.name]
            if not all(re.fullmatch(r"[A-Za-z_]\w*", part, re.ASCII) for part in path):
                raise UsageError(
                    f"{who}: column {'/'.join(path)!r}, expected letters, digits and _ in its name "
                    "and group"
                )
            if column.group.startswith(_OTHERS_GROUPS) or path[0] in TAKEN_COLUMNS - {column.name}:
                raise UsageError(f"{who}: group {column.group} of the CXI file has other things")
            if column.name in taken:
                raise UsageError(f"{who}: the name {column.name}: {taken[column.name]}")
            taken[column.name] = f"{analysis} has that already"


def _is_text(value) -> bool:
    return isinstance(value, str)


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
            for name in classes.keys() - analyses.keys():
                with _blamed(name):
                    analyses[name] = classes[name](run)
            for name in classes:
                with _blamed(name):
                    found = list(analyses[name].process(hits))
                _check_values(name, columns[name], found, len(rows))
                for (_, column), values in zip(columns[name], found, strict=True):
                    column[rows] = values
    return tuple(
        AddedColumn(about.name, values, f"analysis {name}", about.units, about.group)
        for name, of_analysis in columns.items()
        for about, values in of_analysis
    )


def _blamed(name: str) -> AbstractContextManager:
    """Return what an analysis is called in: errors in those of others name it."""
    return nullcontext() if name in ANALYSES | SIZES else blame(f"--analyse {name}")


def _check_values(name: str, columns: list, found: list, n: int) -> None:
    """Check what an analysis returns for `n` hits.

    Raises
    ------
    UsageError
        If it is not one number per hit for every column.
    """
    if len(found) != len(columns):
        raise UsageError(
            f"--analyse {name}: process returned {len(found)} arrays, expected one for each of its "
            f"{len(columns)} columns"
        )
    for (about, _), values in zip(columns, found, strict=True):
        array = np.asarray(values)
        if array.shape != (n,) or array.dtype.kind not in "fiub":
            raise UsageError(
                f"--analyse {name}: process returned {array.dtype} of shape {array.shape} for "
                f"{about.name}, expected {n} numbers, one for each hit"
            )
