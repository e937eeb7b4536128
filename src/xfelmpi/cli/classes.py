"""``xfelmpi classes``: the classes that Dragonfly found, as columns of the hits."""

from pathlib import Path

from xfelmpi.cli import parser as arguments
from xfelmpi.core.config.options import Config
from xfelmpi.core.paths import Experiment


def parser() -> arguments.Parser:
    """Return the parser of the command's arguments."""
    parser = arguments.Parser(
        prog="xfelmpi classes",
        description="Add the classes that Dragonfly found, in a folder made with --dragonfly"
        " DIR --recon 2d, to the files of processed runs, as columns class and"
        " class_weight, and write a page for each run with the average of every"
        " class. Hits are matched by run, train and memory cell. All files of all"
        " runs are replaced, or none. Exit status: 0 complete, 2 wrong use or"
        " unusable input, 1 a bug.",
    )
    arguments.add_runs(parser, "run numbers: 50 51, 50,51 or 50-53")
    parser.add_argument(
        "--from",
        type=Path,
        dest="classes",
        required=True,
        metavar="DIR",
        help="the folder, from which the last output is used, or one output_NNN.h5 in it",
    )
    parser.add_argument(
        "--where",
        metavar="CONDITION",
        help="count on the page of classes only hits for which this is true, as in merge --where;"
        " all hits get their class (default: all hits)",
    )
    arguments.add_arguments(parser, only=("prefix", "output"))
    return parser


def main(argv: list[str], comm) -> int:
    """Take the classes and return the exit status; `comm` is None for ``--help`` only."""
    if comm is None:
        parser().parse_args(argv)
    from xfelmpi.cli.patch import patch_sets
    from xfelmpi.io.publish import check_name
    from xfelmpi.mpi import bcast_from_root, run_on_root
    from xfelmpi.output.dragonfly.classes import read_classes
    from xfelmpi.workflows.classes import check_where, write_pages
    from xfelmpi.workflows.patch.new_inputs import Change

    config, sets, path, where = bcast_from_root(comm, lambda: _parse(argv))
    found = run_on_root(comm, lambda: read_classes(path))
    run_on_root(comm, lambda: check_where(sets, where))
    # a page that cannot have its name is to be known before the files are replaced
    run_on_root(comm, lambda: [check_name(files.classes_page) for files in sets])
    status = patch_sets(comm, ["classes", *argv], config, sets, Change(classes=found))
    run_on_root(comm, lambda: write_pages(sets, found, where))
    return status


def _parse(argv: list[str]) -> tuple[Config, list[Experiment], Path, str | None]:
    given = parser().parse_args(argv)
    config = arguments.from_arguments(given)
    arguments.refuse_repeated(given.runs)
    sets = [Experiment(config.prefix, config.output, run) for run in given.runs]
    return config, sets, given.classes.absolute(), given.where
