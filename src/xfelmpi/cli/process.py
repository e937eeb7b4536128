"""The main job: from a run to events, powder, CXI and EMC; and re-thresholding a finished run."""

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from xfelmpi.core.config.options import Config
from xfelmpi.core.config.parsing import parse_duration
from xfelmpi.core.errors import UsageError, XfelmpiError
from xfelmpi.core.job_context import RunJob
from xfelmpi.core.paths import Experiment

if TYPE_CHECKING:
    from xfelmpi.cli.parser import Parser


def parser(*, dry_run: bool = False) -> "Parser":
    """Return the parser of the command's arguments; with `dry_run` sigma takes several values."""
    # rank 0 alone parses
    from xfelmpi.cli import parser as arguments

    parser = arguments.Parser(
        prog="xfelmpi",
        description="Turn a run into the events table, powder patterns, hits as CXI, hits as a "
        "sparse EMC file, and a virtual dataset of all frames. Exit status: 0 complete, "
        "3 complete but some input was excluded, 2 wrong use or unusable input, 1 a bug, "
        "143 or 130 stopped by SIGTERM or SIGINT.",
    )
    arguments.add_run(parser)
    again = parser.add_argument_group("re-thresholding a processed run")
    again.add_argument(
        "--from-events",
        action="store_true",
        help="find hits again from the scores in the events file, with the options given here"
        " (all others keep their values), and replace all output files of the run except"
        " the virtual dataset; only hits and misses are read",
    )
    again.add_argument(
        "--dry-run",
        action="store_true",
        help="with --from-events: write nothing, but show the hit rate for every value of"
        " --sigma, e.g. --sigma 3 4 5 6",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue a job that was stopped or killed from its last checkpoint, with any"
        " number of ranks and any options of hit finding; the files are bit-identical to"
        " those of an uninterrupted job",
    )
    parser.add_argument(
        "--wait",
        type=arguments.checked(parse_duration),
        metavar="TIME",
        help="wait up to this long, e.g. 30m, until the run is complete and corrected (default: do "
        "not wait; a run that is not complete is processed as it is, with exit status 3)",
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="process the run while it is being written: read every sequence once it is"
        " complete, write outputs and report for the frames read so far, and at the end"
        " for the whole run",
    )
    parser.add_argument(
        "--follow-timeout",
        type=arguments.checked(parse_duration),
        default=600.0,
        metavar="TIME",
        help="with --follow: treat a run as finished if it has not changed for this long"
        " (default: 10m)",
    )
    arguments.add_arguments(parser, several=("sigma",) if dry_run else ())
    return parser


def main(argv: list[str], comm) -> int:
    """Run the main job and return its exit status; `comm` is None for ``--help`` only."""
    if comm is None:
        parser().parse_args(argv)
    from xfelmpi.mpi import bcast_from_root, run_on_root

    given, sigmas = bcast_from_root(comm, lambda: _parse(argv))
    if not given.from_events:
        config = bcast_from_root(comm, lambda: _config(given))
        job = RunJob.of(comm, config, argv)
        with _only_job(job), _failure_recorded(job):
            if given.wait:
                from xfelmpi.workflows.wait import wait_for_run

                wait_for_run(job, given.wait)
            process = _process_of(config)
            if given.follow:
                from xfelmpi.workflows.follow import Following, follow

                how = Following(given.follow_timeout, given.resume)
                return follow(comm, config, argv, how, process)
            return process(job, resume=given.resume)
    from xfelmpi.workflows.rethreshold import hit_rates, rethreshold_run

    config = bcast_from_root(comm, lambda: _config_from_events(given))
    if not given.dry_run:
        job = RunJob.of(comm, config, argv)
        with _only_job(job), _failure_recorded(job):
            return rethreshold_run(job)
    run_on_root(comm, lambda: _show(hit_rates(config, sigmas or [config.sigma])))
    return 0


def _process_of(config: Config) -> Callable[[RunJob, bool], int]:
    """Return what processes a run: by what the facility found in it, or by all frames."""
    if "facility" in (config.hits, config.score):
        from xfelmpi.workflows.facility import process_by_facility

        return process_by_facility
    from xfelmpi.workflows.process import process

    return process


def _parse(argv: list[str]):
    """Return the parsed arguments, and the sigmas of a dry run."""
    dry_run = "--dry-run" in argv
    # plain, for ranks without argparse
    given = SimpleNamespace(**vars(parser(dry_run=dry_run).parse_args(argv)))
    if given.resume and given.from_events:
        raise UsageError("--from-events reads only hits and misses: leave out --resume")
    if given.follow and (given.from_events or given.wait):
        raise UsageError("--follow: leave out --from-events and --wait")
    if given.wait and given.from_events:
        raise UsageError("--from-events reads a run that was processed: leave out --wait")
    if not dry_run:
        return given, []
    if not given.from_events:
        raise UsageError("--dry-run takes the scores from the events file: add --from-events")
    sigmas, given.sigma = given.sigma or [], None
    return given, sigmas


def _config(given) -> Config:
    from xfelmpi.cli.parser import from_arguments

    return from_arguments(given)


def _config_from_events(given) -> Config:
    from xfelmpi.cli import parser as arguments
    from xfelmpi.output.events import read_settings
    from xfelmpi.workflows.rethreshold import refuse_other_scores

    values = arguments.given_values(given)
    path = Experiment(values["prefix"], values["output"], given.run).events
    first, chosen = read_settings(path)
    config = arguments.from_arguments(given, first)
    refuse_other_scores(config, first, chosen)
    return config


def _only_job(job: RunJob):
    from xfelmpi.io.lock_file import held_if_there

    run, lock = job.experiment.run, job.experiment.lock
    return held_if_there(job.comm, job.config.prefix, lock, f"run {run} is being processed")


@contextmanager
def _failure_recorded(job: RunJob):
    """Let the run overview tell of a job that fails or is stopped."""
    experiment = job.experiment

    def record(error: Exception) -> None:
        if job.config.report:
            from xfelmpi.report.overview import record_failure

            record_failure(experiment, error)

    before = _stamp(experiment.status)

    def record_stop(text: str) -> None:
        # when the outputs are complete that is no failure, and one of another rank tells more
        if job.shutdown.stage() and _stamp(experiment.status) == before:
            record(XfelmpiError(text))

    job.shutdown.record = record_stop
    try:
        yield
    except Exception as error:
        record(error)
        raise


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _show(lines: list[str]) -> None:
    from xfelmpi.core.log import log

    for line in lines:
        log.info(line)
