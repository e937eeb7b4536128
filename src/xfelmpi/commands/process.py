"""The main job: from a run to events, powder, CXI and EMC."""

import argparse

from xfelmpi import arguments

SUMMARY = "the main job: events, powder, CXI and EMC of a run (also: xfelmpi RUN)"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="xfelmpi",
        description="Turn an AGIPD-1M run into the events table, powder patterns, hits as CXI and "
        "hits as a sparse EMC file. Exit status: 0 complete, 3 complete but some input was "
        "excluded, 2 wrong use or unusable input, 1 a bug.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=int, help="run number")
    arguments.add_arguments(parser)
    return parser


def main(argv: list[str], comm) -> int:
    """Run the main job and return its exit status; `comm` is None for ``--help`` only."""
    settings = arguments.from_arguments(parser().parse_args(argv))
    from xfelmpi.pipeline import process

    return process(settings, comm, argv)
