"""The hits of several runs' CXI files, chosen and joined by one rank, but for their frames."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.core.errors import InputError, UsageError
from xfelmpi.core.log import log
from xfelmpi.core.text import printable
from xfelmpi.output.cxi.reader import HitColumn, read_finished_hits
from xfelmpi.output.hit_columns import DETECTOR
from xfelmpi.output.hit_writer import HitHeader
from xfelmpi.workflows.merge.row_filter import rows_where, signed

_OF_PHOTONS = ("photon_threshold", "adu_per_photon", "common_mode", "score", "normalise")
"""Options without which photons or scores of two runs are not alike."""

_SHIFT, _TOO_FAR = 0.02, 0.5
"""Pixels: how far apart the runs' pixels may lie for a warning, and for an error."""


@dataclass(frozen=True)
class Merged:
    """What rank 0 knows of the runs and of the hits that were chosen.

    Parameters
    ----------
    header : HitHeader
        With one background per run.
    modules : int
        Bit m set: module m is in at least one of the runs.
    columns : dict of HitColumn
        Of the hits chosen, by path below the entry.
    source, row : ndarray, int64 (hit,)
        Which run, and which hit of its file.
    """

    header: HitHeader
    modules: int
    columns: dict[str, HitColumn]
    source: np.ndarray
    row: np.ndarray


def collect(runs: tuple[int, ...], paths: list[Path], where: str | None) -> Merged:
    """Read the files of all runs but for the frames, and choose the hits; one rank.

    Raises
    ------
    InputError
        If a file cannot be used, or the runs' geometries differ.
    UsageError
        If the condition cannot be used, or no hit fulfils it.
    """
    parts, sources, rows, backgrounds = [], [], [], []
    for number, (run, path) in enumerate(zip(runs, paths, strict=True)):
        found = read_finished_hits(path)
        columns = with_run(found.columns, run, number, run_type(runs))
        chosen = choose_hits(columns, where, run)
        log.info(f"run {run}: {chosen.sum():,} of {len(chosen):,} hits")
        parts.append({p: HitColumn(c.values[chosen], c.attributes) for p, c in columns.items()})
        rows.append(np.flatnonzero(chosen))
        sources.append(np.full(len(rows[-1]), number, np.int64))
        backgrounds.append(found.background)
        if number == 0:
            first, modules, good, powder = found, found.modules, found.good_pixels, found.powder
            continue
        _check_geometry(first.geometry, found.geometry)
        if 0 not in (found.modules, modules) and found.modules != modules:
            log.warning(f"run {run} has other modules than runs before; missing ones count as bad")
        if found.sample != first.sample:
            log.warning(
                f"run {run} is of sample {printable(found.sample)!r}, run {runs[0]} of "
                f"{printable(first.sample)!r}; the merged files name the latter"
            )
        _warn_of_settings(run, found.configuration, runs[0], first.configuration)
        modules |= found.modules
        good, powder = good | found.good_pixels, powder + found.powder
    row = np.concatenate(rows)
    if not len(row):
        raise UsageError("no hits" + (f" with --where {where!r}" if where else " in these runs"))
    header = HitHeader(
        name=f"{first.proposal} " + " ".join(f"r{run:04d}" for run in runs),
        start_time=first.start_time,
        sample=first.sample,
        instrument=first.instrument,
        geometry=first.geometry,
        good_pixels=good,
        powder=powder,
        background=np.stack(backgrounds),
    )
    return Merged(header, modules, _join(parts, rows), np.concatenate(sources), row)


def _warn_of_settings(run: int, settings: dict, first_run: int, first: dict) -> None:
    """Say which settings differ that say what a photon, or a score, is."""
    differ = [
        f"--{name.replace('_', '-')} {settings[name]} (run {first_run}: {first[name]})"
        for name in _OF_PHOTONS
        if name in settings and name in first and settings[name] != first[name]
    ]
    if differ:
        log.warning(
            f"run {run} was processed with {', '.join(differ)}; hits are merged as they are"
        )


def run_type(runs) -> type:
    """Return the type that run numbers have in merged files; two bytes as long as they fit."""
    return np.uint16 if max(runs) <= np.iinfo(np.uint16).max else np.uint32


def with_run(
    columns: dict[str, HitColumn], run: int, number: int = 0, kind: type = np.uint16
) -> dict[str, HitColumn]:
    """Return the columns of a run's hits with those of merged hits.

    Parameters
    ----------
    columns : dict of HitColumn
        By path below the entry.
    run, number : int
        The run, and its place among those that are merged.
    kind : type
        Of run numbers.
    """
    n = len(columns["trainId"].values)
    return columns | {
        "run": HitColumn(np.full(n, run, kind), {}),
        f"{DETECTOR}/background_index": HitColumn(np.full(n, number, np.uint32), {}),
    }


def choose_hits(columns: dict[str, HitColumn], where: str | None, run: int) -> np.ndarray:
    """Return which hits of a run are wanted, bool (hit,); columns as of `with_run`.

    Raises
    ------
    UsageError
        If the condition cannot be used.
    """
    if where is None:
        return np.ones(len(columns["run"].values), bool)
    named = {
        path.rpartition("/")[2]: signed(column.values)
        for path, column in columns.items()
        if column.values.dtype.kind in "iuf"
    }
    units = {
        path.rpartition("/")[2]: str(column.attributes["units"])
        for path, column in columns.items()
        if "units" in column.attributes
    }
    try:
        return rows_where(where, named, units)
    except UsageError as error:
        raise UsageError(f"run {run}: {error}") from None


def _join(parts: list[dict[str, HitColumn]], rows: list[np.ndarray]) -> dict[str, HitColumn]:
    """Join the columns of all runs; where a run lacks one, its hits have NaN."""
    joined = {}
    for path in dict.fromkeys(path for part in parts for path in part):
        there = [part[path] for part in parts if path in part]
        units = {column.attributes.get("units") for column in there}
        if len(units) > 1:
            log.warning(f"{path} has different units in the runs, and is left out")
            continue
        values = [
            part[path].values
            if path in part
            else np.full(len(row), -1 if path.endswith("/class") else np.nan)
            for part, row in zip(parts, rows, strict=True)
        ]
        joined[path] = HitColumn(np.concatenate(values), there[0].attributes)
    return joined


def _check_geometry(first: DetectorGeometry, other: DetectorGeometry) -> None:
    """Check that pixels lie where those of the first run lie, as seen from the sample."""
    if first.detector != other.detector:
        raise InputError(
            f"{other.description}: hits of the {other.detector.name}, those of {first.description} "
            f"are of the {first.detector.name}"
        )
    (*across, z), (*other_across, other_z) = first.xyz, other.xyz
    if np.isnan(first.distance) != np.isnan(other.distance):
        raise InputError(f"{other.description}: only this or {first.description} has a distance")
    scale = 1.0 if np.isnan(first.distance) else z / other_z
    steps = [b * scale - a for a, b in zip(across, other_across, strict=True)]
    shift = float(np.hypot(*steps).max()) / min(first.detector.pixel_size)
    text = (
        f"{other.description}: pixels are up to {shift:.2f} pixels from where {first.description} "
        "has them"
    )
    if shift > _TOO_FAR:
        raise InputError(f"{text}; process the runs with the same --geometry and --distance")
    if shift > _SHIFT:
        log.warning(f"{text}; the geometry of the latter is used for all runs")
