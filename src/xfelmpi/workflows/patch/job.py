"""Finished files with another geometry, distance, mask or sizes: written anew from the CXI file.

Nothing of the run is read. Frames pass from the old CXI file through all formats of hits, as in the
main job; scores and decisions stay.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from xfelmpi import mpi
from xfelmpi.analysis.hit_analysis import (
    SIZES,
    AnalysedHits,
    AnalysedRun,
    analyse_hits,
    hit_analyses,
)
from xfelmpi.calibration.mask_files import MaskFile
from xfelmpi.calibration.pixel_mask import Masks, load_mask
from xfelmpi.core.config.options import Config
from xfelmpi.core.config.parts import AnalysisSettings, OutputSettings
from xfelmpi.core.errors import EXIT_COMPLETE
from xfelmpi.core.event_table import AddedColumn, missing
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.log import log, plural
from xfelmpi.core.paths import Experiment, MergedFiles
from xfelmpi.core.plugins import load_object
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.module_bits import modules_of
from xfelmpi.detectors.pixel_bits import unpack
from xfelmpi.io.publish import check_writable
from xfelmpi.output.beam import beam_wavelength
from xfelmpi.output.cxi.reader import read_cell_backgrounds, stream_masked
from xfelmpi.output.hit_columns import DETECTOR, INSTRUMENT, SOURCE
from xfelmpi.output.hit_formats import HitOutputs, check_formats, finish_formats, hit_paths
from xfelmpi.output.hit_writer import FrameColumn, FrameSet, HitHeader, HitsToWrite
from xfelmpi.output.provenance import describe_used, provenance
from xfelmpi.output.publishing import publish_together
from xfelmpi.reduction.cell_background import CellBackground
from xfelmpi.workflows.patch.finished_set import Change, FinishedSet, analysis_of, read_set
from xfelmpi.workflows.patch.run_files import without_lost, write_run_files
from xfelmpi.workflows.report_stage import report_run

BLOCK_FRAMES = 8
"""Frames of a block, read dense: 1 or 2 MiB each."""

_KEPT = ("run", "proposal", "input_files", "where", "scores_by")
"""Attributes that stay: the data are still of the same run."""

_ENTRIES = {"hits": "entry_1", "misses": "entry_2"}
_WAVELENGTH, _WEIGHTING = f"{SOURCE}/photon_wavelength", f"{DETECTOR}/background_weighting"
_LIT, _PHOTONS = f"{DETECTOR}/lit_pixels", f"{DETECTOR}/photon_counts"


@dataclass(frozen=True)
class _Plan:
    # what all ranks must know of a set
    config: Config
    proposal: str
    detector: Detector
    modules: int
    bad: np.ndarray
    cell_mask: MaskFile | None
    cells: np.ndarray
    titles: dict[str, tuple[str, int]]
    columns: dict[str, list[tuple[str, dict]]]
    analyses: tuple[str, ...]
    has_classes: bool
    merged: bool


def patch(job: RunJob, sets: list[Experiment | MergedFiles], change: Change) -> int:
    """Patch finished sets of hits, all or none, and return the exit status; collective.

    Parameters
    ----------
    job : RunJob
        With the folders; other settings are those that each set was made with.
    sets : list of Experiment or MergedFiles
    change : Change

    Raises
    ------
    XfelmpiError
        On all ranks, if files are missing or cannot be used.
    """
    comm = job.comm
    # before anything is written
    mpi.run_on_root(comm, lambda: _check_sets(sets, change))
    done = [_patch_set(job, files, change) for files in sets]
    written = [path for _, paths, _ in done for path in paths]
    old = [path for _, _, obsolete in done for path in obsolete]
    publish_together(comm, written, lambda: old)
    for files, (own, paths, _) in zip(sets, done, strict=True):
        settings = _hit_settings(own.config)
        mpi.run_on_root(comm, lambda s=settings, f=files, p=paths: finish_formats(s, f, p))
        if isinstance(files, Experiment):
            report_run(own)
    if comm.rank == 0:
        for line in ("files written:", *(f"  {path}" for path in written)):
            log.info(line)
    return EXIT_COMPLETE


def _check_sets(sets: list[Experiment | MergedFiles], change: Change) -> None:
    for files in sets:
        read_set(files, change)


def _patch_set(job: RunJob, files, change: Change) -> tuple[RunJob, list[Path], list[Path]]:
    """Write the files of a set under their temporary names; collective.

    Returns
    -------
    job : RunJob
        That of the set.
    written, obsolete : list of Path
        Final names.
    """
    comm = job.comm
    found = mpi.run_on_root(comm, lambda: read_set(files, change))
    plan = mpi.bcast_from_root(comm, lambda: _plan(found))
    config = replace(plan.config, prefix=job.config.prefix, output=job.config.output)
    experiment = Experiment(config.prefix, config.output, config.run)
    if plan.proposal[1:].isdigit():
        experiment = experiment.of_proposal(int(plan.proposal[1:]))
    job = replace(job, experiment=experiment, config=config, settings=config.to_json())
    settings = _hit_settings(config)
    mpi.run_on_root(comm, lambda: [check_writable(path) for path in _paths(files, settings)])
    masks = None
    if plan.cell_mask is not None:
        limit = job.config.memory_per_rank
        masks = load_mask(comm, plan.cell_mask, plan.cells, limit, plan.detector)
        found = found and _with_cells_masked(found, masks)
    frames = {kind: _Frames(comm, files.cxi, plan, kind, found, masks) for kind in plan.titles}
    with mpi.fail_together(comm):
        tallies = {kind: _Tally(own, plan.detector) for kind, own in frames.items()}
    if masks is not None and not plan.merged:
        found = _with_sums(comm, files, plan, tallies, found)
    wavelength = found.wavelength if found else np.empty(0)
    median, _ = beam_wavelength(comm, settings.photon_energy, wavelength)
    if plan.has_classes:
        columns = _classified(comm, frames["hits"], found)
    else:
        columns = _analysed(comm, plan, frames["hits"], found, median)
    warnings = check_formats(comm, settings, found.geometry if found else None, wavelength)
    _log_start(comm, files, found, (*(found.warnings if found else ()), *warnings))
    attributes = _attributes(job, found)
    hits = _hits_to_write(comm, settings, files, plan, frames, tallies, columns)
    hits = replace(
        hits,
        attributes=attributes,
        geometry=found.geometry if found else None,
        wavelength=median,
    )
    outputs = HitOutputs(hits)
    for kind, own in frames.items():
        outputs.write(kind, own.stream())
    good = hits.good_in_hits()
    written = outputs.close(_header(files, found, good, masks) if found else None)
    if isinstance(files, Experiment):
        sums = {kind: tally.gathered(comm) for kind, tally in tallies.items()}
        added = [
            replace(column, values=mpi.allgather_concat(comm, column.values))
            for column in columns or ()
        ]
        write_run_files(comm, files, found, attributes, sums, added, warnings)
        written = [files.events, files.powder, *written]
    return job, written, [path for path in hit_paths(settings, files) if path not in written]


def _hit_settings(config: Config) -> OutputSettings:
    # a folder that was made for Dragonfly has links to the files
    return replace(config.part(OutputSettings), dragonfly=None)


def _paths(files: Experiment | MergedFiles, settings: OutputSettings) -> list[Path]:
    own = [files.events, files.powder] if isinstance(files, Experiment) else []
    return [*own, *hit_paths(settings, files)]


def _plan(found: FinishedSet) -> _Plan:
    entries = found.entries.items()
    return _Plan(
        config=found.config,
        proposal=str(found.attributes.get("proposal", "")),
        detector=found.detector,
        modules=found.modules,
        bad=found.bad,
        cell_mask=found.cell_mask,
        cells=found.cells,
        titles={k: (title, len(columns["trainId"].values)) for k, (title, columns) in entries},
        columns={k: [(p, c.attributes) for p, c in cols.items()] for k, (_, cols) in entries},
        analyses=found.analyses,
        has_classes=bool(found.classes),
        merged=found.run is None,
    )


def _with_cells_masked(found: FinishedSet, masks: Masks) -> FinishedSet:
    """Return a set of which pixels that are bad in all cells are bad; one rank."""
    rows = masks.row_of_cell[found.cells]
    bits = [np.bitwise_or.reduce(good[rows], axis=0) for good in masks.good]
    return replace(found, bad=found.bad | (unpack(np.stack(bits)).reshape(-1) == 0))


def _with_sums(
    comm, files: Experiment, plan: _Plan, tallies: dict[str, "_Tally"], found: FinishedSet | None
) -> FinishedSet | None:
    """Return a set with the powders of its frames, of which some cells lost pixels; collective."""
    sums = {}
    for kind, tally in tallies.items():
        photons, bad = (mpi.allreduce_sum(comm, values) for values in (tally.of_pixel, tally.bad))
        sums[kind] = photons, _good_frames(plan, plan.titles[kind][1], bad)
    return mpi.run_on_root(comm, lambda: without_lost(files, found, sums))


def _good_frames(plan: _Plan, n_frames: int, bad: np.ndarray) -> np.ndarray:
    """Return in how many frames every pixel is good, int64 (pixel,)."""
    detector = plan.detector
    there = np.repeat(modules_of(plan.modules, detector.n_modules), detector.module_pixels)
    return np.where(there, n_frames - bad, 0)


class _Frames:
    """The frames of one kind that this rank writes: a part of them, in order."""

    def __init__(
        self,
        comm,
        path: Path,
        plan: _Plan,
        kind: str,
        found: FinishedSet | None,
        masks: Masks | None,
    ):
        self.title, self.n_frames = plan.titles[kind]
        bounds = self.n_frames * np.arange(comm.size + 1) // comm.size
        self.rows = range(int(bounds[comm.rank]), int(bounds[comm.rank + 1]))
        self._path, self._entry, self._bad = path, _ENTRIES[kind], plan.bad
        columns = found.entries[kind][1] if found else None
        self.columns = [
            FrameColumn(
                name, mpi.scatter_rows(comm, columns and columns[name].values, bounds), attributes
            )
            for name, attributes in plan.columns[kind]
        ]
        self._masks = masks
        self._cells = next(c.values for c in self.columns if c.path == "cellId")

    def stream(self) -> Iterator[SparseFrames]:
        """Yield the frames in blocks, newly bad pixels left out."""
        return stream_masked(self._path, self._entry, self.rows, self._bad_in, BLOCK_FRAMES)

    def _bad_in(self, row: int) -> np.ndarray:
        if self._masks is None:
            return self._bad
        cell = self._cells[row - self.rows.start]
        good = unpack(self._masks.good[:, self._masks.row_of_cell[cell]]).reshape(-1)
        return self._bad | (good == 0)


class _Tally:
    """Sums over the pixels of a rank's frames, and over the frames of every pixel."""

    def __init__(self, frames: _Frames, detector: Detector):
        sums, n_pixels = [np.empty((4, 0), np.int64)], detector.frame_pixels
        self.bad, self.of_pixel = (np.zeros(n_pixels, np.int64) for _ in range(2))
        for block in frames.stream():
            n, frame = len(block), np.repeat(np.arange(len(block)), np.diff(block.indptr))
            peak = np.zeros(n, np.int64)
            np.maximum.at(peak, frame, block.count)
            lit, ones = (
                np.bincount(frame[i], minlength=n) for i in (block.count > 0, block.count == 1)
            )
            photons = np.bincount(frame, block.count.astype(np.float64), n).astype(np.int64)
            sums.append(np.stack([lit, photons, ones, peak]))
            self.bad += np.bincount(block.pixel[block.count == 0], minlength=n_pixels)
            self.of_pixel += np.bincount(block.pixel, block.count, n_pixels).astype(np.int64)
        self.lit, self.photons, self.ones, self.peak = np.concatenate(sums, axis=1)

    def gathered(self, comm) -> dict[str, np.ndarray]:
        """Return the sums of all frames, int64 (frame,), by the names in the events file."""
        names = {"litpixels": self.lit, "photons": self.photons}
        names |= {"sums/ones": self.ones, "sums/peak": self.peak}
        return {name: mpi.allgather_concat(comm, values) for name, values in names.items()}


