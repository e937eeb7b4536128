"""Events and powder file of a patched run, written by one rank."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np

from xfelmpi.core.errors import InputError
from xfelmpi.core.event_table import AddedColumn, missing
from xfelmpi.core.paths import Experiment
from xfelmpi.io.checked import checked_array
from xfelmpi.io.input_file import finished_file
from xfelmpi.io.output_file import cannot_write, serial_file
from xfelmpi.io.partial_file import begin_partial, create_new
from xfelmpi.mpi import run_on_root
from xfelmpi.output.powder import write_powder
from xfelmpi.reduction.background import mean_background
from xfelmpi.workflows.patch.finished_set import FinishedSet, analysis_of

_SUFFIXES = ("", "_hits", "_misses", "_dark")


def write_run_files(
    comm,
    experiment: Experiment,
    finished: FinishedSet | None,
    attributes: dict,
    sums: dict[str, dict[str, np.ndarray]],
    analysed: list[AddedColumn],
    warnings: tuple[str, ...],
) -> None:
    """Write events and powder file under their temporary names; collective.

    Parameters
    ----------
    comm : Intracomm
    experiment : Experiment
    finished : FinishedSet or None
        On rank 0.
    attributes : dict
        Root attributes.
    sums : dict of dict of ndarray
        For hits and misses that the CXI file has, columns of the events file anew, (frame,).
    analysed : list of AddedColumn
        Columns of analyses anew, of all hits.
    warnings : tuple of str
        Of the output formats.
    """
    run_on_root(
        comm, lambda: _write_events(experiment, finished, attributes, sums, analysed, warnings)
    )
    powder = run_on_root(comm, lambda: _powder(experiment, finished))
    frame = finished.detector.frame_shape if finished else None
    write_powder(comm, experiment.powder, attributes, powder, frame)


def without_lost(
    experiment: Experiment, finished: FinishedSet, sums: dict[str, tuple[np.ndarray, np.ndarray]]
) -> FinishedSet:
    """Return a set whose powders lose what its frames have lost by a mask per cell; one rank.

    The background follows, as the mean of the frames that are left.

    Parameters
    ----------
    experiment : Experiment
    finished : FinishedSet
    sums : dict of (ndarray, ndarray)
        For hits, and misses that the CXI file has: photons, and in how many frames a pixel is good,
        with that mask, int64 (pixel,).

    Raises
    ------
    InputError
        If the powder file is not that of the frames.
    """
    frame, lost = finished.detector.frame_shape, {}
    with finished_file(experiment.powder, "a powder file") as file:
        for kind, (photons, good) in sums.items():
            lost[f"_{kind}"] = (
                _lost(file, f"powder_{kind}", np.uint64, photons.reshape(frame)),
                _lost(file, f"good_frames_{kind}", np.uint32, good.reshape(frame)),
            )
    # hits and misses are parts of all
    lost[""] = tuple(sum(parts[1:], parts[0]) for parts in zip(*lost.values(), strict=True))
    finished = replace(finished, lost=lost)
    powder = _powder(experiment, finished)
    left_out = [powder[name] for name in ("_hits", "_dark") if name in powder]
    mean = mean_background(powder[""], *left_out)
    header = replace(
        finished.header,
        powder=finished.header.powder - lost[""][0],
        background=np.where(lost[""][1] > 0, mean, finished.header.background),
    )
    return replace(finished, header=header)


def _lost(file, name: str, dtype: type, new: np.ndarray) -> np.ndarray:
    old = checked_array(file, name, dtype, new.shape)
    new = new.astype(dtype)
    if (old < new).any():
        raise InputError(f"{file.filename}: {name} has less than the frames of the CXI file")
    return old - new


def _powder(experiment: Experiment, finished: FinishedSet) -> dict[str, tuple]:
    """Return the sums of the powder file without the newly bad pixels; see `write_powder`."""
    frame, sums = finished.detector.frame_shape, {}
    bad = finished.bad.reshape(frame)
    with finished_file(experiment.powder, "a powder file") as file:
        for suffix in (s for s in _SUFFIXES if f"powder{s}" in file or s != "_dark"):
            photons = checked_array(file, f"powder{suffix}", np.uint64, frame)
            good = checked_array(file, f"good_frames{suffix}", np.uint32, frame)
            for values, lost in zip((photons, good), finished.lost.get(suffix, ()), strict=False):
                values -= lost
            photons[bad] = good[bad] = 0
            sums[suffix] = photons, good
    return sums


def _write_events(experiment, finished: FinishedSet, attributes, sums, analysed, warnings) -> None:
    """Copy the events file; rows of frames that the CXI file has get their sums anew."""
    path, part = experiment.events, begin_partial(experiment.events)
    try:
        with open(path, "rb") as old, os.fdopen(create_new(part), "wb") as new:
            shutil.copyfileobj(old, new, 1 << 20)
    except OSError as error:
        raise cannot_write(part, error) from None
    events = finished.run.events
    rows = {"hits": np.flatnonzero(events.is_hit), "misses": np.flatnonzero(events.is_miss)}
    before = json.loads(finished.run.attributes.get("warnings", "[]"))
    said = [text for text in before if text not in finished.obsolete]
    said += [text for text in (*finished.warnings, *warnings) if text not in said]
    with serial_file(part, "r+") as file:
        file.attrs.update(attributes)
        file.attrs["warnings"] = json.dumps(said)
        if finished.bad.any() or finished.cell_mask is not None:
            file.attrs["mask_patched"] = True
        for kind, columns in sums.items():
            for name, values in columns.items():
                _put(file[name], rows[kind], values)
        for name in [name for name, item in file.items() if analysis_of(item.attrs)]:
            # classes leave them as they are
            if not finished.classes:
                del file[name]
        for column in analysed:
            dtype = column.values.dtype
            values = np.full(len(events.is_hit), missing(dtype), dtype)
            values[rows["hits"]] = column.values
            if column.name in file:
                del file[column.name]
            file[column.name] = values
            file[column.name].attrs.update(column.attributes())


def _put(dataset, rows: np.ndarray, values: np.ndarray) -> None:
    # rows of a run are few enough to be rewritten as a whole
    column = dataset[()]
    column[rows] = values
    dataset[...] = column
