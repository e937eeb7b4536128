"""The columns of patched hits: analyses computed anew, sums of what is left, classes."""

from dataclasses import replace

import numpy as np

from xfelmpi import mpi
from xfelmpi.analysis.hit_analysis import (
    SIZES,
    AnalysedHits,
    AnalysedRun,
    analyse_hits,
    hit_analyses,
)
from xfelmpi.calibration.geometry import share_geometry
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.config.parts import AnalysisSettings
from xfelmpi.core.event_table import AddedColumn, missing
from xfelmpi.core.log import log
from xfelmpi.core.plugins import load_object
from xfelmpi.output.cxi.hit_stream import BLOCK_FRAMES
from xfelmpi.output.hit_columns import DETECTOR, INSTRUMENT, SOURCE
from xfelmpi.output.hit_writer import FrameColumn
from xfelmpi.workflows.patch.finished_set import FinishedSet, analysis_of
from xfelmpi.workflows.patch.frames import FrameTally, PatchedFrames, SetFacts

_WAVELENGTH, _WEIGHTING = f"{SOURCE}/photon_wavelength", f"{DETECTOR}/background_weighting"


_LIT, _PHOTONS = f"{DETECTOR}/lit_pixels", f"{DETECTOR}/photon_counts"


def analysed_columns(
    comm, facts: SetFacts, hits: PatchedFrames, finished: FinishedSet | None, wavelength: float
) -> tuple[AddedColumn, ...] | None:
    """Return the columns of analyses anew; collective.

    Those of merged hits become unknown, without any here: each run has a background of its own.
    """
    if facts.merged:
        if comm.rank == 0 and facts.analyses:
            log.warning(
                "columns of analyses and sizes become unknown (NaN, -1 in whole numbers): patch "
                "the runs and merge them again instead"
            )
        return None
    classes = {
        name: load_object(SIZES[name]) if name in SIZES else hit_analyses((name,))[name]
        for name in facts.analyses
    }
    old = {column.path: column.values for column in hits.columns}
    geometry = share_geometry(comm, finished.geometry if finished else None)
    ground = mpi.bcast_from_root(
        comm,
        lambda: np.where(finished.bad, np.float32(np.nan), finished.header.background.reshape(-1)),
    )
    settings, n = facts.config.part(AnalysisSettings), len(hits.rows)
    masks = Masks.all_good(facts.detector)
    run = AnalysedRun(settings, geometry, wavelength, ground, masks, facts.modules)
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


def class_columns(
    comm, hits: PatchedFrames, finished: FinishedSet | None
) -> tuple[AddedColumn, ...]:
    """Return the columns of classes of this rank's hits; collective."""
    bounds = hits.n_frames * np.arange(comm.size + 1) // comm.size
    about = mpi.bcast_from_root(comm, lambda: [replace(c, values=None) for c in finished.classes])
    return tuple(
        replace(
            column,
            values=mpi.scatter_rows(comm, finished.classes[i].values if finished else None, bounds),
        )
        for i, column in enumerate(about)
    )


def patched_columns(
    frames: PatchedFrames,
    kind: str,
    tally: FrameTally,
    analysed: tuple[AddedColumn, ...] | None,
    facts: SetFacts,
) -> list[FrameColumn]:
    """Return the columns of some frames, those of analyses anew; non-hits have NaN there.

    With classes, nothing changes that analyses stand on, and their columns stay.
    """
    sums = {_LIT: tally.lit, _PHOTONS: tally.photons}
    new = [f"{column.group or INSTRUMENT}/{column.name}" for column in analysed or ()]
    old = [not facts.has_classes and bool(analysis_of(c.attributes)) for c in frames.columns]
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
    return np.full_like(values, missing(values.dtype))
