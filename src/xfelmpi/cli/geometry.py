"""``xfelmpi geometry``: the beam centre and the quadrants from the hits of processed runs."""

from contextlib import ExitStack
from pathlib import Path

from xfelmpi.cli import parser as arguments
from xfelmpi.core.config.options import Config
from xfelmpi.core.errors import UsageError
from xfelmpi.core.paths import Experiment


def parser() -> arguments.Parser:
    """Return the parser of the command's arguments."""
    parser = arguments.Parser(
        prog="xfelmpi geometry",
        description="Find where the beam hits the detector, from the powder of the hits of"
        " processed runs, and write a geometry file in which this powder is"
        " centred on the beam. xfelmpi patch applies it. Exit status: 0 complete,"
        " 2 wrong use or unusable input, 1 a bug.",
    )
    arguments.add_runs(
        parser, "runs that were processed with the same geometry: 50 51, 50,51 or 50-53"
    )
    parser.add_argument(
        "--quadrants",
        action="store_true",
        help="move each quadrant by itself, not the detector as a whole",
    )
    parser.add_argument(
        "--geometry-file",
        type=Path,
        metavar="FILE",
        help="geometry file to write (default: OUTPUT/det/rRRRR.geom)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    arguments.add_arguments(parser, only=("prefix", "output"))
    return parser


def main(argv: list[str], comm) -> int:
    """Refine the geometry and return the exit status; `comm` is None for ``--help`` only."""
    if comm is None:
        parser().parse_args(argv)
    from xfelmpi.core.job_context import RunJob
    from xfelmpi.io.lock_file import held_if_there
    from xfelmpi.mpi import bcast_from_root
    from xfelmpi.workflows.geometry import refine_geometry

    config, runs, quadrants, out = bcast_from_root(comm, lambda: _parse(argv))
    job = RunJob.of(comm, config, ["geometry", *argv])
    # beside the file: jobs with other outputs may write it, too
    lock = out.with_name(f"{out.name}.lock")
    with ExitStack() as locks:
        for path in (lock, Experiment(config.prefix, config.output, runs[0]).geometry_lock):
            what = f"the geometry {out.name} is being made"
            locks.enter_context(held_if_there(comm, config.output, path, what))
        return refine_geometry(job, runs, out, quadrants=quadrants)


def _parse(argv: list[str]) -> tuple[Config, list[int], bool, Path]:
    given = parser().parse_args(argv)
    config = arguments.from_arguments(given)
    arguments.refuse_repeated(given.runs)
    out = given.geometry_file or config.output / "det" / f"r{given.runs[0]:04d}.geom"
    if out.exists() and not given.overwrite:
        raise UsageError(f"{out} exists already; to replace it, add --overwrite")
    return config, given.runs, given.quadrants, out.absolute()