def _analysed(
    comm, plan: _Plan, hits: _Frames, found: FinishedSet | None, wavelength: float
) -> tuple[AddedColumn, ...] | None:
    """Return the columns of analyses anew; collective.

    Those of merged hits become unknown, without any here: each run has a background of its own.
    """
    if plan.merged:
        if comm.rank == 0 and plan.analyses:
            log.warning(
                "columns of analyses and sizes become unknown (NaN, 0 in whole numbers): patch the "
                "runs and merge them again instead"
            )
        return None
    classes = {
        name: load_object(SIZES[name]) if name in SIZES else hit_analyses((name,))[name]
        for name in plan.analyses
    }
    old = {column.path: column.values for column in hits.columns}
    geometry = comm.bcast(found.geometry if found else None)
    ground = mpi.bcast_from_root(
        comm, lambda: np.where(found.bad, np.float32(np.nan), found.header.background.reshape(-1))
    )
    settings, n = plan.config.part(AnalysisSettings), len(hits.rows)
    masks = Masks.all_good(plan.detector)
    run = AnalysedRun(settings, geometry, wavelength, ground, masks, plan.modules)
    of_frame = np.full(n, wavelength) if settings.photon_energy else old[_WAVELENGTH]
    cells = np.zeros(BLOCK_FRAMES, np.int64)

    def blocks():
        first = 0
        for block in hits.stream():
            part = np.arange(first, first + len(block))
            about = cells[: len(block)], old[_WEIGHTING][part], of_frame[part]
            yield part, AnalysedHits(block, *about)
            first += len(block)

    return analyse_hits(comm, classes, run, blocks(), n)


