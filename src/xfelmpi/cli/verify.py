"""``xfelmpi verify``: check finished outputs against each other, and against the run."""

import dataclasses

from xfelmpi.cli import parser as arguments
from xfelmpi.core.config.options import Config
from xfelmpi.core.errors import InputError, UsageError
from xfelmpi.core.paths import Experiment

FRAMES = 200

_OPTIONS = ("prefix", "output", "memory_per_rank")


def parser() -> arguments.Parser:
    """Return the parser of the command's arguments."""
    parser = arguments.Parser(
        prog="xfelmpi verify",
        description="Check the finished outputs of a run against each other (events, powder, CXI "
        "frame by frame, EMC, Dragonfly's detector and folder, the files of --where, virtual "
        "dataset) and, on a sample of frames or on all, against the run itself, with the settings "
        "that they were made with. Any number of ranks. Writes nothing except the kept index and "
        "beamline data of the run. Does not check what the commands merge, mask and darks write. "
        "Several runs are checked one after the other. Exit status: 0 all checks passed, 1 a check "
        "failed (a list says what was found, and what was expected), 2 wrong use, or a run has not "
        "been processed.",
    )
    arguments.add_runs(parser, "run numbers, e.g. 50 or 50-53")
    parser.add_argument(
        "--frames",
        type=int,
        metavar="N",
        help="read N frames and N / 10 hits of the run again, always the same ones, with h5py and "
        f"numpy instead of the job's kernels; 0: do not read the run (default: {FRAMES})",
    )
    parser.add_argument(
        "--all", action="store_true", help="read the whole run again, as the job did, and compare"
    )
    arguments.add_arguments(parser, only=_OPTIONS)
    return parser


def main(argv: list[str], comm) -> int:
    """Check and return the exit status; `comm` is None for ``--help`` only."""
    if comm is None:
        parser().parse_args(argv)
    from xfelmpi.core.log import log
    from xfelmpi.mpi import bcast_from_root
    from xfelmpi.workflows.verify.job import verify

    configs, frames = bcast_from_root(comm, lambda: _parse(argv))
    statuses = []
    for config in configs:
        if len(configs) > 1 and comm.rank == 0:
            log.info("run %d:", config.run)
        statuses.append(verify(comm, config, frames))
    return max(statuses)


def _parse(argv: list[str]) -> tuple[list[Config], int | None]:
    """Return the settings of every run, and how many frames are read again; None: all."""
    given = parser().parse_args(argv)
    if given.frames is not None and (given.all or given.frames < 0):
        why = "--all reads all of them" if given.all else "expected 0 or more"
        raise UsageError(f"--frames {given.frames}: {why}")
    arguments.refuse_repeated(given.runs)
    values = arguments.given_values(given)
    configs = [_settings(values | {"run": run}) for run in given.runs]
    if given.all:
        return configs, None
    return configs, FRAMES if given.frames is None else given.frames


def _settings(values: dict) -> Config:
    """Return the settings that a run's outputs were made with, its folders as given."""
    from xfelmpi.output.events import read_settings

    path = Experiment(values["prefix"], values["output"], values["run"]).events
    first = None
    try:
        first, _ = read_settings(path)
    except InputError:
        # one that is there but damaged is a finding
        if not path.exists():
            raise
    # a file of settings must not change those that the outputs were made with
    own = {name: values[name] for name in ("run", *_OPTIONS) if name in values}
    return dataclasses.replace(first or Config(), **own)
