"""``xfelmpi report``: the report of a processed run, from its output files alone."""

from xfelmpi.cli import parser as arguments
from xfelmpi.core.errors import EXIT_COMPLETE, OutputError
from xfelmpi.core.paths import Experiment


def parser() -> arguments.Parser:
    """Return the parser of the command's arguments."""
    parser = arguments.Parser(
        prog="xfelmpi report",
        description="Write the run report (report/rRRRR.html), the hit browser"
        " (report/rRRRR_hits.html) and the run overview (report/index.html) again,"
        " from the output files alone. One process is enough.",
    )
    arguments.add_runs(parser, "run numbers, e.g. 50 or 50-53")
    arguments.add_arguments(parser, only=("prefix", "output"))
    return parser


def main(argv: list[str], comm) -> int:
    """Write the report and return the exit status; `comm` is None for ``--help`` only."""
    if comm is None:
        parser().parse_args(argv)
    from xfelmpi.mpi import run_on_root

    run_on_root(comm, lambda: _report(argv))
    return EXIT_COMPLETE


def _report(argv: list[str]) -> None:
    from xfelmpi.core.log import log
    from xfelmpi.io.publish import check_name
    from xfelmpi.report.build import make_report
    from xfelmpi.report.hit_browser import write_hit_browser

    given = parser().parse_args(argv)
    for run in given.runs:
        given.run = run
        config = arguments.from_arguments(given)
        experiment = Experiment(config.prefix, config.output, config.run)
        pages = experiment.page, experiment.hit_browser, experiment.status, experiment.overview
        for path in pages:
            check_name(path)
        try:
            found = make_report(experiment)
            log.info("%s", experiment.page)
            write_hit_browser(found)
        except OSError as error:
            raise OutputError(f"{error.filename}: cannot be written ({error.strerror})") from None
