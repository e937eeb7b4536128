"""``xfelmpi merge``: the hits of several finished runs as one."""

import re

from xfelmpi.cli import parser as arguments
from xfelmpi.core.config.options import Config
from xfelmpi.core.errors import UsageError

_GROUP = "dragonfly"


def parser() -> arguments.Parser:
    """Return the parser of the command's arguments."""
    parser = arguments.Parser(
        prog="xfelmpi merge",
        description="Merge the hits of processed runs into one CXI, EMC and detector file in"
        " OUTPUT/merged/, with the run number of every hit and one background per"
        " run. Exit status: 0 complete, 2 wrong use or unusable input, 1 a bug.",
    )
    arguments.add_runs(parser, "run numbers, e.g. 50 51 or 50-53")
    parser.add_argument(
        "--where",
        metavar="CONDITION",
        help='merge only hits for which this is true, e.g. "hit_sigma > 8 and pulse_energy >'
        ' 200 uJ"; it can use run and every value per hit in the CXI files, by its name'
        " there or in the events file; numbers without a unit are in SI units, but"
        " fluence is in photons/um2 (default: all hits)",
    )
    parser.add_argument(
        "--name",
        help="name of the merged files, without ending (default: rFIRST-rLAST of the runs)",
    )
    only = [f.name for f in arguments.options() if f.metadata["group"] == _GROUP]
    arguments.add_arguments(parser, only=("prefix", "output", "also_write", "profiles", *only))
    return parser


def main(argv: list[str], comm) -> int:
    """Merge the runs and return the exit status; `comm` is None for ``--help`` only."""
    if comm is None:
        parser().parse_args(argv)
    from xfelmpi.core.job_context import RunJob
    from xfelmpi.core.paths import MergedFiles
    from xfelmpi.io.input_file import finished_files
    from xfelmpi.io.lock_file import held_if_there
    from xfelmpi.mpi import bcast_from_root
    from xfelmpi.workflows.merge.job import merge

    config, runs, where, name = bcast_from_root(comm, lambda: _parse(argv))
    lock = MergedFiles(config.output, name).lock
    # the hits of the runs are there, if there are any
    held = held_if_there(comm, config.output, lock, f"{name} is being merged")
    with held, finished_files.unchanged():
        return merge(RunJob.of(comm, config, ["merge", *argv]), runs, where, name)


def _parse(argv: list[str]) -> tuple[Config, tuple[int, ...], str | None, str]:
    given = parser().parse_args(argv)
    runs = tuple(sorted(given.runs))
    arguments.refuse_repeated(runs)
    name = given.name or f"r{runs[0]:04d}-r{runs[-1]:04d}"
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise UsageError(f"--name {name!r}: expected letters, digits and _ . + -")
    given.run = runs[0]
    return arguments.from_arguments(given), runs, given.where, name
