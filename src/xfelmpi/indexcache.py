"""The index of a run, kept beside the outputs: the second job on a run need not open its files.

What is kept holds as long as the folder has the same files with the same sizes and times. Anything
odd about the cache means that the run is indexed again; it is never an error.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np

from xfelmpi import __version__
from xfelmpi.detector import N_MODULES
from xfelmpi.errors import OutputError
from xfelmpi.frametable import FrameTable, ModuleFile
from xfelmpi.modulefile import FILE_LEFT_OUT, module_files
from xfelmpi.outfile import make_folder, make_readable, serial_file
from xfelmpi.records import Problem
from xfelmpi.runindex import RunIndex, index_files, slice_trains
from xfelmpi.stopping import plan

_TEXTS = ("kind", "detector", "source", "start_time")


def cached_index(
    path: Path,
    folder: Path,
    kind: str,
    detector: str | None,
    trains: tuple[int | None, int | None],
    suspect_trains: str = "include",
) -> RunIndex:
    """Return the index of a run from its cache, or index the run and write the cache; one rank.

    Parameters
    ----------
    path : Path
        Of the cache.
    folder, kind, detector, trains, suspect_trains
        As for `index_run`.

    Raises
    ------
    InputError
        As `index_run` does.
    """
    key = _key(folder, kind, detector, suspect_trains)
    index = _load(path, key)
    if index is None:
        index = index_files(folder, kind, detector, suspect_trains)
        if not any(problem.action == FILE_LEFT_OUT for problem in index.problems):
            # what kept a file from being opened may not be the file
            _save(path, key, index)
    return slice_trains(index, trains, folder)


def _key(folder: Path, kind: str, detector: str | None, suspect_trains: str) -> str:
    """Return what must be the same for a cached index to hold."""
    files = []
    for file in module_files(folder, kind):
        try:
            about = file.stat()
        except OSError as error:  # a link to nowhere: the index will name it
            files.append((file.name, str(error), 0))
            continue
        files.append((file.name, about.st_size, about.st_mtime_ns))
    about = [*ModuleFile.__dataclass_fields__]
    chosen = (str(folder), kind, detector, suspect_trains)
    return json.dumps([__version__, about, *chosen, files])


def _load(path: Path, key: str) -> RunIndex | None:
    try:
        with h5py.File(path, "r") as file:
            if file["key"][()] != key.encode():
                return None
            table = {name: file[name][()] for name in ("per_train", "train", "cell", "pulse")}
            segments = file["segments"][()]
            about = json.loads(file["about"][()])
    except (OSError, KeyError, ValueError, TypeError, RuntimeError):
        return None
    n = len(table["cell"])
    return RunIndex(
        **{name: about[name] for name in _TEXTS},
        files=tuple(ModuleFile(**f) for f in about["files"]),
        frames=FrameTable(
            np.repeat(table["train"], table["per_train"]),
            table["cell"],
            table["pulse"],
            *_places(segments, n),
        ),
        modules_in_run=about["modules_in_run"],
        problems=tuple(Problem(**p) for p in about["problems"]),
        notes=(*about["notes"], f"index of an earlier job: {path}"),
    )


def _save(path: Path, key: str, index: RunIndex) -> None:
    frames = index.frames
    train, per_train = np.unique(frames.train_id, return_counts=True)
    about = {name: getattr(index, name) for name in (*_TEXTS, "modules_in_run", "notes")}
    about["files"] = [asdict(f) for f in index.files]
    about["problems"] = [asdict(p) for p in index.problems]
    arrays = {
        "train": train,
        "per_train": per_train,
        "cell": frames.cell_id,
        "pulse": frames.pulse_id,
        "segments": _segments(frames),
    }
    # a name of its own: jobs on the same run may write at the same time
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    plan.unfinished.add(part)
    try:
        make_folder(path.parent)
        with serial_file(part) as file:
            for name, array in arrays.items():
                # a checksum, since a wrong index would mean wrong frames
                file.create_dataset(name, data=array, chunks=True, fletcher32=True)
            file["about"] = json.dumps(about)
            file["key"] = key
        make_readable(part)
        part.replace(path)
    except (OSError, OutputError):
        with suppress(OSError):
            part.unlink()


def _segments(frames: FrameTable) -> np.ndarray:
    """Return the runs of frames that stand one after the other in a file, int64 (run, 5).

    Columns: module, first frame, end, file, row of the first.
    """
    found = []
    for module in range(N_MODULES):
        file, row = frames.file[:, module], frames.row[:, module]
        breaks = (np.diff(file) != 0) | (np.diff(row) != 1)
        first = np.concatenate([[0], np.flatnonzero(breaks) + 1])
        end = np.append(first[1:], len(file))
        columns = (np.full(len(first), module), first, end, file[first], row[first])
        found.append(np.stack(columns, axis=1).astype(np.int64)[file[first] >= 0])
    return np.concatenate(found)


def _places(segments: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return file and row of every frame and module, int32 (frame, 16) each, from `_segments`."""
    file = np.full((n, N_MODULES), -1, np.int32)
    row = np.zeros((n, N_MODULES), np.int32)
    for module, first, end, number, start in segments.tolist():
        file[first:end, module] = number
        row[first:end, module] = np.arange(start, start + end - first)
    return file, row
