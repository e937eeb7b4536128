"""``xfelmpi vds``: write the virtual dataset of a run, and nothing else."""

from xfelmpi.cli import parser as arguments
from xfelmpi.workflows.vds import write_run_vds

_OPTIONS = ("prefix", "output", "data", "detector", "trains", "suspect_trains")


def parser() -> arguments.Parser:
    """Return the parser of the command's arguments."""
    parser = arguments.Parser(
        prog="xfelmpi vds",
        description="Write vds/rRRRR_vds_raw.h5 or vds/rRRRR_vds_proc.h5: all frames of a run"
        " as one dataset, with the rows of the events file, without a copy of the"
        " data. One process is enough. Exit status: 0 complete, 3 complete but"
        " some input was excluded, 2 wrong use or unusable input, 1 a bug.",
    )
    arguments.add_run(parser)
    arguments.add_arguments(parser, only=_OPTIONS)
    return parser


def main(argv: list[str], comm) -> int:
    """Write the file and return the exit status; `comm` is None for ``--help`` only."""
    if comm is None:
        parser().parse_args(argv)
    from xfelmpi.core.paths import Experiment
    from xfelmpi.io.lock_file import held_if_there
    from xfelmpi.mpi import bcast_from_root

    config = bcast_from_root(comm, lambda: arguments.from_arguments(parser().parse_args(argv)))
    lock = Experiment(config.prefix, config.output, config.run).lock
    with held_if_there(comm, config.prefix, lock, f"run {config.run} is being processed"):
        return bcast_from_root(comm, lambda: write_run_vds(config, ["vds", *argv]))
