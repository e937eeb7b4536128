"""``xfelmpi show``: a processed run in the terminal, from its output files alone."""

import shutil
import sys

from xfelmpi.cli import parser as arguments
from xfelmpi.core.errors import EXIT_COMPLETE, UsageError
from xfelmpi.core.paths import Experiment


def parser() -> arguments.Parser:
    """Return the parser of the command's arguments."""
    parser = arguments.Parser(
        prog="xfelmpi show",
        description="Show a processed run in the terminal: headline, hit rate against train"
        " and hit-score histogram; or some of its hits. Several runs are shown one"
        " after the other.",
    )
    arguments.add_runs(parser, "run numbers, e.g. 50 or 50-53")
    parser.add_argument(
        "--hit",
        type=int,
        nargs="+",
        action="extend",
        metavar="N",
        help="draw these hits, by their index in the CXI file, counted from 0",
    )
    arguments.add_arguments(parser, only=("prefix", "output"))
    return parser


def main(argv: list[str], comm) -> int:
    """Show it and return the exit status; `comm` is None for ``--help`` only."""
    if comm is None:
        parser().parse_args(argv)
    from xfelmpi.core.log import log
    from xfelmpi.mpi import run_on_root

    for line in run_on_root(comm, lambda: _lines(argv)) or ():
        log.info("%s", line, extra={"painted": True})
    return EXIT_COMPLETE


def _lines(argv: list[str]) -> list[str]:
    given = parser().parse_args(argv)
    from xfelmpi.core.log import has_colours

    size = shutil.get_terminal_size((80, 24))
    colour = has_colours(sys.stdout)
    lines: list[str] = []
    for run in given.runs:
        given.run = run
        config = arguments.from_arguments(given)
        experiment = Experiment(config.prefix, config.output, config.run)
        for hit in given.hit or ():
            lines += _hit(experiment, hit, size.columns, colour=colour)
        if given.hit is None:
            lines += ["", *_run(experiment, min(size.columns, 120), colour=colour)]
    return lines if given.hit else lines[1:]


def _run(experiment: Experiment, columns: int, *, colour: bool) -> list[str]:
    import numpy as np

    from xfelmpi.report.curves import over_trains
    from xfelmpi.report.run_files import read_run_files
    from xfelmpi.report.terminal import headline_lines, rate_lines, score_lines

    found = read_run_files(experiment)
    run, events = found.run, found.run.events
    decided = np.isfinite(events.hit_threshold)
    threshold = float(np.median(events.hit_threshold[decided])) if decided.any() else np.nan
    curve = over_trains(events.trainId, run.complete, events.is_hit, events.pulse_energy)
    width = max(columns - 14, 30)
    return [
        *headline_lines(found.head, colour=colour),
        "",
        "hit rate against train, running mean",
        *rate_lines(curve, width, 8),
        "",
        f"frames against score, logarithmic; the line is the threshold, {threshold:,.1f}",
        *score_lines(events.hitscore[decided], threshold, width, 8),
    ]


def _hit(experiment: Experiment, hit: int, columns: int, *, colour: bool) -> list[str]:
    import numpy as np

    from xfelmpi.output.cxi.hit_file import check_rows, read_hit, read_hit_file
    from xfelmpi.output.events import read_finished_run
    from xfelmpi.report.images import assemble_counts, make_raster
    from xfelmpi.report.terminal import hit_lines

    hit_file = read_hit_file(experiment.cxi)
    run = read_finished_run(experiment.events)
    check_rows(hit_file, run.events.is_hit, run.detector_type.frame_pixels)
    if not 0 <= hit < len(hit_file.rows):
        raise UsageError(f"--hit {hit}: {experiment.cxi} has {len(hit_file.rows)} hits, from 0 on")
    events, row = run.events, hit_file.rows[hit]
    extent = np.ptp(hit_file.xyz[0]) / hit_file.pixel_size
    pixels = max(extent / (min(columns, 160) - 1), 4)
    raster = make_raster(hit_file.xyz, pixels, hit_file.pixel_size)
    about = (
        f"run {experiment.run}, hit {hit}: train {events.trainId[row]}, cell {events.cellId[row]}, "
        f"{events.photons[row]:,} photons, score {events.hitscore[row]:,.0f}, "
        f"{events.hit_sigma[row]:.1f} σ"
    )
    return [
        about,
        *hit_lines(assemble_counts(raster, *read_hit(hit_file.path, hit)), colour=colour),
    ]
