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
        "frame by frame, EMC, Dragonfly's detector, virtual dataset) and, on a sample of frames or "
        "on all, against the run itself, with the settings that they were made with. Any number of "
        "ranks. Writes nothing except the kept index and beamline data of the run. Does not check "
        "what merge, mask and darks write. Exit status: 0 all checks passed, 1 a check failed (a "
        "list says what was found, and what was expected), 2 wrong use, or the run has not been "
        "processed.",
    )
    arguments.add_run(parser)
    parser.add_argument(
        "--frames",
        type=int,
        metavar="N",
        help="read N frames of the run, and N / 10 hits, again with h5py and numpy instead of the "
        f"job's kernels; always the same ones; 0: do not read the run (default: {FRAMES})",
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
    from xfelmpi.mpi import bcast_from_root
    from xfelmpi.workflows.verify.job import verify

    config, frames, whole = bcast_from_root(comm, lambda: _parse(argv))
    return verify(comm, config, frames, whole)


def _parse(argv: list[str]) -> tuple[Config, int, bool]:
    from xfelmpi.output.events import read_settings

    given = parser().parse_args(argv)
    if given.frames is not None and (given.all or given.frames < 0):
        why = "--all reads all of them" if given.all else "expected 0 or more"
        raise UsageError(f"--frames {given.frames}: {why}")
    values = arguments.given_values(given)
    path = Experiment(values["prefix"], values["output"], given.run).events
    first = None
    try:
        first, _ = read_settings(path)
    except InputError:
        # one that is there but damaged is a finding
        if not path.exists():
            raise
    # a file of settings must not change those that the outputs were made with
    own = {name: values[name] for name in ("run", *_OPTIONS) if name in values}
    config = dataclasses.replace(first or Config(), **own)
    return config, FRAMES if given.frames is None else given.frames, given.all
