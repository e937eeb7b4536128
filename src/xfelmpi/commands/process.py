"""The main job: from a run to events, powder, CXI and EMC."""

from xfelmpi import arguments


def parser() -> arguments.Parser:
    """Return the parser of the command's arguments."""
    parser = arguments.Parser(
        prog="xfelmpi",
        description="Turn an AGIPD-1M run into the events table, powder patterns, hits as CXI, "
        "hits as a sparse EMC file, and a virtual dataset of all frames. Exit status: 0 complete, "
        "3 complete but some input was excluded, 2 wrong use or unusable input, 1 a bug.",
    )
    parser.add_argument("run", type=int, help="run number")
    arguments.add_arguments(parser)
    return parser


def main(argv: list[str], comm) -> int:
    """Run the main job and return its exit status; `comm` is None for ``--help`` only."""
    if comm is None:
        parser().parse_args(argv)
    from xfelmpi.collective import from_root
    from xfelmpi.pipeline import process

    settings = from_root(comm, lambda: arguments.from_arguments(parser().parse_args(argv)))
    return process(settings, comm, argv)
