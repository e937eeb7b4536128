"""``xfelmpi size``: sizes of the hits of processed runs, measured anew without the run."""

from xfelmpi.cli import parser as arguments
from xfelmpi.cli.patch import patch_sets
from xfelmpi.core.config.options import Config
from xfelmpi.core.paths import Experiment

_OPTIONS = ("size", "density", "size_range", "analyse", "profiles")


def parser() -> arguments.Parser:
    """Return the parser of the command's arguments."""
    parser = arguments.Parser(
        prog="xfelmpi size",
        description="Measure the hits of processed runs again, from their photons in the CXI"
        " file, e.g. as spheroids, with another density or range of diameters, or"
        " with other analyses. Options that you do not give keep their values. The"
        " run is not read, and the hits stay the same. All files of all runs are"
        " replaced, or none. Exit status: 0 complete, 2 wrong use or unusable"
        " input, 1 a bug.",
    )
    arguments.add_runs(parser, "run numbers: 50 51, 50,51 or 50-53")
    arguments.add_arguments(parser, only=("prefix", "output", *_OPTIONS))
    return parser


def main(argv: list[str], comm) -> int:
    """Measure the hits and return the exit status; `comm` is None for ``--help`` only."""
    if comm is None:
        parser().parse_args(argv)
    from xfelmpi.mpi import bcast_from_root
    from xfelmpi.workflows.patch.new_inputs import Change

    config, sets, analysis = bcast_from_root(comm, lambda: _parse(argv))
    return patch_sets(comm, ["size", *argv], config, sets, Change(analysis=analysis))


def _parse(argv: list[str]) -> tuple[Config, list[Experiment], dict]:
    given = parser().parse_args(argv)
    config = arguments.from_arguments(given)
    values = arguments.given_values(given)
    analysis = {name: values[name] for name in _OPTIONS if name in values}
    arguments.refuse_repeated(given.runs)
    return config, [Experiment(config.prefix, config.output, run) for run in given.runs], analysis
