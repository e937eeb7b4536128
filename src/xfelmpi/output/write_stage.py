"""The write stage: hits and misses streamed into all output files, which appear together."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.calibration.pixel_mask import Masks, mask_digest
from xfelmpi.core import fault_injection, shutdown
from xfelmpi.core.config.options import Config
from xfelmpi.core.errors import OutputError
from xfelmpi.core.event_table import EventColumns
from xfelmpi.core.log import log
from xfelmpi.core.paths import Experiment
from xfelmpi.core.problems import Problem
from xfelmpi.core.progress import Progress
from xfelmpi.core.sparse_frames import FrameSums
from xfelmpi.detectors.agipd import FRAME_SHAPE, N_MODULES
from xfelmpi.detectors.pixel_bits import unpack
from xfelmpi.io.output_file import check_room
from xfelmpi.io.parallel_hdf5 import check_writable, publish
from xfelmpi.output.cxi.writer import CxiEntry, CxiFile, CxiHeader
from xfelmpi.output.dragonfly.detector import usable_pixels
from xfelmpi.output.dragonfly.files import DragonflyFiles, beam_wavelength, make_folder
from xfelmpi.output.events import write_events
from xfelmpi.output.powder import write_powder
from xfelmpi.output.provenance import provenance
from xfelmpi.output.vds import same_frames, write_vds
from xfelmpi.reduction import background
from xfelmpi.reduction.frame_reader import HitReader
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.reduction.run_sums import background_weights, sum_powder
from xfelmpi.run.distribution import LocalRun
from xfelmpi.run.virtual_layout import BYTES_PER_MAPPING

_EVENT_BYTES = 80
"""Of a frame in the events file, at least."""

_TITLES = {"hits": "Single-particle hits", "misses": "Misses"}
"""Of the entries of the CXI file."""


@dataclass(frozen=True)
class WriteInputs:
    """Everything known when the files are written.

    Parameters
    ----------
    share : Share
    masks : Masks
    sums : FrameSums
    events : EventColumns
    powder : (ndarray, ndarray) or None
        Of all frames of the run, on rank 0; see `sum_powder`.
    reader : HitReader
        Gives hits and misses as sparse frames.
    geometry : DetectorGeometry or None
        On rank 0.
    problems : list of Problem
        Of the run, on rank 0.
    vds : Path or None
        The virtual dataset on rank 0, if written: complete but for its name.
    warnings : tuple of str
        Those of the log at the start, on rank 0.
    used : tuple of dict
        Masks, constants and geometry; see `describe_used`.
    earlier : dict
        Attributes that name the job that made the scores, if it is not this one.
    """

    share: LocalRun
    masks: Masks
    sums: FrameSums
    events: EventColumns
    powder: tuple[np.ndarray, np.ndarray] | None
    reader: HitReader
    geometry: DetectorGeometry | None
    problems: list[Problem]
    vds: Path | None = None
    warnings: tuple[str, ...] = ()
    used: tuple[dict, ...] = ()
    earlier: dict[str, str] = field(default_factory=dict)


def prepare_folders(experiment: Experiment, n_frames: int) -> None:
    """Make the output folders and check that they can be written; one rank.

    How much room the hits need is known only later.

    Raises
    ------
    OutputError
        If they cannot.
    """
    for path in (experiment.events, experiment.powder, experiment.cxi, experiment.emc):
        check_writable(path)
    check_room(experiment.output, n_frames * _EVENT_BYTES)


def begin_vds(
    experiment: Experiment, attributes: dict, share: LocalRun, memory: int
) -> tuple[Path | None, tuple[Problem, ...]]:
    """Write the virtual dataset, if wanted, under its temporary name; rank 0 only.

    This comes before the frames are read, because HDF5 needs the memory that they will take.

    Parameters
    ----------
    experiment : Experiment
    attributes : dict
        Root attributes.
    share : Share
    memory : int
        Bytes; with more mappings than fit there is a problem instead of a virtual dataset.

    Returns
    -------
    path : Path or None
        The final name.
    problems : tuple of Problem
    """
    if share.virtual is None:
        return None, ()
    n, limit = len(share.virtual.mappings), memory // BYTES_PER_MAPPING
    if n > limit:
        what = f"virtual dataset needs {n:,} mappings, {limit:,} fit into --memory-per-rank"
        return None, (Problem(what, action="not written; the command vds does it in any case"),)
    check_writable(experiment.vds(share.facts.kind))
    return write_vds(experiment, attributes, share.virtual), ()


def write_outputs(
    comm, experiment: Experiment, config: Config, done: WriteInputs, argv: list[str]
) -> list[Path]:
    """Write all files and give them their names at the end; collective. Returns their paths."""
    attributes = done.earlier | provenance(
        comm, experiment, config.to_json(), done.share.facts.input_files, argv, done.used
    )
    fault_injection.inject(comm, "cxi")
    hits = np.flatnonzero(done.events.is_hit)
    misses = np.flatnonzero(done.events.is_miss)
    n_hits = mpi.exscan_and_total(comm, len(hits))[1]
    in_cxi = {"hits": hits, "misses": misses} if config.with_misses else {"hits": hits}
    cxi, entries = _begin_cxi(comm, experiment, done, attributes, in_cxi)
    fault_injection.inject(comm, "emc")
    emc = _open_emc(comm, experiment, config, done, hits, n_hits) if n_hits else None
    sums = {
        "": done.powder,
        "_hits": _write_frames(comm, done, hits, "hits", entries["hits"], emc),
        "_misses": _write_frames(comm, done, misses, "misses", entries.get("misses")),
    }
    with shutdown.defer_shutdown():
        done.reader.release()
    fault_injection.inject(comm, "powder")
    write_powder(comm, experiment.powder, attributes, sums)
    wavelength, _ = beam_wavelength(comm, config, done.events.wavelength)
    usable = _usable(config, n_hits, sums["_hits"])
    fault_injection.inject(comm, "detector")
    for_dragonfly = emc.close(attributes, done.geometry, wavelength, usable) if emc else []
    ever_good = _ever_good(comm, done)
    fault_injection.inject(comm, "frames")
    cxi.close(_cxi_header(experiment, done, sums, ever_good) if comm.rank == 0 else None)
    _write_events(comm, experiment, done, attributes)
    files = [experiment.events, experiment.powder, experiment.cxi, *for_dragonfly]
    files += [done.vds] if done.vds else []
    fault_injection.inject(comm, "publish")
    # no file gets its name before all ranks have come so far
    comm.Barrier()
    vds = experiment.vds(done.share.facts.kind)
    mpi.run_on_root(comm, lambda: _publish(experiment, files, vds))
    fault_injection.inject(comm, "folder")
    mpi.run_on_root(comm, lambda: make_folder(config, experiment, files))
    return files


def _write_events(comm, experiment: Experiment, done: WriteInputs, attributes: dict) -> None:
    fault_injection.inject(comm, "events")
    facts = done.share.facts
    attributes = attributes | {
        "masks_digest": mask_digest(comm, done.masks),
        "modules_in_run": facts.modules_in_run,
        "data": facts.kind,
        "detector": facts.detector,
        "warnings": comm.bcast(json.dumps(done.warnings)),
    }
    first, n_frames, problems = done.share.first_frame, facts.n_frames, done.problems
    path = experiment.events
    write_events(comm, path, attributes, done.events, done.sums, first, n_frames, problems)


def _write_frames(
    comm,
    done: WriteInputs,
    chosen: np.ndarray,
    unit: str,
    entry: CxiEntry | None,
    emc: DragonflyFiles | None = None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Stream frames of this rank, in blocks, into an entry and the EMC file, if there are these.

    Collective. Returns the powder of the frames; see `sum_powder`.
    """
    powder = PowderSum.zeros(done.masks.good.shape[1])
    blocks = done.reader.stream(chosen, powder)
    if entry is None:
        for _ in blocks:
            pass
        return sum_powder(comm, done.masks, powder)
    total = mpi.exscan_and_total(comm, len(chosen))[1]
    progress = Progress(total, stage="writing", unit=unit, found="")
    board = mpi.ProgressBoard(comm, progress.show, n_values=1)
    written = 0
    # all ranks write as often as the one with most blocks
    while mpi.allreduce_max(comm, (block := next(blocks, None)) is not None):
        frames, sparse = block or done.reader.nothing()
        written += len(frames)
        board.update(written)
        entry.write(sparse, done.share.frames.cell_id[frames])
        fault_injection.inject(comm, unit)
        if emc:
            emc.write(sparse)
    board.finish()
    progress.close()
    return sum_powder(comm, done.masks, powder)


