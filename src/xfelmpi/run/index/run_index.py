"""The run's files → which frame is where, and every problem found on the way.

Several ranks may read the files; one joins what they found.

A frame is named by (trainId, cellId); modules are joined by these ids, never by position. The index
arrays are read as they are in the file, because damage (a train ID of 0, an index beyond the data)
must be seen. EXtra-data, which knows every version of the format, opens only unusual files.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from xfelmpi.core.errors import InputError
from xfelmpi.core.frame_table import FrameTable, ModuleFile
from xfelmpi.core.problems import Problem, without_numbers
from xfelmpi.core.progress import Progress
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.known import detectors_of
from xfelmpi.detectors.module_bits import bits_of
from xfelmpi.io.read_ahead import with_read_ahead
from xfelmpi.run.index.gaps import gap_problems
from xfelmpi.run.index.identity import FileIdentity, settle_identity
from xfelmpi.run.index.merge_modules import (
    ModuleFrames,
    ModuleOrder,
    drop_foreign_trains,
    join_modules,
)
from xfelmpi.run.index.module_file import (
    FileContent,
    ModuleFileReader,
    module_files,
    start_time,
)
from xfelmpi.run.index.suspect_trains import SuspectTrain, suspect_problems

_LEAST_SHARE = 8
"""Files that a rank reads at least, if several index a run."""

_FILES_OF_BEAMLINE = 6
"""As many files of modules take as long to read as one with beamline data."""


@dataclass(frozen=True)
class RunIndex:
    """Everything known of a run before its frames are read.

    Parameters
    ----------
    kind : str
        ``raw`` or ``proc``.
    detector : str
        E.g. ``SPB_DET_AGIPD1M-1``.
    source : str
        Pattern of the sources used, for the log.
    files : tuple of ModuleFile
    frames : FrameTable
    modules_in_run : int
        Bit m set: module m has at least one frame.
    problems : tuple of Problem
    detector_type : Detector
        What kind of detector it is.
    notes : tuple of str
        What the log should say.
    start_time : str
        ISO 8601 with zone, from the files' metadata, or empty.
    proposal : int
        From the files' metadata, 0 if they do not say it.
    listed : ndarray, uint64 (train,)
        All trains that the files list, ascending, used or not.
    recorded : ndarray, uint64 (train,)
        Those of them with frames, used or not.
    """

    kind: str
    detector: str
    source: str
    files: tuple[ModuleFile, ...]
    frames: FrameTable
    modules_in_run: int
    problems: tuple[Problem, ...]
    detector_type: Detector
    notes: tuple[str, ...] = ()
    start_time: str = ""
    proposal: int = 0
    listed: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64), compare=False)
    recorded: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64), compare=False)


def index_run(
    folder: Path,
    kind: str,
    detector: str | None = None,
    trains: tuple[int | None, int | None] = (None, None),
    suspect_trains: str = "include",
) -> RunIndex:
    """Return the index of some trains of a run folder; see `index_files`, `slice_trains`."""
    return slice_trains(index_files(folder, kind, detector, suspect_trains), trains, folder)


def share_of_files(paths: Sequence[Path], rank: int, n_ranks: int, beamline: int = 0) -> list[Path]:
    """Return the files that a rank reads: neighbours, since those of a sequence are alike.

    A rank that reads only a few would save less time than it takes to send what it has found.

    Parameters
    ----------
    paths : sequence of Path
    rank, n_ranks : int
    beamline : int
        Files with beamline data, which rank 0 reads besides if there are several ranks.
    """
    readers = min(n_ranks, -(-len(paths) // _LEAST_SHARE))
    if rank >= readers:
        return []
    besides = _FILES_OF_BEAMLINE * beamline if readers > 1 else 0
    # one file at least tells rank 0 which beamline data are wanted
    first = max(1, (len(paths) + besides) // readers - besides)
    rest, others = len(paths) - first, max(1, readers - 1)
    bounds = [0, *(first + rest * r // others for r in range(readers))]
    return sorted(paths, key=_sequence_and_name)[bounds[rank] : bounds[rank + 1]]


def _sequence_and_name(path: Path) -> tuple[str, str]:
    return path.name.rpartition("-S")[2], path.name


def read_files(
    paths: Sequence[Path], detector: str | None = None, *, quiet: bool = False
) -> dict[Path, FileContent]:
    """Return what files have, read by this rank; most modules' ids are kept once.

    Parameters
    ----------
    paths : sequence of Path
    detector : str, optional
        Which detector's frames are wanted; default: all.
    quiet : bool
        Do not show progress.
    """
    reader, found = ModuleFileReader(detector), {}
    progress = Progress(len(paths), stage="indexing", unit="files", found="")
    # files of one sequence have the same frames, as a rule
    for n, path in enumerate(with_read_ahead(sorted(paths, key=_sequence_and_name)), 1):
        found[path] = reader.read(path)
        if not quiet:
            progress.show([n])
    if not quiet:
        progress.close()
    return found


def index_files(
    folder: Path,
    kind: str,
    detector: str | None = None,
    suspect_trains: str = "include",
    contents: dict[Path, FileContent] | None = None,
) -> RunIndex:
    """Index the frames of a run folder; what modules lack is not among its problems yet.

    Parameters
    ----------
    folder : Path
        E.g. ``proc/r0050``.
    kind : str
        ``proc`` or ``raw``.
    detector : str, optional
        Which detector; default: the one in the run, the first of `DETECTORS` if there are several
        kinds.
    suspect_trains : str
        Whether to ``include`` or ``exclude`` what files flag as suspect.
    contents : dict of Path to FileContent, optional
        What the files have, if they were read before; emptied, to save memory.

    Raises
    ------
    InputError
        If there is no such folder, or no usable frame of a detector in it.
    """
    if contents is None:
        contents = read_files(module_files(folder, kind, detector), detector)
    # all in one folder
    paths = sorted(contents, key=str)
    problems: list[Problem] = []
    sources, proposal = _find_sources(paths, contents, folder, problems)
    detector = _choose_detector(detector, sources, folder, problems)
    exclude = suspect_trains == "exclude"
    about = detectors_of(detector)[0]
    _refuse_raw(folder, kind, about)
    found = _by_module(sources[detector], contents)
    said = _FilesSay(problems=problems)
    modules = _join_files(found, about, said, exclude=exclude)
    drop_foreign_trains(modules, said.files, problems)
    if not any(len(m.key) for m in modules.values()):
        why = _reasons(problems, said.suspects if exclude else ())
        raise InputError(f"{folder}: no usable frame of {detector} in {len(paths)} files{why}")
    frames = join_modules(modules, about.n_modules, problems)
    problems += _unlisted(said.unlisted, frames)
    there = np.isin(np.arange(about.n_modules), frames.segments[:, 0])
    problems += suspect_problems(said.suspects, suspect_trains, *_modules_of_trains(frames))
    example = sources[detector][0][1]
    return RunIndex(
        kind=kind,
        detector=detector,
        source=_any_module(example, about),
        files=tuple(said.files),
        frames=frames,
        modules_in_run=int(bits_of(there)),
        problems=tuple(dict.fromkeys(problems)),
        detector_type=about,
        start_time=start_time(Path(said.files[0].path)),
        proposal=proposal,
        listed=np.unique(np.concatenate(said.listed)),
        recorded=np.unique(np.concatenate(said.recorded)),
    )


def _any_module(source: str, detector: Detector) -> str:
    """Return the pattern of all modules' sources, by one of them."""
    number = re.search(f"{detector.source}$", source)
    return f"{source[: number.start(1)]}*{source[number.end(1) :]}" if number else source


