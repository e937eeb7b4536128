"""Making the constants of raw data from dark runs: the stages in order."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration import dark_statistics
from xfelmpi.calibration.constants_file import constants_file
from xfelmpi.calibration.dark_order import StageOrder
from xfelmpi.core import fault_injection
from xfelmpi.core.errors import EXIT_COMPLETE, EXIT_PARTIAL, UsageError
from xfelmpi.core.job_context import JobContext
from xfelmpi.core.log import log
from xfelmpi.core.paths import Experiment
from xfelmpi.detectors.base import Detector
from xfelmpi.io.publish import check_writable
from xfelmpi.mpi.partition import split_trains
from xfelmpi.output.constants_file import ConstantsWriter
from xfelmpi.output.provenance import provenance
from xfelmpi.output.publishing import publish_together
from xfelmpi.run.frames.file_pool import FilePool
from xfelmpi.run.index.run_index import index_run
from xfelmpi.workflows.summary import problem_lines

_CHECKED = 3
"""In so many modules and cells every rank compares the digital levels of the runs."""

_MOST_BAD = 0.5
"""Share of bad pixels that is worth a warning."""


@dataclass(frozen=True)
class _Run:
    # a dark run, the tables shared by the ranks of a node
    detector: Detector
    files: tuple
    cell_id: np.ndarray
    file: np.ndarray
    row: np.ndarray


def make_constants(job: JobContext, given, experiments: list[Experiment], out: Path) -> int:
    """Make constants on all ranks and return the exit status.

    Parameters
    ----------
    job : JobContext
    given : Namespace
        ``detector``, ``gains``, ``offset_sigma``, ``noise_sigma``, ``memory_per_rank``.
    experiments : list of Experiment
        The dark runs, high, medium and low gain.
    out : Path
        Folder for the constants.

    Raises
    ------
    XfelmpiError
        On all ranks, if a run cannot be used, or the constants not be written.
    """
    comm, start = job.comm, time.monotonic()
    indices = mpi.run_on_root(comm, lambda: _index(experiments, given))
    job = job.of_proposal(comm.bcast(indices and indices[0].proposal))
    runs = [_share(comm, indices[i] if indices else None) for i in range(len(experiments))]
    measured = _measured(runs)
    _check_order(comm, given, runs, measured)
    modules = sorted({module for module, _ in measured})
    mpi.run_on_root(comm, lambda: [check_writable(constants_file(out, m)) for m in modules])
    files = [file.path for run in runs for file in run.files]
    attributes = provenance(job, files)
    n_cells = max(cell for _, cell in measured) + 1
    # the cells between are written too: nothing else would make them bad
    tasks = [(module, cell) for module in modules for cell in range(n_cells)]
    detector = runs[0].detector
    shape = (n_cells, *detector.module_shape)
    writer = ConstantsWriter(comm, out, modules, shape, attributes)
    problems, n_bad = _combine_cells(comm, given, runs, tasks, writer)
    writer.close()
    publish_together(comm, writer.paths)
    problems = mpi.gather_objects(comm, problems)
    total_bad = int(mpi.allreduce_sum(comm, np.array([n_bad]))[0])
    share_bad = total_bad / (detector.module_pixels * len(measured))
    if comm.rank == 0:
        problems += [p for index in indices for p in index.problems]
        log.info(
            "%s cells of %s modules in %.1f s, %.3f %% of the pixels bad",
            len({cell for _, cell in measured}),
            len(modules),
            time.monotonic() - start,
            100 * share_bad,
        )
        _warn(len(runs), share_bad)
        first, *_, last = writer.paths * 2
        files = ("files written:", f"  {first} … {last.name}")
        for line in (*problem_lines(problems, "the others are of the same kinds"), *files):
            log.info(line)
    return EXIT_PARTIAL if comm.bcast(bool(problems)) else EXIT_COMPLETE


def _warn(n_runs: int, share_bad: float) -> None:
    """Say what is there, but hardly meant; one rank."""
    if n_runs == 2:
        log.warning(
            "2 dark runs: calibration constants of high and medium gain, and all pixels are bad "
            "in low gain; expected 1 run for fixed high gain, or 3"
        )
    if share_bad > _MOST_BAD:
        log.warning(
            "%.0f %% of the pixels are bad in high gain: were the dark runs without light, and all "
            "frames there?",
            100 * share_bad,
        )


def _check_order(comm, given, runs: list[_Run], measured: list[tuple[int, int]]) -> None:
    """Check that the runs are in the order of the gain stages, in a few cells; collective.

    The digital level, which tells the gain of a pixel, is lowest in high gain.

    Raises
    ------
    UsageError
        On all ranks, if it does not rise from run to run in most pixels.
    """
    if len(runs) < 2:
        return
    order = StageOrder()
    with mpi.fail_together(comm), _opened(runs, given.memory_per_rank) as frames:
        bounds = split_trains(np.ones(len(measured), np.int64), comm.size)
        own = measured[bounds[comm.rank] : bounds[comm.rank + 1]]
        for module, cell in own[:: max(1, len(own) // _CHECKED)]:
            order.add([f.statistics(module, cell) for f in frames])
    order = StageOrder(*(mpi.allreduce_sum(comm, part) for part in vars(order).values()))

    def refuse():
        if wrong := order.wrong(given.runs):
            raise UsageError(wrong)

    mpi.run_on_root(comm, refuse)


@contextmanager
def _opened(runs: list[_Run], memory_per_rank: int) -> Iterator[list]:
    """Open the frames of all runs."""
    # half for the interpreter and the copies that numpy makes
    limit = memory_per_rank // 4
    pools = [FilePool(r.files, limit=40 // len(runs)) for r in runs]
    yield [
        dark_statistics.DarkFrames(pool, r.cell_id, r.file, r.row, limit, r.detector.module_pixels)
        for pool, r in zip(pools, runs, strict=True)
    ]
    for pool in pools:
        pool.check_unchanged()
        pool.close()


def _index(experiments, given) -> list:
    chosen = (given.detector, (None, None), given.suspect_trains)
    indices = [index_run(e.run_folder("raw"), "raw", *chosen) for e in experiments]
    for experiment, index in zip(experiments, indices, strict=True):
        log.info(
            "run %s: %s frames of %s", experiment.run, f"{len(index.frames):,}", index.detector
        )
    return indices


def _share(comm, index) -> _Run:
    """Give every node the frame table of a run; collective."""
    about = None
    if comm.rank == 0:
        about = (index.detector_type, index.files, (len(index.frames), index.frames.n_modules))
    detector, files, shape = comm.bcast(about)
    columns = []
    for name, size, dtype in (
        ("cell_id", shape[:1], np.uint16),
        ("file", shape, np.int32),
        ("row", shape, np.int32),
    ):
        columns.append(
            mpi.share_from_root(
                comm, getattr(index.frames, name) if comm.rank == 0 else None, size, dtype
            )
        )
    return _Run(detector, files, *columns)


def _measured(runs: list[_Run]) -> list[tuple[int, int]]:
    """Return every (module, cell) that a run has, ascending."""
    tasks = set()
    for run in runs:
        for module in range(run.file.shape[1]):
            cells = np.unique(run.cell_id[run.file[:, module] >= 0])
            tasks.update((module, int(cell)) for cell in cells)
    return sorted(tasks)


def _combine_cells(comm, given, runs, tasks, writer) -> tuple[list, int]:
    """Write this rank's share of the cells; returns problems and the number of bad pixels."""
    bounds = split_trains(np.ones(len(tasks), np.int64), comm.size)
    n_bad = 0
    with _opened(runs, given.memory_per_rank) as frames:
        lacking = [None] * (dark_statistics.STAGES - len(runs))
        for module, cell in tasks[bounds[comm.rank] : bounds[comm.rank + 1]]:
            fault_injection.inject(comm, "darks")
            stages = [*(f.statistics(module, cell) for f in frames), *lacking]
            constants = dark_statistics.combine_stages(
                stages,
                tuple(given.gains),
                given.offset_sigma,
                given.noise_sigma,
                runs[0].detector,
            )
            if any(stages):
                n_bad += int((constants.bad[0] != 0).sum())
            writer.write(module, cell, constants)
        problems = [p for f in frames for p in f.problems]
    return problems, n_bad
