"""Options of the commands that submit jobs: what goes to Slurm, and what goes to the job."""

import argparse

from xfelmpi.cli import parser as arguments
from xfelmpi.core.errors import UsageError
from xfelmpi.core.paths import experiment_folder

_SLURM = {
    "partition": "partition of Slurm, e.g. upex-beamtime",
    "reservation": "reservation of Slurm, e.g. upex_007927",
    "cluster": "cluster of Slurm, if it is not the default of this machine",
    "account": "account of Slurm",
    "constraint": "kind of node, e.g. EPYC",
    "time": "time limit of a job (default: that of jobs/process_run.sh)",
}

_NOT_FOR_JOBS = ("--prefix", "--output", "--from-events", "--dry-run", "--resume")


def add_slurm(parser: argparse.ArgumentParser) -> None:
    """Add the options that go to ``sbatch``."""
    group = parser.add_argument_group("Slurm")
    for name, text in _SLURM.items():
        group.add_argument(f"--{name}", metavar=name.upper(), help=text)
    group.add_argument(
        "--nodes",
        type=arguments.checked(_parse_nodes),
        default=1,
        metavar="N",
        help="nodes of a job; auto: by the size of the run (default: 1)",
    )


def _parse_nodes(text) -> int:
    """Return a number of nodes, 0 for ``auto``."""
    if text == "auto":
        return 0
    if not str(text).isdecimal() or not 0 < int(text) <= 1000:
        raise ValueError(f"{str(text)[:40]!r} is not a number of nodes; expected e.g. 2, or auto")
    return int(text)


def slurm_words(given: argparse.Namespace) -> tuple[str, ...]:
    """Return the options for ``sbatch``, all but the number of nodes."""
    given_values = {name: getattr(given, name) for name in _SLURM}
    flags = {"cluster": "clusters"}
    return tuple(f"--{flags.get(name, name)}={v}" for name, v in given_values.items() if v)


def check_job_options(words: list[str], prefix, output) -> None:
    """Check that jobs will understand their options, before any is submitted.

    Raises
    ------
    UsageError
        If they will not, or an option belongs elsewhere.
    """
    from xfelmpi.cli import process

    for word in words:
        if word.partition("=")[0] in _NOT_FOR_JOBS:
            raise UsageError(f"{word}: not an option for the jobs of this command")
    parsed = process.parser().parse_args(["1", *words])
    parsed.prefix, parsed.output = prefix, output
    arguments.from_arguments(parsed)


def where(given: argparse.Namespace):
    """Return the experiment folder and that of the outputs.

    Raises
    ------
    UsageError
        If no experiment folder is named, or it is not there.
    """
    prefix = experiment_folder(given.prefix)
    if not prefix.is_dir():
        raise UsageError(f"{prefix}: no such folder; expected the experiment folder")
    return prefix, given.output or prefix / "scratch"