def _classified(comm, hits: _Frames, found: FinishedSet | None) -> tuple[AddedColumn, ...]:
    """Return the columns of classes of this rank's hits; collective."""
    bounds = hits.n_frames * np.arange(comm.size + 1) // comm.size
    about = mpi.bcast_from_root(comm, lambda: [replace(c, values=None) for c in found.classes])
    return tuple(
        replace(
            column,
            values=mpi.scatter_rows(comm, found.classes[i].values if found else None, bounds),
        )
        for i, column in enumerate(about)
    )


def _columns(
    frames: _Frames, kind: str, tally: _Tally, analysed: tuple[AddedColumn, ...] | None, plan: _Plan
) -> list[FrameColumn]:
    """Return the columns of some frames, those of analyses anew; non-hits have NaN there.

    With classes, nothing changes that analyses stand on, and their columns stay.
    """
    sums = {_LIT: tally.lit, _PHOTONS: tally.photons}
    new = [f"{column.group or INSTRUMENT}/{column.name}" for column in analysed or ()]
    old = [not plan.has_classes and bool(analysis_of(c.attributes)) for c in frames.columns]
    stay = [
        (c, its_old)
        for c, its_old in zip(frames.columns, old, strict=True)
        if c.path not in new and (analysed is None or not its_old)
    ]
    columns = [
        c._replace(values=_unknown(c.values))
        if its_old
        else c._replace(values=sums.get(c.path, c.values).astype(c.values.dtype))
        for c, its_old in stay
    ]
    for path, column in zip(new, analysed or (), strict=True):
        values = column.values
        if kind != "hits":
            values = np.full(len(frames.rows), missing(values.dtype), values.dtype)
        columns.append(FrameColumn(path, values, column.attributes()))
    return columns