_Source = tuple[Path, str, int]
"""File, source, and module."""


def _find_sources(paths, contents, folder, problems) -> tuple[dict[str, list[_Source]], int]:
    """Return the sources of this run by detector, and the proposal."""
    found: dict[str, list[_Source]] = {}
    identities: dict[Path, FileIdentity] = {}
    for path in paths:
        content = contents[path]
        problems += content.problems
        if content.identity is not None:
            identities[path] = content.identity
        for prefix, source, module in content.sources:
            found.setdefault(prefix, []).append((path, source, module))
    own, proposal = settle_identity(identities, folder, problems)
    sources = {d: [f for f in files if f[0] in own] for d, files in found.items()}
    return {d: files for d, files in sources.items() if files}, proposal


def _refuse_raw(folder: Path, kind: str, detector: Detector) -> None:
    if kind == "raw" and not detector.raw_planes:
        raise InputError(
            f"{folder}: raw data of the {detector.name}, whose calibration is not known here; "
            "expected corrected data (--data proc)"
        )


def _reasons(problems: list[Problem], suspects) -> str:
    """Say why there is no frame: the commonest reason, and how many files share it."""
    why = [(without_numbers(p.what), p) for p in problems if p.file]
    if not why:
        return f"; {len(suspects)} trains are suspect and excluded" if suspects else ""
    files: dict[str, set[str]] = {}
    for what, problem in why:
        files.setdefault(what, set()).add(problem.file)
    commonest = max(files, key=lambda what: len(files[what]))
    first = next(p for what, p in why if what == commonest)
    n = len(files[commonest])
    return f": {first.file}: {first.what}" + (f" (and {n - 1} files more alike)" if n > 1 else "")


def _modules_of_trains(frames: FrameTable) -> tuple[np.ndarray, np.ndarray]:
    """Return the trains, ascending, and which modules have frames of them, a bit for each."""
    trains, first = np.unique(frames.train_id, return_index=True)
    there = bits_of(frames.files >= 0)[frames.group]
    return trains, np.bitwise_or.reduceat(there, first)