def _publish(experiment: Experiment, files: list[Path], vds: Path) -> None:
    """Give all files their names and remove those of an earlier job that do not fit them."""
    try:
        with shutdown.publishing():
            publish(*files)
            for path in (experiment.emc, experiment.dragonfly_detector):
                # Dragonfly reads out of bounds without frames, or with another detector: an old
                # file must not stay
                if path not in files:
                    path.unlink(missing_ok=True)
            if vds not in files and vds.exists() and not same_frames(vds, experiment.events):
                vds.unlink()
                log.warning(f"{vds} of an earlier job has other frames and was removed")
    except OSError as error:
        raise OutputError(f"{error.filename}: cannot be written ({error.strerror})") from None


def _begin_cxi(
    comm, experiment, done: WriteInputs, attributes: dict, chosen: dict[str, np.ndarray]
) -> tuple[CxiFile, dict[str, CxiEntry]]:
    """Open the CXI file with an entry for each choice of frames, all but the frames; collective."""
    modules_in_run = done.share.facts.modules_in_run
    cxi = CxiFile(comm, experiment.cxi, attributes, done.masks, modules_in_run)
    weighting = background_weights(comm, done.events, modules_in_run)
    entries = {}
    for what, frames in chosen.items():
        peak = mpi.allreduce_max(comm, done.sums.peak[frames].max(initial=0))
        entries[what] = cxi.entry(
            f"{_TITLES[what]} of {experiment.proposal} run {experiment.run}",
            f"{experiment.proposal}_{experiment.name}",
            done.events.take(frames),
            (frames + done.share.first_frame).astype(np.uint64),
            weighting[frames],
            np.dtype(np.uint16 if peak > 255 else np.uint8),
        )
    cxi.begin_frames()
    return cxi, entries


