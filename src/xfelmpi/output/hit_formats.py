"""The output formats of hits by name, and the loop that writes all of them side by side."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.core import fault_injection
from xfelmpi.core.config.parts import OutputSettings
from xfelmpi.core.errors import InputError, UsageError
from xfelmpi.core.log import log
from xfelmpi.core.paths import Experiment, MergedFiles
from xfelmpi.core.plugins import blame, load_named, load_object
from xfelmpi.core.progress import Progress
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.io.checked import checked_attribute
from xfelmpi.io.input_file import input_file
from xfelmpi.output.hit_writer import HitBlock, HitHeader, HitsToWrite, HitWriter

GROUP = "xfelmpi.hit_writers"
"""Entry points in which other packages name their formats."""

EVERY_JOB = {
    "cxi": "xfelmpi.output.cxi.hit_writer:CxiWriter",
    "emc": "xfelmpi.output.dragonfly.hit_writer:DragonflyWriter",
}
"""Formats that every job writes, in the order of opening: name → module:class."""

ON_REQUEST: dict[str, str] = {}
"""Formats for ``--also-write``, likewise."""


def hit_formats(also_write: tuple[str, ...]) -> dict[str, type[HitWriter]]:
    """Return the formats that a job writes, by name.

    Parameters
    ----------
    also_write : tuple of str
        Those on request.

    Raises
    ------
    UsageError
        If ``--also-write`` names one that is unknown, cannot be loaded, or is no format.
    """
    always = {name: load_object(place) for name, place in EVERY_JOB.items()}
    if twice := [name for name in also_write if name in always]:
        raise UsageError(f"--also-write {twice[0]}: every job writes that")
    asked_for = load_named(also_write, ON_REQUEST, GROUP, "--also-write")
    for name, cls in asked_for.items():
        if HitWriter not in getattr(cls, "__mro__", ()):
            raise UsageError(f"--also-write {name}: {cls!r:.80} is no subclass of HitWriter")
    return always | asked_for


def hit_paths(settings: OutputSettings, files: Experiment | MergedFiles) -> list[Path]:
    """Return the final names of all files that the formats may write.

    Raises
    ------
    UsageError
        As `hit_formats`, and if one that is asked for would write a file of another one.
    """
    of_job = [getattr(files, name, None) for name in ("events", "powder")]
    taken = dict.fromkeys(of_job, "of every job")
    for name, cls in hit_formats(settings.also_write).items():
        with _blamed(name):
            paths = list(cls.paths(files))
        for path in paths:
            if not isinstance(path, Path):
                raise UsageError(f"--also-write {name}: paths has {path!r:.80}, expected a Path")
            if path in taken:
                raise UsageError(f"--also-write {name}: {path} is a file {taken[path]}")
        taken |= dict.fromkeys(paths, f"of {name}")
    return [path for path in taken if path not in of_job]


def obsolete_hit_files(
    settings: OutputSettings, files: Experiment | MergedFiles, earlier: Path, written: list[Path]
) -> list[Path]:
    """Return what the formats of this job and of an earlier one may have left; one rank.

    Parameters
    ----------
    settings : OutputSettings
    files : Experiment or MergedFiles
    earlier : Path
        An output of the earlier job, which names its formats, if it is there.
    written : list of Path
        What this job has written.
    """
    paths = hit_paths(settings, files)
    for name in _formats_of(earlier):
        try:
            # only what that job has used is loaded
            (cls,) = load_named([name], ON_REQUEST, GROUP, "--also-write").values()
            paths += cls.paths(files)
        # other people's code, and all outputs are complete
        except Exception as error:
            log.warning("files that an earlier job has written may stay: %s", error)
    return [path for path in dict.fromkeys(paths) if path not in written]


def _formats_of(path: Path) -> list[str]:
    """Return the formats on request of the job that wrote an output; none if it does not tell."""
    if not path.exists():
        return []
    with suppress(InputError, KeyError, TypeError, ValueError), input_file(path, "an output") as f:
        named = json.loads(checked_attribute(f, "configuration", str))["also_write"]
        return [name for name in named if isinstance(name, str)]
    return []


def check_formats(
    comm, settings: OutputSettings, geometry: DetectorGeometry | None, wavelength: np.ndarray
) -> tuple[str, ...]:
    """Check, before frames are read, that all files can be made; see `HitWriter.check`.

    Raises
    ------
    UsageError
        As `hit_formats`, on all ranks; and what the writers raise.
    """
    # one that is unknown on all ranks is one message
    mpi.run_on_root(comm, lambda: hit_formats(settings.also_write) and None)
    lines: list[str] = []
    for name, cls in hit_formats(settings.also_write).items():
        with _blamed(name):
            lines += cls.check(comm, settings, geometry, wavelength)
    return tuple(lines)


def _blamed(name: str) -> AbstractContextManager:
    """Return what a format is called in: errors in those of others name it."""
    return (
        nullcontext() if name in EVERY_JOB or name in ON_REQUEST else blame(f"--also-write {name}")
    )


def finish_formats(
    settings: OutputSettings, files: Experiment | MergedFiles, written: list[Path]
) -> None:
    """Let every format do what needs its files under their final names; one rank."""
    for name, cls in hit_formats(settings.also_write).items():
        with _blamed(name):
            cls.published(settings, files, written)


class HitOutputs:
    """The files of all formats; all methods are collective.

    Parameters
    ----------
    hits : HitsToWrite
    """

    def __init__(self, hits: HitsToWrite):
        self._hits = hits
        self._writers: dict[str, HitWriter] = {}
        for name, cls in hit_formats(hits.settings.also_write).items():
            fault_injection.inject(hits.comm, name)
            if cls.without_hits or hits.sets["hits"].n_frames:
                with _blamed(name):
                    self._writers[name] = cls(hits)

    def write(self, kind: str, blocks: Iterator[SparseFrames]) -> None:
        """Stream this rank's frames of one kind into all files that take them.

        Without any such file the blocks are consumed all the same.
        """
        comm, frame_set = self._hits.comm, self._hits.sets.get(kind)
        writers = {n: writer for n, writer in self._writers.items() if kind in writer.takes}
        if frame_set is None or not writers:
            for _ in blocks:
                pass
            return
        progress = Progress(frame_set.n_frames, stage="writing", unit=kind, found="")
        board = mpi.ProgressBoard(comm, progress.show, n_values=1)
        written = 0
        # all ranks write as often as the one with most blocks
        while mpi.allreduce_max(comm, (frames := next(blocks, None)) is not None):
            frames = frames or SparseFrames.empty()
            rows = slice(written, written + len(frames))
            block = HitBlock(kind, frames, rows, frame_set.cell_id[rows])
            written += len(frames)
            board.update(written)
            fault_injection.inject(comm, kind)
            for name, writer in writers.items():
                with _blamed(name):
                    writer.write(block)
        board.finish()
        progress.close()

    def close(self, header: HitHeader | None) -> list[Path]:
        """Complete all files; return their final names in the order of the registry."""
        written: list[list[Path]] = []
        for name, writer in reversed(self._writers.items()):
            with _blamed(name):
                paths = list(writer.close(header))
                if wrong := [p for p in paths if p not in writer.paths(self._hits.files)]:
                    raise UsageError(
                        f"--also-write {name}: close returned {wrong[0]!r:.80}, which is none of "
                        "its paths"
                    )
            written.append(paths)
        return [path for paths in reversed(written) for path in paths]
