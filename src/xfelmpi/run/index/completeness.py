"""Whether the corrected run has all trains that raw and beamline data have.

Correction writes one file after the other: a run that is read too early looks like a shorter one.
Only the trains of ``INDEX`` are read, of the files of one module and of one data aggregator.
"""

import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.core.errors import InputError
from xfelmpi.core.frame_table import FARTHEST_TRAIN
from xfelmpi.core.log import plural
from xfelmpi.core.paths import Experiment
from xfelmpi.core.problems import Problem
from xfelmpi.detectors.module_bits import bits_of
from xfelmpi.io.input_file import guarded_call, open_hdf5
from xfelmpi.run.arrival import (
    REDU_FILE,
    Listing,
    list_folder,
    makes_redu,
    missing_files,
    trains_with_frames,
)
from xfelmpi.run.index.identity import identity
from xfelmpi.run.index.module_file import module_files
from xfelmpi.run.index.run_index import RunIndex
from xfelmpi.run.machine.control_data import machine_files
from xfelmpi.run.train_index import listed_trains

_PART = re.compile(r"-R\d{4,}-([A-Z]+\d*)-S\d+\.h5")

_OTHER_STARTS = 0.01
"""Share of the trains that beamline data may have more: they start and stop on their own."""


def unfinished_correction(experiment: Experiment, index: RunIndex) -> list[Problem]:
    """Return a problem if a corrected run lacks trains that its raw run or beamline data have.

    Trains without frames count as lacking if the raw run has frames of them, or if they are at the
    end of the run: at its begin the detector may not have been triggered yet.

    Files that cannot be read, or are of another run, say nothing here.

    Parameters
    ----------
    experiment : Experiment
    index : RunIndex
        Of the corrected run.
    """
    try:
        raw = module_files(experiment.run_folder("raw"), "raw", index.detector)
    except InputError:
        raw = []
    beamline: list[Path] = []
    for kind in ("raw", "proc"):
        try:
            beamline += machine_files(experiment.run_folder(kind))
        except OSError:
            continue

    def with_frames(file: h5py.File) -> np.ndarray:
        return trains_with_frames(file, index.detector)

    # a reduced run may have trains of which no frame is left
    last_recorded = index.recorded.max(initial=0)
    begun = np.union1d(index.recorded, index.listed[index.listed < last_recorded])
    for paths, read, have, allowed in (
        (raw, with_frames, begun, 0.0),
        (beamline, listed_trains, begun, _OTHER_STARTS),
    ):
        expected, last = _trains(_fullest_part(paths), read, experiment.run)
        middle = index.listed[len(index.listed) // 2].astype(np.int64)
        expected = expected[np.abs(expected.astype(np.int64) - middle) < FARTHEST_TRAIN]
        missing = np.setdiff1d(expected, have)
        if len(missing) > allowed * len(expected):
            n = len(expected) - len(missing)
            what = f"proc has {n} of {len(expected)} trains: is correction finished?"
            action = "the others are not in the outputs"
            return [Problem(what, last, -1, int(missing[0]), action)]
    return []


def missing_parts(
    experiment: Experiment, kind: str, index: RunIndex, detector: str | None = None
) -> list[Problem]:
    """Return a problem if a run lacks files, by the names of those that are there.

    A corrected run must have what the raw run has, and a ``REDU`` file if runs before it have one;
    no sequence may be missing before the last one.
    Without a raw run, some modules may have more sequences than others: what tells is that a module
    lacks the last train.

    Parameters
    ----------
    experiment : Experiment
    kind : str
        ``proc`` or ``raw``.
    index : RunIndex
    detector : str, optional
        The one that is asked for.
    """
    have = list_folder(experiment.run_folder(kind), kind, detector)
    raw = list_folder(experiment.run_folder("raw"), "raw", detector) if kind == "proc" else None
    redu = kind == "proc" and makes_redu(experiment)
    reference = raw if raw and raw.sequences else None
    gaps = _sequences_that_nobody_has(have)
    reason = missing_files(have, reference, redu=redu)
    if not reason or (reference is None and reason != REDU_FILE and not _lacks_the_end(index)):
        return gaps
    what = f"run is not complete: it lacks {reason}; is it still being written?"
    return [*gaps, Problem(what, "", -1, 0, "the others are used")]


def _sequences_that_nobody_has(have: Listing) -> list[Problem]:
    """Return a problem if the numbers of a run's sequences have gaps; they count from 0."""
    there = frozenset().union(*have.sequences.values())
    gaps = sorted(set(range(max(there, default=-1))) - there)
    if not gaps:
        return []
    named = ", ".join(map(str, gaps[:5])) + (" …" if len(gaps) > 5 else "")
    what = f"no module has a file of {plural(len(gaps), 'sequence')} {named}"
    last = f"the last one is {max(there)}"
    return [Problem(f"{what}; {last}", "", -1, 0, "the others are used")]


def _lacks_the_end(index: RunIndex) -> bool:
    """Return whether a module of the run has no frame of the last train."""
    frames = index.frames
    there = (frames[frames.train_id == frames.train_id[-1]].file >= 0).any(axis=0)
    return bool(index.modules_in_run & ~int(bits_of(there)))


def _fullest_part(paths: list[Path]) -> list[Path]:
    """Return the files of the module or aggregator that has the most of them."""
    parts: dict[str, list[Path]] = {}
    for path in paths:
        match = _PART.search(path.name)
        parts.setdefault(match[1] if match else "", []).append(path)
    return max(parts.values(), key=len, default=[])


def _trains(
    paths: list[Path], read: Callable[[h5py.File], np.ndarray], run: int
) -> tuple[np.ndarray, str]:
    """Return all trains that files have, ascending, and the name of the last file."""
    found, last = [np.zeros(0, np.uint64)], ""
    for path in paths:
        try:
            found.append(guarded_call(path, _of_file, path, read, run))
            last = path.name
        # HDF5 raises almost any class on damaged files; who needs their data names them
        except Exception:
            continue
    trains = np.unique(np.concatenate(found))
    return trains[(trains > 0) & (trains < 1 << 62)], last


def _of_file(path: Path, read: Callable[[h5py.File], np.ndarray], run: int) -> np.ndarray:
    with open_hdf5(path) as file:
        if identity(file, path).run not in (0, run):
            return np.zeros(0, np.uint64)
        return read(file)
