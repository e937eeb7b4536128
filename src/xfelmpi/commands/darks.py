"""Dark runs → constants for raw data, in the layout of Cheetah and OM, plus the noise."""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xfelmpi import arguments as options
from xfelmpi import collective, darks, fault
from xfelmpi.config import Config, parse_size
from xfelmpi.constants import constants_file
from xfelmpi.detector import N_MODULES
from xfelmpi.errors import EXIT_COMPLETE, EXIT_PARTIAL, UsageError
from xfelmpi.experiment import Experiment
from xfelmpi.lock import held_if_there
from xfelmpi.partition import split_trains
from xfelmpi.provenance import provenance
from xfelmpi.read import FilePool
from xfelmpi.report import log, problem_lines
from xfelmpi.runindex import index_run
from xfelmpi.write._h5 import prepare, publish
from xfelmpi.write.constants import ConstantsWriter

SUMMARY = "make constants for raw data from one dark run, or from one per gain stage"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = options.Parser(prog="xfelmpi darks", description=SUMMARY.capitalize() + ".")
    parser.add_argument(
        "runs",
        type=int,
        nargs="+",
        metavar="RUN",
        help="dark runs in high, medium and low gain, in this order; one alone "
        "makes constants for fixed high gain",
    )
    parser.add_argument(
        "--prefix",
        type=Path,
        metavar="DIR",
        help="experiment folder with raw/ (default: $EXP_PREFIX)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the constants (default: PREFIX/scratch/det/constants)",
    )
    parser.add_argument("--detector", metavar="NAME", help="detector (default: the one in the run)")
    about = Config.__dataclass_fields__["suspect_trains"]
    parser.add_argument(
        "--suspect-trains",
        choices=about.metadata["choices"],
        default=about.default,
        help=f"{about.metadata['help']} (default: {about.default})",
    )
    parser.add_argument(
        "--gains",
        type=float,
        nargs=3,
        default=darks.NOMINAL_GAINS,
        metavar=("HIGH", "MEDIUM", "LOW"),
        help="relative gains of the stages (default: 1 38 180)",
    )
    parser.add_argument(
        "--offset-sigma",
        type=float,
        default=8.0,
        metavar="S",
        help="bad if the offset is farther from the others of its ASIC, in robust "
        "standard deviations (default: 8)",
    )
    parser.add_argument(
        "--noise-sigma",
        type=float,
        default=8.0,
        metavar="S",
        help="bad if the noise is farther from that of the others, likewise (default: 8)",
    )
    parser.add_argument(
        "--memory-per-rank",
        type=parse_size,
        default=400 << 20,
        metavar="SIZE",
        help="memory of one rank (default: 400M)",
    )
    return parser


@dataclass(frozen=True)
class _Run:
    # a dark run, the tables shared by the ranks of a node
    files: tuple
    cell_id: np.ndarray
    file: np.ndarray
    row: np.ndarray


def main(argv: list[str], comm) -> int:
    """Make constants and return the exit status; `comm` is None for ``--help`` only."""
    if comm is None:
        parser().parse_args(argv)
    given = collective.from_root(comm, lambda: _given(argv))
    prefix = given.prefix
    experiments = [Experiment(prefix, prefix / "scratch", run) for run in given.runs]
    out = given.out or experiments[0].constants
    what = f"constants in {out} are being made"
    with held_if_there(comm, prefix, out / "darks.lock", what):
        return _make_constants(comm, given, experiments, out, argv)


