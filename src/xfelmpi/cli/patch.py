"""``xfelmpi patch``: finished files with another geometry, distance or mask, without the run."""

import re
from contextlib import ExitStack
from pathlib import Path

from xfelmpi.cli import parser as arguments
from xfelmpi.core.config.options import Config
from xfelmpi.core.config.parsing import parse_run
from xfelmpi.core.errors import UsageError
from xfelmpi.core.paths import Experiment, MergedFiles

_MERGED = re.compile(r"\w[\w.+-]*")


def parser() -> arguments.Parser:
    """Return the parser of the command's arguments."""
    parser = arguments.Parser(
        prog="xfelmpi patch",
        description="Change geometry or distance in the files of processed runs and of merged"
        " hits, or mark further pixels as bad: in CXI, EMC and detector file,"
        " powder, events and report. The run is not read; scores and hits stay the"
        " same. All files of all runs are replaced, or none. Exit status: 0"
        " complete, 2 wrong use or unusable input, 1 a bug.",
    )
    parser.add_argument(
        "what",
        nargs="+",
        metavar="RUN",
        help="run numbers, and names of merged hits, e.g. 50 51 r0050-r0051",
    )
    parser.add_argument(
        "--mask",
        type=Path,
        dest="new_mask",
        metavar="FILE",
        help="good pixels for all cells, or per memory cell; bad pixels of this mask become"
        " bad, and pixels that are bad already stay bad",
    )
    arguments.add_arguments(parser, only=("prefix", "output", "geometry", "distance"))
    return parser


def main(argv: list[str], comm) -> int:
    """Patch the files and return the exit status; `comm` is None for ``--help`` only."""
    if comm is None:
        parser().parse_args(argv)
    from xfelmpi.mpi import bcast_from_root
    from xfelmpi.workflows.patch.new_inputs import Change

    config, sets, mask = bcast_from_root(comm, lambda: _parse(argv))
    change = Change(config.geometry, mask, config.distance)
    return patch_sets(comm, ["patch", *argv], config, sets, change)


def patch_sets(comm, words: list[str], config: Config, sets: list, change) -> int:
    """Patch sets of hits that no other job is changing, and return the exit status; collective.

    Parameters
    ----------
    comm : Intracomm
    words : list of str
        The command and its arguments.
    config : Config
        Where the files are.
    sets : list of Experiment or MergedFiles
    change : Change
    """
    from xfelmpi.core.job_context import RunJob
    from xfelmpi.io.lock_file import held_if_there
    from xfelmpi.workflows.patch.job import patch

    job = RunJob.of(comm, config, words)
    job.announce()
    with ExitStack() as locks:
        for files in sets:
            what = f"{files.cxi.name} is being patched"
            locks.enter_context(held_if_there(comm, config.output, files.lock, what))
        return patch(job, sets, change)


def _parse(argv: list[str]) -> tuple[Config, list[Experiment | MergedFiles], Path | None]:
    given = parser().parse_args(argv)
    runs = {word: _run_number(word) for word in given.what}
    given.run = next((run for run in runs.values() if run is not None), 0)
    config = arguments.from_arguments(given)
    mask = given.new_mask and given.new_mask.absolute()
    if config.geometry is None and mask is None and config.distance is None:
        raise UsageError("nothing to change: give --geometry, --distance or --mask (see --help)")
    sets: list[Experiment | MergedFiles] = []
    for word, run in runs.items():
        if run is not None:
            files = Experiment(config.prefix, config.output, run)
        elif _MERGED.fullmatch(word):
            files = MergedFiles(config.output, word)
        else:
            raise UsageError(f"{word!r} is neither a run number nor the name of merged hits")
        if files in sets:
            raise UsageError(f"{word} is given more than once")
        sets.append(files)
    return config, sets, mask


def _run_number(word: str) -> int | None:
    try:
        return parse_run(word)
    except ValueError:
        return None