def _open_emc(
    comm, experiment, config: Config, done: WriteInputs, hits: np.ndarray, n_hits: int
) -> DragonflyFiles:
    """Open the files for Dragonfly, which needs the sizes of all frames first; collective."""
    ones = done.sums.ones[hits].astype(np.int64)
    powder, usable = PowderSum.zeros(done.masks.good.shape[1]), None

    def read_hits():
        return (sparse for _, sparse in done.reader.stream(hits, powder))

    if config.bin > 1:
        # which photons are summed depends on how often each pixel is good
        with mpi.fail_together(comm):
            for _ in read_hits():
                pass
        usable = comm.bcast(_usable(config, n_hits, sum_powder(comm, done.masks, powder)))
    multi = done.sums.lit[hits] - ones
    return DragonflyFiles(comm, config, experiment, ones, multi, read_hits, usable)


def _usable(config: Config, n_hits: int, powder) -> np.ndarray | None:
    """Return the pixels that Dragonfly may use, bool (1048576,), on rank 0."""
    return usable_pixels(powder[1].reshape(-1), n_hits, config.max_bad) if powder else None


def _ever_good(comm, done: WriteInputs) -> np.ndarray | None:
    """Return on rank 0 which pixels are good in at least one cell, bool (16, 65536)."""
    used = np.zeros(done.masks.good.shape[1], np.int64)
    used[done.masks.row_of_cell[done.share.frames.cell_id]] = 1
    rows = mpi.allreduce_sum(comm, used) > 0
    if comm.rank:
        return None
    # module by module: choosing rows copies them
    bits = [np.bitwise_or.reduce(good[rows], axis=0) for good in done.masks.good]
    good = unpack(np.stack(bits)).astype(bool)
    in_run = done.share.facts.modules_in_run >> np.arange(N_MODULES) & 1
    return good & in_run.astype(bool)[:, None]


def _cxi_header(
    experiment: Experiment, done: WriteInputs, sums: dict, ever_good: np.ndarray
) -> CxiHeader:
    """Return what stands once in the CXI file; `sums` as in `write_powder`; rank 0."""
    (photons, good), (hit_photons, hit_good) = sums[""], sums["_hits"]
    facts = done.share.facts
    mean = background.mean_background(photons, good, hit_photons, hit_good)
    return CxiHeader(
        f"{experiment.proposal} {experiment.name}",
        facts.start_time,
        facts.sample,
        facts.detector.split("_")[0],
        done.geometry,
        ever_good.reshape(FRAME_SHAPE),
        photons.reshape(FRAME_SHAPE),
        mean.reshape(FRAME_SHAPE),
    )
