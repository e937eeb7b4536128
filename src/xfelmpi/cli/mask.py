"""A mask per memory cell from the run itself: hot, dead and noisy pixels and cells."""

import json
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from xfelmpi.cli import parser as arguments
from xfelmpi.core.errors import UsageError
from xfelmpi.core.paths import Experiment
from xfelmpi.workflows.mask.bad_pixels import BadPixelCriteria

_OPTIONS = (
    *("prefix", "output", "data", "detector", "trains", "suspect_trains", "global_mask"),
    *("adu_per_photon", "photon_threshold", "constants", "common_mode", "memory_per_rank"),
)

_RANGES = (
    ("cell_sigma", 1, 1000),
    ("ratio", 1, 1e6),
    ("dead_chance", 1e-300, 0.1),
    ("noise_sigma", 1, 1000),
)
_MASK_OPTIONS = (
    *("leave_out", "noise", "noise_sigma", "asic_edges", "mask_file", "overwrite"),
    "powder_cells",
)


def parser() -> arguments.Parser:
    """Return the parser of the command's arguments."""
    parser = arguments.Parser(
        prog="xfelmpi mask",
        description="Make det/rRRRR_mask.h5, which the main job finds there: the good pixels"
        " of every memory cell, judged by their photons summed over the run. A"
        " memory cell is compared with the other cells of its pixel, and a pixel"
        " with the pixels around it. Exit status: 0 complete, 3 complete but some"
        " input was excluded, 2 wrong use or unusable input, 1 a bug.",
    )
    arguments.add_run(parser)
    group = parser.add_argument_group("mask")
    _add_limits(group)
    _add_judgement(group)
    _add_outputs(group)
    arguments.add_arguments(parser, only=_OPTIONS)
    return parser


def _add_limits(group) -> None:
    limits = BadPixelCriteria()
    group.add_argument(
        "--cell-sigma",
        type=float,
        default=limits.sigma,
        metavar="S",
        help="bad if a count is farther from the expected one, in standard deviations: of the "
        f"shot noise, or of the other cells if that is more (default: {limits.sigma:g})",
    )
    group.add_argument(
        "--ratio",
        type=float,
        default=limits.ratio,
        metavar="R",
        help="a pixel is also bad if it has R times more, or less, than the median of the 7 x 7 "
        f"pixels around it (default: {limits.ratio:g})",
    )
    group.add_argument(
        "--dead-chance",
        type=float,
        default=limits.dead_chance,
        metavar="P",
        help="a pixel without photons is dead if a good pixel has none with a smaller probability "
        f"than P (default: {limits.dead_chance:g})",
    )


def _add_judgement(group) -> None:
    group.add_argument(
        "--leave-out",
        choices=("bright", "hits", "none"),
        default="bright",
        help="frames to leave out of the sums; bright: frames that are brighter than the"
        " others of their train (module by module); hits: hits of the events file"
        " (default: bright)",
    )
    group.add_argument(
        "--noise",
        type=Path,
        metavar="DIR",
        help="folder of calibration constants with Noise, as written by xfelmpi darks; pixels"
        " whose noise is far from the median of their ASIC are bad",
    )
    group.add_argument(
        "--noise-sigma",
        type=float,
        default=8.0,
        metavar="S",
        help="with --noise: how far, in robust standard deviations (default: 8)",
    )
    group.add_argument(
        "--asic-edges", action="store_true", help="mark the pixels at the edges of the ASICs as bad"
    )


def _add_outputs(group) -> None:
    group.add_argument(
        "--mask-file",
        type=Path,
        metavar="FILE",
        help="mask file to write (default: OUTPUT/det/rRRRR_mask.h5)",
    )
    group.add_argument("--overwrite", action="store_true", help="replace an existing mask")
    group.add_argument(
        "--powder-cells",
        action="store_true",
        help="also write powder/rRRRR_powder_cells.h5: photons per memory cell, over all frames, "
        "and over hits and misses if there is an events file",
    )


def main(argv: list[str], comm) -> int:
    """Make the mask and return the exit status; `comm` is None for ``--help`` only."""
    if comm is None:
        parser().parse_args(argv)
    from xfelmpi.core.job_context import RunJob
    from xfelmpi.io.lock_file import held_if_there
    from xfelmpi.mpi import bcast_from_root
    from xfelmpi.workflows.mask.job import make_mask

    config, options = bcast_from_root(comm, lambda: _given(argv))
    lock = Experiment(config.prefix, config.output, config.run).mask_lock
    what = f"the mask of run {config.run} is being made"
    with ExitStack() as locks:
        locks.enter_context(held_if_there(comm, config.prefix, lock, what))
        if options.mask_file is not None:
            # that of another run may be made there, too
            lock = options.mask_file.with_name(f"{options.mask_file.name}.lock")
            what = f"the mask {options.mask_file.name} is being made"
            locks.enter_context(held_if_there(comm, config.prefix, lock, what))
        # settings of both kinds
        settings = json.dumps({**asdict(config), **asdict(options)}, default=str, sort_keys=True)
        job = replace(RunJob.of(comm, config, ["mask", *argv]), settings=settings)
        return make_mask(job, options)


def _given(argv: list[str]) -> tuple:
    from xfelmpi.workflows.mask.inputs import MaskOptions

    given = parser().parse_args(argv)
    for name, low, high in _RANGES:
        value = getattr(given, name)
        if not low <= value <= high:
            option = name.replace("_", "-")
            raise UsageError(f"--{option}: found {value}, expected {low:g} to {high:g}")
    # the main job's virtual dataset and its masks do not matter here
    config = replace(arguments.from_arguments(given), vds=False, mask=("auto",))
    limits = BadPixelCriteria(given.cell_sigma, given.ratio, given.dead_chance)
    values = {name: getattr(given, name) for name in _MASK_OPTIONS}
    return config, MaskOptions(limits, **values)