def _make_constants(comm, given, experiments: list[Experiment], out: Path, argv) -> int:
    start = time.monotonic()
    indices = collective.on_root(comm, lambda: _index(experiments, given))
    runs = [_share(comm, indices[i] if indices else None) for i in range(len(given.runs))]
    measured = _measured(runs)
    modules = sorted({module for module, _ in measured})
    collective.on_root(comm, lambda: [prepare(constants_file(out, m)) for m in modules])
    settings = json.dumps(vars(given), default=str)
    files = [file.path for run in runs for file in run.files]
    attributes = provenance(comm, experiments[0], settings, files, ["darks", *argv])
    n_cells = max(cell for _, cell in measured) + 1
    # the cells between are written too: nothing else would make them bad
    tasks = [(module, cell) for module in modules for cell in range(n_cells)]
    writer = ConstantsWriter(comm, out, modules, n_cells, attributes)
    problems, n_bad = _work(comm, given, runs, tasks, writer)
    writer.close()
    fault.point(comm, "publish")
    # no file gets its name before all ranks have come so far
    comm.Barrier()
    collective.on_root(comm, lambda: publish(*writer.paths))
    problems = collective.gather_objects(comm, problems)
    total_bad = int(collective.sum_all(comm, np.array([n_bad]))[0])
    if comm.rank == 0:
        problems += [p for index in indices for p in index.problems]
        log.info(
            "%s cells of %s modules in %.1f s, %.3f %% of the pixels bad",
            len({cell for _, cell in measured}),
            len(modules),
            time.monotonic() - start,
            100 * total_bad / (65536 * len(measured)),
        )
        first, *_, last = writer.paths * 2
        files = ("files written:", f"  {first} … {last.name}")
        for line in (*problem_lines(problems, "the rest is like these"), *files):
            log.info(line)
    return EXIT_PARTIAL if comm.bcast(bool(problems)) else EXIT_COMPLETE


def _given(argv: list[str]) -> argparse.Namespace:
    given = parser().parse_args(argv)
    if len(given.runs) > darks.STAGES:
        raise UsageError(f"found {len(given.runs)} runs, expected one for each of 3 gain stages")
    if min(given.gains) <= 0:
        raise UsageError(f"--gains: found {given.gains}, expected numbers above 0")
    given.prefix = options.prefix_or_environment(given.prefix)
    return given


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
    about = (index.files, len(index.frames)) if comm.rank == 0 else None
    files, n_frames = comm.bcast(about)
    columns = []
    for name, shape, dtype in (
        ("cell_id", (n_frames,), np.uint16),
        ("file", (n_frames, N_MODULES), np.int32),
        ("row", (n_frames, N_MODULES), np.int32),
    ):
        columns.append(
            collective.share_from_root(
                comm, getattr(index.frames, name) if comm.rank == 0 else None, shape, dtype
            )
        )
    return _Run(files, *columns)


def _measured(runs: list[_Run]) -> list[tuple[int, int]]:
    """Return every (module, cell) that a run has, ascending."""
    tasks = set()
    for run in runs:
        for module in range(N_MODULES):
            cells = np.unique(run.cell_id[run.file[:, module] >= 0])
            tasks.update((module, int(cell)) for cell in cells)
    return sorted(tasks)


def _work(comm, given, runs, tasks, writer) -> tuple[list, int]:
    """Do this rank's share of the tasks; returns the problems and the number of bad pixels."""
    # half for the interpreter and the copies that numpy makes
    limit = given.memory_per_rank // 4
    pools = [FilePool(r.files, limit=40 // len(runs)) for r in runs]
    frames = [
        darks.DarkFrames(pool, r.cell_id, r.file, r.row, limit)
        for pool, r in zip(pools, runs, strict=True)
    ]
    frames += [None] * (darks.STAGES - len(runs))
    bounds = split_trains(np.ones(len(tasks), np.int64), comm.size)
    n_bad = 0
    for module, cell in tasks[bounds[comm.rank] : bounds[comm.rank + 1]]:
        fault.point(comm, "darks")
        stages = [f.statistics(module, cell) if f else None for f in frames]
        constants = darks.combine_stages(
            stages, tuple(given.gains), given.offset_sigma, given.noise_sigma
        )
        if any(stages):
            n_bad += int((constants.bad[0] != 0).sum())
        writer.write(module, cell, constants)
    return [p for f in frames if f for p in f.problems], n_bad