def _unknown(values: np.ndarray) -> np.ndarray:
    return np.full_like(values, np.nan if values.dtype.kind == "f" else 0)


def _hits_to_write(comm, settings, files, plan, frames, tallies, analysed) -> HitsToWrite:
    sets = {}
    for kind, own in frames.items():
        tally = tallies[kind]
        sets[kind] = FrameSet(
            title=own.title,
            n_frames=own.n_frames,
            columns=_columns(own, kind, tally, analysed, plan),
            # the masks call every pixel of every cell good: bad pixels come with the frames
            cell_id=np.zeros(len(own.rows), np.int64),
            ones=tally.ones,
            multi=tally.lit - tally.ones,
            peak=mpi.allreduce_max(comm, tally.peak.max(initial=0)),
            read=own.stream,
        )
    n_hits, detector = frames["hits"].n_frames, plan.detector
    bad = mpi.allreduce_sum(comm, tallies["hits"].bad)
    return HitsToWrite(
        comm=comm,
        settings=settings,
        files=files,
        attributes={},
        sets=sets,
        detector=detector,
        masks=Masks.all_good(detector),
        modules_in_run=plan.modules,
        geometry=None,
        wavelength=np.nan,
        good_in_hits=lambda: _good_frames(plan, n_hits, bad),
    )


