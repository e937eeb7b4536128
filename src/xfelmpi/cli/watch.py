"""``xfelmpi watch``: every run of a beamtime is processed as soon as it is complete."""

import argparse
from pathlib import Path

from xfelmpi.cli import batch_options
from xfelmpi.cli import parser as arguments
from xfelmpi.core.config.parsing import parse_duration, parse_run, parse_runs, parse_whole
from xfelmpi.core.errors import EXIT_COMPLETE, OutputError, UsageError
from xfelmpi.core.paths import Experiment, WatchFiles

_RULES = "watch.toml"


def parser() -> arguments.Parser:
    """Return the parser of the command's arguments."""
    parser = arguments.Parser(
        prog="xfelmpi watch",
        usage="xfelmpi watch [options] [-- options of the jobs]",
        description="Check raw/ and proc/ at regular intervals, and submit a job for every"
        " run that is complete: all modules have all sequences and end at the same"
        " train. Give options of the main job after --, or in watch.toml. You can"
        " stop it (Ctrl-C) or kill it at any time, and start it again: its jobs"
        " continue.",
    )
    arguments.add_with_defaults(parser, "prefix", "output")
    parser.add_argument(
        "--rules",
        type=Path,
        metavar="FILE.toml",
        help=f"options by run (default: OUTPUT/{_RULES} if there)",
    )
    _add_what(parser.add_argument_group("what is processed"))
    _add_how(parser.add_argument_group("how"))
    batch_options.add_slurm(parser)
    return parser


def _add_what(group) -> None:
    duration = arguments.checked(parse_duration)
    group.add_argument(
        "--runs",
        type=arguments.checked(parse_runs),
        metavar="A-B,C",
        help="only these runs, e.g. 50-60,65 (default: all)",
    )
    group.add_argument(
        "--raw-after",
        type=duration,
        metavar="TIME",
        help="process the raw run if it is not corrected this long after it was complete, e.g. "
        "20m, and again when the corrected data are there (default: wait for correction)",
    )
    group.add_argument(
        "--redu",
        choices=("auto", "yes", "no"),
        default="auto",
        help="whether a run is complete only with a REDU file of the facility's data reduction; "
        "auto: if another run has one (default: auto)",
    )
    group.add_argument(
        "--settle",
        type=duration,
        default=30.0,
        metavar="TIME",
        help="treat files as finished if they have not changed for this long (default: 30s)",
    )
    group.add_argument(
        "--patience",
        type=duration,
        default=1800.0,
        metavar="TIME",
        help="process an incomplete run as it is if all its files are there and have not"
        " changed for this long (default: 30m)",
    )


def _add_how(group) -> None:
    group.add_argument(
        "--local", action="store_true", help="run the jobs on this machine, not in Slurm"
    )
    group.add_argument(
        "--jobs",
        type=arguments.checked(parse_whole),
        metavar="N",
        help="jobs at the same time (default: 1 with --local, else 1000)",
    )
    group.add_argument(
        "--tries",
        type=arguments.checked(parse_whole),
        default=3,
        metavar="N",
        help="number of jobs for one run, if jobs are preempted, reach the time limit or die"
        " (default: 3)",
    )
    group.add_argument(
        "--every",
        type=arguments.checked(parse_duration),
        default=20.0,
        metavar="TIME",
        help="time between two checks (default: 20s)",
    )
    group.add_argument("--once", action="store_true", help="check once, for cron")
    group.add_argument(
        "--status", action="store_true", help="list runs that are done, running, failed or waiting"
    )
    group.add_argument(
        "--again",
        type=arguments.checked(parse_run),
        nargs="+",
        metavar="RUN",
        help="ask the running watch to process these runs (again), even if they failed or are"
        " not complete",
    )


