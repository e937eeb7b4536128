"""Dark runs → constants for raw data, in the layout of Cheetah and OM, plus the noise."""

import argparse
import json
from pathlib import Path

from xfelmpi.calibration.constants_file import STAGES
from xfelmpi.cli import parser as arguments
from xfelmpi.core.errors import UsageError
from xfelmpi.core.paths import Experiment, experiment_folder
from xfelmpi.detectors.known import DETECTORS

SUMMARY = "make calibration constants for raw data from one dark run, or from one per gain stage"


_LARGEST_GAIN = 1e6


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = arguments.Parser(prog="xfelmpi darks", description=SUMMARY.capitalize() + ".")
    arguments.add_runs(
        parser,
        "dark runs in high, medium and low gain, in this order; with a single run, the"
        " calibration constants are for fixed high gain",
    )
    arguments.add_with_defaults(parser, "prefix", "detector", "suspect_trains", "memory_per_rank")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the calibration constants (default: PREFIX/scratch/det/constants)",
    )
    parser.add_argument(
        "--gains",
        type=float,
        nargs=3,
        default=DETECTORS[0].nominal_gains,
        metavar=("HIGH", "MEDIUM", "LOW"),
        help="relative gains of the stages (default: 1 38 180)",
    )
    parser.add_argument(
        "--offset-sigma",
        type=float,
        default=8.0,
        metavar="S",
        help="a pixel is bad if its offset differs from the median of its ASIC by more than"
        " this many robust standard deviations (default: 8)",
    )
    parser.add_argument(
        "--noise-sigma",
        type=float,
        default=8.0,
        metavar="S",
        help="the same for the noise of a pixel (default: 8)",
    )
    return parser


def main(argv: list[str], comm) -> int:
    """Make constants and return the exit status; `comm` is None for ``--help`` only."""
    if comm is None:
        parser().parse_args(argv)
    from xfelmpi.core.job_context import JobContext
    from xfelmpi.io.lock_file import held_if_there
    from xfelmpi.mpi import bcast_from_root
    from xfelmpi.workflows.darks import make_constants

    given = bcast_from_root(comm, lambda: _given(argv))
    prefix = given.prefix
    experiments = [Experiment(prefix, prefix / "scratch", run) for run in given.runs]
    out = given.out or experiments[0].constants
    what = f"calibration constants in {out} are being made"
    with held_if_there(comm, prefix, out / "darks.lock", what):
        job = JobContext(
            comm=comm,
            experiment=experiments[0],
            settings=json.dumps(vars(given), default=str),
            argv=("darks", *argv),
        )
        return make_constants(job, given, experiments, out)


def _given(argv: list[str]) -> argparse.Namespace:
    given = parser().parse_args(argv)
    if len(given.runs) > STAGES:
        raise UsageError(
            f"found {len(given.runs)} runs, expected one for each of {STAGES} gain stages"
        )
    if len(set(given.runs)) < len(given.runs):
        raise UsageError(
            f"found runs {' '.join(map(str, given.runs))}, expected one for each gain stage, all "
            "different"
        )
    # false for NaN, too
    if not all(0 < gain <= _LARGEST_GAIN for gain in given.gains):
        raise UsageError(
            f"--gains: found {given.gains}, expected numbers above 0, up to {_LARGEST_GAIN:g}"
        )
    for name in ("offset_sigma", "noise_sigma"):
        if not getattr(given, name) >= 0:
            option = name.replace("_", "-")
            raise UsageError(f"--{option}: found {getattr(given, name)}, expected 0 or more")
    given.prefix = experiment_folder(given.prefix)
    return given
