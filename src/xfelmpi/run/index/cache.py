"""The index of a run, kept beside the outputs: the second job on a run need not open its files.

What is kept holds as long as the folder has the same files with the same sizes and times.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from xfelmpi.core.frame_table import FrameTable, ModuleFile
from xfelmpi.core.problems import Problem
from xfelmpi.detectors.known import detectors_of
from xfelmpi.io import cache_file
from xfelmpi.run.index.identity import FILE_LEFT_OUT
from xfelmpi.run.index.module_file import FileContent, module_files
from xfelmpi.run.index.run_index import RunIndex, index_files, slice_trains

SCHEMA = 7
"""Of what is kept: another number for every change of its content, or of how it is found."""

_TEXTS = ("kind", "detector", "source", "start_time", "proposal")
_ARRAYS = ("per_train", "train", "cell", "pulse", "segments", "listed", "recorded")


@dataclass(frozen=True)
class KeptIndex:
    """What there is of a run's index before its files are opened.

    Parameters
    ----------
    key : str
        What must be the same for an index to hold.
    index : RunIndex or None
        Of an earlier job, if it holds.
    files : tuple of Path
        To read, if there is none.
    """

    key: str
    index: RunIndex | None
    files: tuple[Path, ...]


def look_for_index(
    path: Path, folder: Path, kind: str, detector: str | None, suspect_trains: str = "include"
) -> KeptIndex:
    """Return the index that an earlier job kept, or what to read; parameters as `cached_index`."""
    files = module_files(folder, kind, detector)
    key = _key(folder, kind, detector, suspect_trains, files)
    index = _load(path, key)
    return KeptIndex(key, index, () if index else tuple(files))


def cached_index(
    path: Path,
    folder: Path,
    kind: str,
    detector: str | None,
    trains: tuple[int | None, int | None],
    suspect_trains: str = "include",
    *,
    kept: KeptIndex | None = None,
    contents: dict[Path, FileContent] | None = None,
) -> RunIndex:
    """Return the index of a run from its cache, or index the run and write the cache; one rank.

    Parameters
    ----------
    path : Path
        Of the cache.
    folder, kind, detector, trains, suspect_trains
        As for `index_run`.
    kept : KeptIndex, optional
        If it was looked for before.
    contents : dict of Path to FileContent, optional
        What its files have, if they were read since.

    Raises
    ------
    InputError
        As `index_run` does.
    """
    kept = kept or look_for_index(path, folder, kind, detector, suspect_trains)
    key, index = kept.key, kept.index
    if index is None:
        index = index_files(folder, kind, detector, suspect_trains, contents)
        if not any(problem.action == FILE_LEFT_OUT for problem in index.problems):
            # what kept a file from being opened may not be the file
            _save(path, key, index)
    return slice_trains(index, trains, folder)


def _key(folder: Path, kind: str, detector: str | None, suspect_trains: str, paths) -> str:
    """Return what must be the same for a cached index to hold."""
    files = cache_file.stamps_of_files(paths)
    about = [*ModuleFile.__dataclass_fields__]
    chosen = (str(folder), kind, detector, suspect_trains)
    return json.dumps([SCHEMA, about, *chosen, files])


def _load(path: Path, key: str) -> RunIndex | None:
    return cache_file.load(path, key, _ARRAYS, lambda table, about: _index(path, table, about))


def _index(path: Path, table: dict[str, np.ndarray], about: dict) -> RunIndex:
    detector = detectors_of(about["detector"])[0]
    return RunIndex(
        **{name: about[name] for name in _TEXTS},
        files=tuple(ModuleFile(**f) for f in about["files"]),
        frames=FrameTable.of_segments(
            np.repeat(table["train"], table["per_train"]),
            table["cell"],
            table["pulse"],
            table["segments"],
            detector.n_modules,
        ),
        modules_in_run=about["modules_in_run"],
        detector_type=detector,
        problems=tuple(Problem(**p) for p in about["problems"]),
        notes=(*about["notes"], f"index of an earlier job: {path}"),
        listed=table["listed"],
        recorded=table["recorded"],
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
        "segments": frames.segments,
        "listed": index.listed,
        "recorded": index.recorded,
    }
    cache_file.save(path, key, arrays, about)
