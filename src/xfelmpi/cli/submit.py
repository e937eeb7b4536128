"""``xfelmpi submit``: several runs to Slurm, and a table of what was submitted."""

import argparse
import os
from pathlib import Path

from xfelmpi.cli import batch_options
from xfelmpi.cli import parser as arguments
from xfelmpi.core.config.parsing import parse_runs
from xfelmpi.core.errors import EXIT_COMPLETE, EXIT_PARTIAL


def parser() -> arguments.Parser:
    """Return the parser of the command's arguments."""
    parser = arguments.Parser(
        prog="xfelmpi submit",
        usage="xfelmpi submit RUNS [options] [options of the jobs]",
        description="Submit runs to Slurm, as array jobs of jobs/process_run.sh, and print what "
        "was submitted. All other options go to the jobs. Exit status: 0 all were submitted, 3 "
        "some were not.",
    )
    parser.add_argument(
        "runs",
        type=arguments.checked(parse_runs),
        metavar="RUNS",
        help="run numbers, e.g. 50-60,65",
    )
    arguments.add_with_defaults(parser, "prefix", "output")
    batch_options.add_slurm(parser)
    return parser


def main(argv: list[str], _comm) -> int:
    """Submit the jobs and return the exit status."""
    given, words = parser().parse_known_args(argv)
    prefix, output = batch_options.where(given)
    batch_options.check_job_options(words, prefix, output)
    lines, all_there = _submit(given, words, prefix, output)
    from xfelmpi.core.log import log

    for line in lines:
        log.info("%s", line)
    return EXIT_COMPLETE if all_there else EXIT_PARTIAL


def _submit(given: argparse.Namespace, words: list[str], prefix: Path, output: Path):
    from xfelmpi.workflows.watch.submission import submission_table, submit_runs

    chosen = ["--prefix", str(prefix.absolute()), "--output", str(output.absolute()), *words]
    return submission_table(
        submit_runs(
            prefix.absolute(),
            output.absolute(),
            given.runs,
            slurm=batch_options.slurm_words(given),
            nodes=given.nodes,
            words=chosen,
            environment=dict(os.environ),
        )
    )