def _by_module(sources: list[_Source], contents: dict[Path, FileContent]):
    """Yield file, source, module, and what there is of it, which is then no longer kept."""
    for path, source, module in sorted(sources, key=lambda found: found[2]):
        yield path, source, module, contents[path].by_source.pop(source)


def _unlisted(unlisted: list[tuple[np.ndarray, np.ndarray]], frames: FrameTable) -> list[Problem]:
    """Return a problem if files have frames that no module's INDEX names."""
    pairs = [np.stack(pair, axis=1) for pair in unlisted if len(pair[0])]
    if not pairs:
        return []
    there = set(zip(frames.train_id.tolist(), frames.cell_id.tolist(), strict=True))
    found = np.unique(np.concatenate(pairs), axis=0).tolist()
    lost = [(train, cell) for train, cell in found if (train, cell) not in there]
    if not lost:
        return []
    trains = sorted({train for train, _ in lost})
    what = f"{len(lost)} frames in {len(trains)} trains are in the files, but not in their INDEX"
    return [Problem(what, "", -1, trains[0], "frames left out")]


@dataclass(frozen=True)
class _FilesSay:
    """What the files of a run say besides their frames, collected file by file.

    Parameters
    ----------
    problems : list of Problem
    files : list of ModuleFile
        Those that are used.
    suspects : list of SuspectTrain
    listed, recorded : list of ndarray, uint64 (train,)
        Trains that a file lists, used or not, and those of them with frames.
    unlisted : list of (ndarray, ndarray)
        Train and cell of the frames that a file's INDEX does not name.
    """

    problems: list[Problem]
    files: list[ModuleFile] = field(default_factory=list)
    suspects: list[SuspectTrain] = field(default_factory=list)
    listed: list[np.ndarray] = field(default_factory=list)
    recorded: list[np.ndarray] = field(default_factory=list)
    unlisted: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)


def _join_files(
    found, detector: Detector, said: _FilesSay, *, exclude: bool
) -> dict[int, ModuleFrames]:
    """Put the files of every module together: only one module is in memory as in its files.

    Parameters
    ----------
    found : iterable
        Of `_by_module`.
    detector : Detector
    said : _FilesSay
        Gets what the files say besides their frames.
    exclude : bool
        Leave out frames of trains that their file flags as suspect.
    """
    files = said.files
    order = ModuleOrder(files, said.problems)
    for module, group in groupby(found, key=lambda found: found[2]):
        parts = []
        for path, source, _, content in group:
            if content.error is not None:
                raise content.error
            said.problems.extend(content.problems)
            new = content.suspects
            said.suspects.extend(new)
            said.unlisted.append(content.unlisted)
            if content.frames is not None:
                frames = content.frames
                said.listed.append(content.trains)
                said.recorded.append(content.recorded)
                if exclude and new:
                    frames = frames.keep(~np.isin(frames.train, [s.train for s in new]))
                dataset = f"INSTRUMENT/{source}/{detector.datasets.data}"
                parts.append((len(files), frames))
                files.append(ModuleFile(str(path), module, dataset, *content.about))
        if sum(len(frames.train) for _, frames in parts):
            order.add(module, parts)
    return order.modules


def _choose_detector(wanted, sources, folder, problems) -> str:
    if not sources:
        raise InputError(
            f"{folder}: none of its detector files can be used{_reasons(problems, ())}"
        )
    if wanted is None and len(sources) > 1:
        raise InputError(
            f"{folder}: several detectors: {', '.join(sorted(sources))}; choose one with --detector"
        )
    if wanted is not None and wanted not in sources:
        raise InputError(f"{folder}: no detector {wanted}; found {', '.join(sorted(sources))}")
    return wanted or next(iter(sources))


def slice_trains(index: RunIndex, trains: tuple[int | None, int | None], folder: Path) -> RunIndex:
    """Return the index of some trains of a run, with what modules lack there among its problems.

    Which modules are in the run, and so which frames are complete, does not depend on the slice.

    Parameters
    ----------
    index : RunIndex
        Of the whole run.
    trains : (int or None, int or None)
        Slice of the trains, by position.
    folder : Path
        Of the run, for the message.

    Raises
    ------
    InputError
        If there are none.
    """
    frames = index.frames
    if trains != (None, None):
        all_trains = np.unique(frames.train_id)
        wanted = all_trains[slice(*trains)]
        if not len(wanted):
            raise InputError(
                f"{folder}: --trains {trains[0] or 0}:{trains[1] or ''} selects none of its "
                f"{len(all_trains)} trains"
            )
        first, end = np.searchsorted(frames.train_id, [wanted[0], wanted[-1] + np.uint64(1)])
        frames = frames[first:end]
    problems = (*index.problems, *gap_problems(frames, index.modules_in_run))
    return replace(index, frames=frames, problems=tuple(dict.fromkeys(problems)))
