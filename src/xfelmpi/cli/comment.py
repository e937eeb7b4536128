"""``xfelmpi comment``: a comment on a run, for the run overview."""

from xfelmpi.cli import batch_options
from xfelmpi.cli import parser as arguments
from xfelmpi.core.errors import EXIT_COMPLETE, UsageError
from xfelmpi.core.paths import Experiment


def parser() -> arguments.Parser:
    """Return the parser of the command's arguments."""
    parser = arguments.Parser(
        prog="xfelmpi comment",
        description="Add a comment on a run to the run overview, report/index.html.",
    )
    arguments.add_run(parser)
    parser.add_argument("text", nargs="+", metavar="TEXT", help="the comment")
    arguments.add_with_defaults(parser, "prefix", "output")
    return parser


def main(argv: list[str], _comm) -> int:
    """Add the comment, and return the exit status."""
    given = parser().parse_args(argv)
    prefix, output = batch_options.where(given)
    from xfelmpi.report.comments import add_comment
    from xfelmpi.report.overview import rebuild

    experiment = Experiment(prefix, output, given.run)
    known = [experiment.run_folder("raw"), experiment.run_folder("proc"), experiment.status]
    if not any(path.exists() for path in known):
        raise UsageError(f"{prefix}: no run {given.run} in its raw/ and proc/")
    text = " ".join(given.text).strip()
    if not text:
        raise UsageError("found an empty comment")
    add_comment(experiment.overview.parent, given.run, text)
    rebuild(experiment.overview)
    return EXIT_COMPLETE