def main(argv: list[str], _comm) -> int:
    """Watch, and return the exit status."""
    at = argv.index("--") if "--" in argv else len(argv)
    given, words = parser().parse_args(argv[:at]), argv[at + 1 :]
    prefix, output = batch_options.where(given)
    files = WatchFiles(output)
    if given.status:
        from xfelmpi.workflows.watch.table import status_table

        return _print(status_table(files, given.runs))
    if given.again:
        return _ask(files, prefix, output, given.again)
    return _watch(given, words, prefix, output, files)


def _watch(given: argparse.Namespace, words: list[str], prefix: Path, output: Path, files) -> int:
    from xfelmpi.core.log import log
    from xfelmpi.core.shutdown import stop_plan
    from xfelmpi.io.lock_file import held_by_one
    from xfelmpi.workflows.watch.looks import LookOptions
    from xfelmpi.workflows.watch.loop import Watcher
    from xfelmpi.workflows.watch.rules import Rules, read_rules

    path = given.rules or output / _RULES
    rules = read_rules(path) if given.rules or path.exists() else Rules()
    for options in ((), *(rule.options for rule in rules.rules)):
        batch_options.check_job_options([*rules.options, *options, *words], prefix, output)
    if min(given.tries, 1 if given.jobs is None else given.jobs) < 1:
        raise UsageError("--tries and --jobs: expected numbers from 1 on")
    options = LookOptions(
        prefix=prefix,
        output=output,
        rules=rules,
        options=tuple(words),
        settle=given.settle,
        patience=given.patience,
        raw_after=given.raw_after,
        redu={"auto": None, "yes": True, "no": False}[given.redu],
        every=given.every,
    )
    queue = _queue(given, files)
    stop_plan.advice = lambda: "its jobs go on; the next xfelmpi watch continues from here"
    with held_by_one(files.lock, f"{output} is being watched"):
        watcher = Watcher(
            options,
            queue,
            files,
            given.tries,
            given.runs,
            extra=lambda size: _nodes(given.nodes, size),
            show=lambda _state: _show(output),
        )
        log.info("watching %s, jobs run in %s", prefix, queue.where)
        if watcher.state.runs:
            # an overview that is open somewhere is to be loaded again from now on
            _show(output)
        return watcher.run(once=given.once)


def _show(output: Path) -> None:
    """Let the run overview tell of jobs and of runs that wait; what fails is a warning."""
    from xfelmpi.core.log import log
    from xfelmpi.io.output_file import make_folder
    from xfelmpi.report.overview import rebuild

    overview = Experiment(output, output, 0).overview
    try:
        make_folder(overview.parent)
        rebuild(overview)
    except (OSError, OutputError) as error:
        log.warning("%s: %s", overview, error)


def _queue(given: argparse.Namespace, files: WatchFiles):
    from xfelmpi.workflows.watch.queues import LocalQueue, SlurmQueue, find_script

    if given.local:
        return LocalQueue(files, find_script(), given.jobs or 1)
    words, cluster = batch_options.slurm_words(given), given.cluster or ""
    return SlurmQueue(files, find_script(), words, cluster, given.jobs or 1000)


def _nodes(wanted: int, n_bytes: int) -> list[str]:
    from xfelmpi.workflows.watch.nodes import nodes_for

    return [f"--nodes={wanted or nodes_for(n_bytes)}"]


def _ask(files: WatchFiles, prefix: Path, output: Path, runs: list[int]) -> int:
    from xfelmpi.core.log import log
    from xfelmpi.workflows.watch.loop import ask_again

    for run in runs:
        experiment = Experiment(prefix, output, run)
        if not any(experiment.run_folder(kind).is_dir() for kind in ("raw", "proc")):
            raise UsageError(f"{prefix}: no run {run} in its raw/ and proc/")
    ask_again(files, runs)
    if not files.lock.exists():
        log.info("no xfelmpi watch is running; the next one will process them")
    return EXIT_COMPLETE


def _print(lines: list[str]) -> int:
    from xfelmpi.core.log import log

    for line in lines:
        log.info("%s", line)
    return EXIT_COMPLETE
