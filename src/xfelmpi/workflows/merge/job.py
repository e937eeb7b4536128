"""The hits of several finished runs as one: CXI, EMC and detector file, written by all ranks.

Starts from the runs' CXI files; nothing of the runs themselves is read.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.config.parts import OutputSettings
from xfelmpi.core.errors import EXIT_COMPLETE
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.log import counted, log, plural
from xfelmpi.core.paths import Experiment, MergedFiles
from xfelmpi.io.input_file import finished_files
from xfelmpi.io.publish import check_writable
from xfelmpi.output.beam import beam_wavelength
from xfelmpi.output.cxi.hit_stream import stream_hits
from xfelmpi.output.hit_columns import SOURCE
from xfelmpi.output.hit_formats import (
    HitOutputs,
    check_formats,
    finish_formats,
    hit_paths,
    obsolete_hit_files,
)
from xfelmpi.output.hit_writer import FrameColumn, FrameSet, HitsToWrite
from xfelmpi.output.provenance import provenance
from xfelmpi.output.publishing import publish_together
from xfelmpi.workflows.merge.hits import Merged, collect, run_type

_WAVELENGTH = f"{SOURCE}/photon_wavelength"


def merge(job: RunJob, runs: tuple[int, ...], where: str | None, name: str) -> int:
    """Merge runs and return the exit status; collective.

    Parameters
    ----------
    job : RunJob
    runs : tuple of int
        Ascending, each once.
    where : str or None
        Which hits; see `rows_where`.
    name : str
        Of the files.

    Raises
    ------
    XfelmpiError
        On all ranks, if files are missing or do not fit each other, or nothing is left.
    """
    comm, config = job.comm, job.config
    settings = config.part(OutputSettings)
    inputs = [Experiment(config.prefix, config.output, run).cxi for run in runs]
    files = MergedFiles(config.output, name)
    merged = mpi.run_on_root(comm, lambda: collect(runs, inputs, where))
    finished_files.share(comm)
    mpi.run_on_root(comm, lambda: [check_writable(path) for path in hit_paths(settings, files)])
    hits = _Share(comm, inputs, merged)
    geometry = merged.header.geometry if merged else None
    for warning in check_formats(comm, settings, geometry, hits.wavelength):
        log.warning(warning)
    with mpi.fail_together(comm):
        tally = _Tally(hits)
    attributes = {
        **provenance(job, map(str, inputs)),
        "run": np.array(runs, run_type(runs)),
        "where": where or "",
    }
    written = _write(job, files, hits, tally, attributes, merged)
    obsolete = partial(obsolete_hit_files, settings, files, files.cxi, written)
    publish_together(comm, written, obsolete)
    mpi.run_on_root(comm, lambda: finish_formats(settings, files, written))
    if comm.rank == 0:
        log.info(f"{counted(len(merged.row), 'hit')} of {len(runs)} {plural(len(runs), 'run')}")
        for line in ("files written:", *(f"  {path}" for path in written)):
            log.info(line)
    return EXIT_COMPLETE


class _Share:
    """The hits of one rank: a part of those chosen, in order."""

    def __init__(self, comm, paths: list[Path], merged: Merged | None):
        about = None
        if merged:
            about = (len(merged.row), merged.modules, merged.header.geometry.detector)
        names = [(p, c.attributes) for p, c in merged.columns.items()] if merged else None
        (self.n_hits, self.modules, self.detector), names = comm.bcast((about, names))
        bounds = self.n_hits * np.arange(comm.size + 1) // comm.size
        self._paths = paths

        def deal(column):
            return mpi.scatter_rows(comm, column, bounds)

        self._source = deal(merged.source if merged else None)
        self._row = deal(merged.row if merged else None)
        self.columns = [
            FrameColumn(path, deal(merged.columns[path].values if merged else None), attributes)
            for path, attributes in names
        ]

    def __len__(self):
        return len(self._row)

    @property
    def wavelength(self) -> np.ndarray:
        """Of this rank's hits, in m."""
        return next(column.values for column in self.columns if column.path == _WAVELENGTH)

    def stream(self):
        """Yield the hits in blocks of sparse frames."""
        return stream_hits(self._paths, self._source, self._row)


class _Tally:
    """What must be known of a rank's hits before they are written."""

    def __init__(self, hits: _Share):
        ones, multi = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        bad = np.zeros(hits.detector.frame_pixels, np.int32)
        self.peak = 0
        for block in hits.stream():
            for parts, own in zip((ones, multi), block.ones_and_multi(), strict=True):
                parts.append(own)
            bad += np.bincount(block.pixel[block.count == 0], minlength=len(bad))
            self.peak = max(self.peak, int(block.count.max(initial=0)))
        self.good = len(hits) - bad
        self.ones, self.multi = np.concatenate(ones), np.concatenate(multi)


def _write(job: RunJob, files: MergedFiles, hits: _Share, tally: _Tally, attributes, merged):
    """Write all formats, to temporary names; returns the final ones; collective."""
    comm, settings = job.comm, job.config.part(OutputSettings)
    peak = mpi.allreduce_max(comm, tally.peak)
    good = mpi.allreduce_sum(comm, tally.good)
    wavelength, _ = beam_wavelength(comm, settings.photon_energy, hits.wavelength)
    own = FrameSet(
        title="Single-particle hits of several runs",
        n_frames=hits.n_hits,
        columns=hits.columns,
        # the masks call every pixel of every cell good
        cell_id=np.zeros(len(hits), np.int64),
        ones=tally.ones,
        multi=tally.multi,
        peak=peak,
        read=hits.stream,
    )
    outputs = HitOutputs(
        HitsToWrite(
            comm=comm,
            settings=settings,
            files=files,
            attributes=attributes,
            sets={"hits": own},
            detector=hits.detector,
            masks=Masks.all_good(hits.detector),
            modules_in_run=hits.modules,
            geometry=merged.header.geometry if merged else None,
            wavelength=wavelength,
            good_in_hits=lambda: good,
        )
    )
    outputs.write("hits", hits.stream())
    return outputs.close(replace(merged.header, good_in_hits=good) if merged else None)
