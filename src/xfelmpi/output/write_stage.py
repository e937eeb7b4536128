"""The write stage: hits and misses streamed into all output files, which appear together."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from xfelmpi import mpi
from xfelmpi.analysis.hit_analysis import (
    AnalysedHits,
    AnalysedRun,
    analyse_hits,
    chosen_analyses,
)
from xfelmpi.analysis.hit_powder import HitPowder, geometry_warning
from xfelmpi.calibration.geometry import share_geometry
from xfelmpi.calibration.pixel_mask import mask_digest
from xfelmpi.core import fault_injection
from xfelmpi.core.free_memory import give_back
from xfelmpi.core.job_context import JobContext
from xfelmpi.core.log import log
from xfelmpi.core.machine_records import motors_as_json
from xfelmpi.core.paths import Experiment
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.module_bits import modules_of
from xfelmpi.detectors.pixel_bits import unpack
from xfelmpi.io.partial_file import begin_partial
from xfelmpi.io.publish import begin_sync
from xfelmpi.output.beam import beam_wavelength
from xfelmpi.output.events import ALL_READ, SOME_READ, write_events
from xfelmpi.output.hit_columns import hit_columns
from xfelmpi.output.hit_formats import HitOutputs, finish_formats, obsolete_hit_files
from xfelmpi.output.hit_writer import FrameSet, HitHeader, HitsToWrite
from xfelmpi.output.powder import write_powder
from xfelmpi.output.provenance import provenance
from xfelmpi.output.publishing import publish_together
from xfelmpi.output.vds import same_frames
from xfelmpi.output.write_inputs import WriteInputs
from xfelmpi.reduction import background
from xfelmpi.reduction.cell_background import CellBackground, cell_background
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.reduction.run_sums import background_weights, sum_powder

_TITLES = {"hits": "Single-particle hits", "misses": "Misses"}
"""Of the entries of the CXI file."""


def write_outputs(job: JobContext, done: WriteInputs) -> list[Path]:
    """Write all files and give them their names at the end; collective. Returns their paths."""
    comm, experiment = job.comm, job.experiment
    attributes = done.earlier | provenance(
        job, done.local_run.facts.input_files, done.used, done.local_run.facts.beamline
    )
    _load_hits(comm, done)
    beam = _Beam.of(comm, done)
    done = _analysed(comm, done, beam)
    cells = _cell_background(comm, done)
    chosen = {"hits": done.events.is_hit, "misses": done.events.is_miss}
    rows = {kind: np.flatnonzero(is_kind) for kind, is_kind in chosen.items()}
    # sums and weights of all frames needed memory for a moment
    give_back()
    outputs = HitOutputs(_hits_to_write(job, done, attributes, rows, cells, beam))
    own = {kind: _write_frames(done, outputs, kind, frames) for kind, frames in rows.items()}
    dark = {}
    if _sums_dark(comm, done):
        dark["_dark"] = _dark_sum(comm, done)
    # before the sums, which need memory
    done.reader.release()
    fault_injection.inject(comm, "powder")
    sums = {"": done.powder} if done.whole else {}
    for kind in rows:
        powder = own.pop(kind)
        sums[f"_{kind}"] = sum_powder(comm, done.masks, powder) if powder else done.hit_powder
    sums |= dark
    ever_good = _ever_good(comm, done)
    header = _header(experiment, done, sums, ever_good, cells) if comm.rank == 0 else None
    hit_files = outputs.close(header)
    if comm.rank == comm.size - 1:
        begin_sync(hit_files)
    n_hits = int(mpi.allreduce_sum(comm, np.array([len(rows["hits"])]))[0])
    doubt = write_powder(
        comm,
        experiment.powder,
        attributes,
        sums,
        done.local_run.facts.detector_type.frame_shape,
        meanwhile=lambda: _doubt_of_geometry(header, sums["_hits"], n_hits),
    )
    if doubt:
        done = replace(done, warnings=(*done.warnings, doubt))
    _write_events(comm, experiment, done, attributes)
    with mpi.fail_together(comm):
        # nothing has its name yet
        done.reader.check_unchanged()
    files = [experiment.events, experiment.powder, *hit_files]
    files += [done.vds] if done.vds else []
    publish_together(comm, files, lambda: _obsolete(experiment, done, files))
    fault_injection.inject(comm, "folder")
    mpi.run_on_root(comm, lambda: finish_formats(done.settings, experiment, files))
    return files


@dataclass(frozen=True)
class _Beam:
    """What is computed once of all ranks' frames.

    Parameters
    ----------
    wavelength : float
        Of the run in m, NaN if unknown.
    rows : ndarray, int64 (row,)
        This rank's hits and misses, ascending.
    weights : ndarray, float64 (row,)
        How much background each of them has; see `background_weights`.
    """

    wavelength: float
    rows: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, comm, done: WriteInputs) -> Self:
        """Compute both; collective."""
        events, modules = done.events, done.local_run.facts.modules_in_run
        wavelength, _ = beam_wavelength(comm, done.settings.photon_energy, events.wavelength)
        rows = np.flatnonzero(events.is_hit | events.is_miss)
        return cls(wavelength, rows, background_weights(comm, events, modules, done.read, rows))

    def weighting(self, rows: np.ndarray) -> np.ndarray:
        """Return the weights of hits or misses, float64 (row,)."""
        return self.weights[np.searchsorted(self.rows, rows)]


def _load_hits(comm, done: WriteInputs) -> None:
    """Read hits and misses that are not in memory, as far as there is room; collective.

    Hits are needed three times: summed, measured, written.
    """
    events = done.events
    chosen = events.is_hit | events.is_miss
    done.reader.keep_only(np.flatnonzero(chosen | events.is_dark))
    with mpi.fail_together(comm):
        done.reader.load(*map(np.flatnonzero, (chosen, events.is_hit)))


def _analysed(comm, done: WriteInputs, beam: _Beam) -> WriteInputs:
    """Return the same with the columns that ``--size`` and ``--analyse`` ask for; collective."""
    settings, events = done.analysis, done.events
    distance = comm.bcast(done.geometry.distance if comm.rank == 0 else None)
    classes = chosen_analyses(settings, distance, beam.wavelength)
    if not classes:
        return done
    rows, modules = np.flatnonzero(events.is_hit), done.local_run.facts.modules_in_run
    done = _with_hits_summed(comm, done, rows)
    ground = mpi.bcast_from_root(comm, lambda: _mean_background(done))
    geometry = share_geometry(comm, done.geometry)
    run = AnalysedRun(settings, geometry, beam.wavelength, ground, done.masks, modules)
    of_frame = events.wavelength
    if settings.photon_energy is not None:
        of_frame = np.broadcast_to(beam.wavelength, len(events.trainId))
    blocks = (
        (part, AnalysedHits(frames, events.cellId[part], beam.weighting(part), of_frame[part]))
        for part, frames in done.reader.stream(rows)
    )
    columns = analyse_hits(comm, classes, run, blocks, len(events.trainId))
    return replace(done, events=replace(events, added=(*events.added, *columns)))


def _with_hits_summed(comm, done: WriteInputs, rows: np.ndarray) -> WriteInputs:
    """Return the same with the powder of the hits; collective."""
    events = done.events
    powder = done.no_frames()
    with mpi.fail_together(comm):
        for _ in done.reader.stream(rows, powder):
            pass
    dark = done.dark_powder
    if _sums_dark(comm, done):
        dark = _dark_sum(comm, done)
    hits = sum_powder(comm, done.masks, powder)
    if not done.whole:
        # all that is read
        with mpi.fail_together(comm):
            for _ in done.reader.stream(np.flatnonzero(events.is_miss), powder):
                pass
        done = replace(done, powder=sum_powder(comm, done.masks, powder))
    return replace(done, hit_powder=hits, hits_summed=True, dark_powder=dark)


def _cell_background(comm, done: WriteInputs) -> CellBackground | None:
    """Return the backgrounds of the memory cells, if they are asked for; collective."""
    if done.settings.background != "cell":
        return None
    events, facts = done.events, done.local_run.facts
    # hits come first in what is kept
    done.reader.keep_only(np.flatnonzero(events.is_hit | events.is_miss))
    non_hits = done.read & ~events.is_hit & ~events.is_dark
    cell_id = np.where(non_hits, events.cellId.astype(np.int64), -1)
    about = facts.detector_type, facts.cells, cell_id, done.spare
    found = cell_background(comm, done.reader, done.masks, *about)
    if comm.rank == 0 and (said := found.words()):
        log.info(said)
    return found


def _mean_background(done: WriteInputs) -> np.ndarray:
    """Return the mean photons of the non-hits, float32 (module, pixel); rank 0."""
    left_out = [done.hit_powder, done.dark_powder]
    return background.mean_background(done.powder, *(sums for sums in left_out if sums))


def _write_frames(
    done: WriteInputs, outputs: HitOutputs, kind: str, rows: np.ndarray
) -> PowderSum | None:
    """Stream frames of this rank into all formats; returns their powder, unless it is known."""
    powder = None if kind == "hits" and done.hits_summed else done.no_frames()
    outputs.write(kind, _sparse(done, rows, powder))
    return powder


def _sums_dark(comm, done: WriteInputs) -> bool:
    """Return whether there is a powder of the frames without an X-ray pulse; collective.

    It is taken off that of all frames, which must have been read for that.
    """
    return done.whole and bool(mpi.allreduce_max(comm, done.events.is_dark.any()))


def _dark_sum(comm, done: WriteInputs):
    """Return the powder of the frames without an X-ray pulse, see `sum_powder`; collective."""
    if comm.bcast(done.dark_powder is not None):
        return done.dark_powder
    powder = done.no_frames()
    with mpi.fail_together(comm):
        for _ in _sparse(done, np.flatnonzero(done.events.is_dark), powder):
            pass
    return sum_powder(comm, done.masks, powder)


def _sparse(
    done: WriteInputs, rows: np.ndarray, powder: PowderSum | None = None
) -> Iterator[SparseFrames]:
    return (sparse for _, sparse in done.reader.stream(rows, powder))


def _hits_to_write(
    job: JobContext,
    done: WriteInputs,
    attributes: dict,
    rows: dict[str, np.ndarray],
    cells: CellBackground | None,
    beam: _Beam,
) -> HitsToWrite:
    """Return what the output formats get; collective."""
    comm, settings = job.comm, done.settings
    kinds = ("hits", "misses") if settings.with_misses else ("hits",)
    return HitsToWrite(
        comm=comm,
        settings=settings,
        files=job.experiment,
        attributes=attributes,
        sets={k: _frame_set(job, done, k, rows[k], cells, beam) for k in kinds},
        detector=done.local_run.facts.detector_type,
        masks=done.masks,
        modules_in_run=done.local_run.facts.modules_in_run,
        geometry=done.geometry,
        wavelength=beam.wavelength,
        good_in_hits=lambda: _good_in_hits(comm, done, rows["hits"]),
    )


def _frame_set(
    job: JobContext,
    done: WriteInputs,
    kind: str,
    rows: np.ndarray,
    cells: CellBackground | None,
    beam: _Beam,
) -> FrameSet:
    sums, local_run, experiment = done.sums, done.local_run, job.experiment
    ones, cell_id = sums.ones[rows].astype(np.int64), local_run.frames.cell_id[rows]
    return FrameSet(
        title=f"{_TITLES[kind]} of {experiment.proposal} run {experiment.run}",
        n_frames=mpi.exscan_and_total(job.comm, len(rows))[1],
        columns=hit_columns(
            f"{experiment.proposal}_{experiment.name}",
            done.events.take(rows),
            (rows + local_run.first_frame).astype(np.uint64),
            beam.weighting(rows),
            cells.row_of(cell_id) if cells else np.zeros(len(rows), np.uint32),
            local_run.facts.detector_type,
        ),
        cell_id=cell_id,
        ones=ones,
        multi=sums.lit[rows] - ones,
        peak=mpi.allreduce_max(job.comm, sums.peak[rows].max(initial=0)),
        read=lambda: _sparse(done, rows),
    )


def _good_in_hits(comm, done: WriteInputs, rows: np.ndarray) -> np.ndarray | None:
    """Return in how many hits each pixel is good, on rank 0; reads the hits; collective."""
    if not done.hits_summed:
        done = _with_hits_summed(comm, done, rows)
    return done.hit_powder[1].reshape(-1) if done.hit_powder else None


def _write_events(comm, experiment: Experiment, done: WriteInputs, attributes: dict) -> None:
    fault_injection.inject(comm, "events")
    facts = done.local_run.facts
    attributes = attributes | {
        "masks_digest": mask_digest(comm, done.masks),
        "modules_in_run": facts.modules_in_run,
        "data": facts.kind,
        "detector": facts.detector,
        "detector_motors": motors_as_json(facts.motors, facts.z_motor),
        "warnings": comm.bcast(json.dumps(done.warnings)),
        "frames_read": ALL_READ if done.whole else SOME_READ,
        "run_type": facts.run_type,
        "reduction": json.dumps(facts.reduction.words() if facts.reduction else []),
        **({"facility_hits": json.dumps(done.agreement)} if done.agreement else {}),
        **({"so_far": done.so_far} if done.so_far else {}),
    }
    rows, path = (done.local_run.first_frame, facts.n_frames), experiment.events
    write_events(comm, path, attributes, done.events, done.sums, *rows, problems=done.problems)


def _doubt_of_geometry(header: HitHeader, powder, n_hits: int) -> str:
    """Return a warning, which is logged, if the powder of the hits is not round; rank 0.

    Parameters
    ----------
    header : HitHeader
    powder : (ndarray, ndarray)
        Of the hits; see `sum_powder`.
    n_hits : int
        Of the run.
    """
    if not n_hits:
        return ""
    try:
        found = HitPowder.of_sums(header.geometry, n_hits, *powder, header.background)
        said = geometry_warning(found)
    # whatever is wrong with the check must not cost the outputs
    except Exception as error:
        log.warning(f"the geometry could not be checked: {type(error).__name__}: {error}")
        return ""
    if said:
        log.warning(said)
    return said


def _obsolete(experiment: Experiment, done: WriteInputs, files: list[Path]) -> list[Path]:
    """Return what an earlier job wrote and this one did not; one rank.

    Dragonfly reads out of bounds without frames, or with another detector.
    """
    obsolete = obsolete_hit_files(done.settings, experiment, experiment.events, files)
    vds, events = experiment.vds(done.local_run.facts.kind), begin_partial(experiment.events)
    if vds not in files and vds.exists() and not same_frames(vds, events):
        obsolete.append(vds)
        log.warning(f"{vds} of an earlier job has other frames and is removed")
    return obsolete


def _ever_good(comm, done: WriteInputs) -> np.ndarray | None:
    """Return on rank 0 which pixels are good in at least one cell, bool (module, pixel)."""
    used = np.zeros(done.masks.good.shape[1], np.int64)
    used[done.masks.row_of_cell[done.local_run.frames.cell_id]] = 1
    rows = mpi.allreduce_sum(comm, used) > 0
    if comm.rank:
        return None
    # module by module: choosing rows copies them
    bits = [np.bitwise_or.reduce(good[rows], axis=0) for good in done.masks.good]
    good = unpack(np.stack(bits)).astype(bool)
    in_run = modules_of(done.local_run.facts.modules_in_run, len(good))
    return good & in_run[:, None]


def _header(
    experiment: Experiment,
    done: WriteInputs,
    sums: dict,
    ever_good: np.ndarray,
    cells: CellBackground | None,
) -> HitHeader:
    """Return what is known when all hits are written; `sums` as in `write_powder`; rank 0."""
    _, hit_good = sums["_hits"]
    # of the frames that were read
    parts = zip(sums["_hits"], sums["_misses"], strict=True)
    photons, good = sums.get("") or (hits + misses for hits, misses in parts)
    left_out = [sums[name] for name in ("_hits", "_dark") if name in sums]
    facts = done.local_run.facts
    frame_shape = facts.detector_type.frame_shape
    mean = background.mean_background((photons, good), *left_out)
    return HitHeader(
        name=f"{experiment.proposal} {experiment.name}",
        start_time=facts.start_time,
        sample=facts.sample,
        instrument=facts.detector.split("_")[0],
        geometry=done.geometry,
        good_pixels=ever_good.reshape(frame_shape),
        powder=photons.reshape(frame_shape),
        background=mean.reshape(frame_shape),
        good_in_hits=hit_good.reshape(-1),
        cells=cells,
    )