def _attributes(job: RunJob, found: FinishedSet | None) -> dict:
    """Return the root attributes: those of this job, and of those before; collective."""
    comm = job.comm
    new = describe_used(comm, found.files if found else ())
    before = mpi.bcast_from_root(comm, lambda: found.used_before())
    made = provenance(job, (), (*before, *new))
    kept = mpi.bcast_from_root(
        comm,
        lambda: (
            {name: found.attributes[name] for name in _KEPT if name in found.attributes}
            | {
                "patched_from": json.dumps(found.earlier),
                "beamline_sources": found.beamline_sources,
            }
        ),
    )
    return made | kept


def _header(files, found: FinishedSet, good_in_hits: np.ndarray, masks: Masks | None) -> HitHeader:
    header, frame = found.header, found.detector.frame_shape
    bad = found.bad.reshape(frame)
    powder, background = header.powder.copy(), header.background.copy()
    powder[bad] = 0
    background[..., bad] = np.nan
    about = (header.start_time, header.sample, header.instrument)
    good = header.good_pixels & ~bad
    arrays = good, powder, background, good_in_hits
    cells = _cell_backgrounds(files.cxi, found, masks)
    return HitHeader(found.name, *about, found.geometry, *arrays, cells)


def _cell_backgrounds(path: Path, found: FinishedSet, masks: Masks | None) -> CellBackground | None:
    """Return the backgrounds of memory cells without pixels that are bad now; one rank."""
    mean, cells = read_cell_backgrounds(path), found.header.background_cell
    if mean is None:
        return None
    mean = mean.reshape(len(mean), len(mean[0]), -1)
    bad = found.bad.reshape(mean[0].shape)
    for own, cell in zip(mean, cells[1:].tolist(), strict=True):
        own[bad] = np.nan
        if masks is not None:
            own[unpack(masks.good[:, masks.row_of_cell[cell]]) == 0] = np.nan
    return CellBackground(cells[1:], mean)


def _log_start(comm, files, found: FinishedSet | None, warnings: tuple[str, ...]) -> None:
    if comm.rank:
        return
    n = int((found.bad & found.header.good_pixels.reshape(-1)).sum())
    where = " in all cells, others by cell" if found.cell_mask else ""
    log.info(
        f"{files.cxi}: {found.geometry.description}; {n:,} {plural(n, 'pixel')} more are bad{where}"
    )
    for line in warnings:
        log.warning(line)
