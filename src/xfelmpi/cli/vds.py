"""``xfelmpi vds``: write the virtual dataset of a run, and nothing else."""

from time import monotonic

from xfelmpi.cli import parser as arguments
from xfelmpi.core.config.options import Config
from xfelmpi.core.errors import EXIT_COMPLETE, EXIT_PARTIAL, OutputError

_OPTIONS = ("prefix", "output", "data", "detector", "trains", "suspect_trains")


def parser() -> arguments.Parser:
    """Return the parser of the command's arguments."""
    parser = arguments.Parser(
        prog="xfelmpi vds",
        description="Write vds/rRRRR_vds_raw.h5 or vds/rRRRR_vds_proc.h5: all frames of a run as "
        "one dataset, row by row as in the events file, without a copy of the data. One process "
        "is enough. Exit status: 0 complete, 3 complete but some input was excluded, 2 wrong use "
        "or unusable input, 1 a bug.",
    )
    parser.add_argument("run", type=int, help="run number")
    arguments.add_arguments(parser, only=_OPTIONS)
    return parser


def main(argv: list[str], comm) -> int:
    """Write the file and return the exit status; `comm` is None for ``--help`` only."""
    if comm is None:
        parser().parse_args(argv)
    from xfelmpi.core.paths import Experiment
    from xfelmpi.io.lock_file import held_if_there
    from xfelmpi.mpi import from_root

    config = from_root(comm, lambda: arguments.from_arguments(parser().parse_args(argv)))
    lock = Experiment(config.prefix, config.output, config.run).lock
    with held_if_there(comm, config.prefix, lock, f"run {config.run} is being processed"):
        return from_root(comm, lambda: _write(config, ["vds", *argv]))


def _write(config: Config, argv: list[str]) -> int:
    from xfelmpi.core.event_table import summarised
    from xfelmpi.core.log import log, problem_lines
    from xfelmpi.core.paths import Experiment
    from xfelmpi.io.parallel_hdf5 import prepare, publish
    from xfelmpi.mpi import alone
    from xfelmpi.output.provenance import provenance
    from xfelmpi.output.vds import write_vds
    from xfelmpi.run.distribution import choose_data
    from xfelmpi.run.index.run_index import index_run
    from xfelmpi.run.virtual_layout import plan_virtual

    start = monotonic()
    experiment = Experiment(config.prefix, config.output, config.run)
    kind, why = choose_data(experiment, config.data)
    chosen = (config.detector, config.trains, config.suspect_trains)
    index = index_run(experiment.run_folder(kind), kind, *chosen)
    for line in (why, f"{index.detector}, source {index.source}", *index.notes):
        log.info(line)
    layout, left_out = plan_virtual(index)
    path = experiment.vds(kind)
    if layout is None:
        raise OutputError(f"{path}: not written: {left_out[-1].what}; select fewer with --trains")
    prepare(path)
    files = [file.path for file in index.files]
    write_vds(experiment, provenance(alone(), experiment, config.to_json(), files, argv), layout)
    publish(path)
    problems = summarised({*index.problems, *left_out})
    for line in problem_lines(problems, "the main job writes all into the events file (problems)"):
        log.info(line)
    n, seconds = len(layout.mappings), monotonic() - start
    log.info(f"{len(index.frames):,} frames in {n:,} mappings, {seconds:.2f} s: {path}")
    return EXIT_PARTIAL if problems else EXIT_COMPLETE
