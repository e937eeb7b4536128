"""``xfelmpi damnit-context``: the context file that shows our results in DAMNIT's table."""

import argparse
import sys
from importlib.resources import files
from pathlib import Path
from string import Template

from xfelmpi.cli import parser as arguments
from xfelmpi.core.config.parsing import parse_duration
from xfelmpi.core.errors import EXIT_COMPLETE, OutputError
from xfelmpi.core.paths import experiment_folder
from xfelmpi.core.regular_file import open_regular

_PLACE = Path("usr") / "Shared" / "amore" / "context.py"
_LARGEST = 1 << 20
"""Bytes of a file that is there which are read."""


def parser() -> arguments.Parser:
    """Return the parser of the command's arguments."""
    parser = arguments.Parser(
        prog="xfelmpi damnit-context",
        description="Print a context file for DAMNIT, whose variables are the results of a run: "
        "hits, hit rate, pulse energy, photons per frame, the 100 brightest hits, verdicts, "
        "problems, the powder of the hits, the report.",
    )
    arguments.add_with_defaults(parser, "prefix", "output")
    parser.add_argument(
        "--wait",
        type=arguments.checked(parse_duration),
        default=7200.0,
        metavar="TIME",
        help="how long the variables wait for the outputs of a run (default: 2h)",
    )
    parser.add_argument(
        "--start",
        action="store_true",
        help="let the variables process the run, within DAMNIT's own job on the cluster, if"
        " no job has done so",
    )
    parser.add_argument(
        "--install",
        action="store_true",
        help=f"write the file to {_PLACE} of the experiment folder",
    )
    return parser


def main(argv: list[str], _comm) -> int:
    """Print or install the file, and return the exit status."""
    given = parser().parse_args(argv)
    text = context_text(given)
    if not given.install:
        sys.stdout.write(text)
        return EXIT_COMPLETE
    from xfelmpi.core.log import log
    from xfelmpi.io.replace_file import replace_text

    path = experiment_folder(given.prefix) / _PLACE
    if path.exists() and b"xfelmpi damnit-context" not in _begin(path):
        raise OutputError(
            f"{path}: there is a context file already; print this one with xfelmpi damnit-context, "
            "and add its variables"
        )
    replace_text(path, text)
    log.info("%s", path)
    return EXIT_COMPLETE


def _begin(path: Path) -> bytes:
    with open(open_regular(path), "rb") as file:
        return file.read(_LARGEST)


def context_text(given: argparse.Namespace) -> str:
    """Return the text of the context file."""
    command: list[str] = []
    if given.start:
        from xfelmpi.workflows.watch.queues import find_script

        command = ["bash", str(find_script())]
    from xfelmpi.report.trends import BRIGHTEST, SIZES

    output = "scratch" if given.output is None else str(given.output.absolute())
    template = (files("xfelmpi.report") / "damnit_context.txt").read_text(encoding="utf-8")
    return Template(template).substitute(
        output=repr(output),
        wait=given.wait,
        command=repr(command),
        cluster=bool(command),
        brightest=BRIGHTEST,
        sizes=SIZES,
    )
