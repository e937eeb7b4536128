"""``xfelmpi simulate``: write a simulated run with known ground truth."""

import argparse
import logging
import os
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from time import perf_counter

from xfelmpi.cli.parser import Parser, add_run
from xfelmpi.core.errors import EXIT_COMPLETE, OutputError, UsageError
from xfelmpi.core.paths import Experiment
from xfelmpi.detectors.known import DEVICES, detectors_of
from xfelmpi.simulate import SimulationOptions, parse_cells, simulate
from xfelmpi.simulate.options import CHOICES, STRIDE_OF_RATE

SUMMARY = "write a simulated run with known ground truth, in the facility's format"

log = logging.getLogger("xfelmpi")

_DEFAULTS = {field.name: field.default for field in fields(SimulationOptions)}


def main(argv: list[str], comm=None) -> int:
    """Simulate a run as the arguments say.

    Parameters
    ----------
    argv : list of str
        Arguments after the command's name.
    comm : Intracomm or None
        The ranks to share the work.

    Returns
    -------
    int
        Exit status.

    Raises
    ------
    UsageError
        If an argument is wrong.
    """
    if comm is None:
        options = options_from(parser().parse_args(argv))
    else:
        from xfelmpi.mpi import bcast_from_root

        options = bcast_from_root(comm, lambda: options_from(parser().parse_args(argv)))
    start = perf_counter()
    try:
        with _only_simulation(options, comm):
            result = simulate(options, comm)
    except OSError as error:
        output = OutputError(f"{error.filename or options.prefix}: {error.strerror or error}")
        output.__dict__.update(vars(error))
        raise output from None
    if comm is None or comm.rank == 0:
        log.info(
            "simulated %d frames, %d with a particle, in %.1f s",
            result.frames,
            result.particles,
            perf_counter() - start,
        )
        for path in result.written:
            log.info("  %s", path)
    return EXIT_COMPLETE


def options_from(arguments: argparse.Namespace) -> SimulationOptions:
    """Return the validated options of parsed arguments."""
    values = vars(arguments)
    values["prefix"] = values["prefix"] or os.environ.get("EXP_PREFIX", "")
    if not values["prefix"]:
        raise UsageError("no experiment folder: give --prefix DIR or set EXP_PREFIX")
    values["prefix"] = Path(values["prefix"])
    if values["cells"] is None:
        usual = len(_DEFAULTS["cells"])
        kinds = detectors_of(DEVICES.get(values["detector"], values["detector"]))
        values["cells"] = str(min(usual, kinds[0].max_cells))
    values["cells"] = parse_cells(values["cells"])
    values["missing"] = tuple(_missing_pair(text) for text in values["missing"])
    rate = values.pop("rate")
    if rate:
        values["pulse_step"] = STRIDE_OF_RATE[rate]
    for name in ("absent_modules", "unseen_trains", "size_nm", "hit_photons", "axis_ratio"):
        values[name] = tuple(values[name])
    return SimulationOptions(**values)


def _missing_pair(text: str) -> tuple[int, int]:
    try:
        module, position = (int(part) for part in text.split(":"))
    except ValueError:
        raise UsageError(f"missing {text!r}, expected MODULE:TRAIN, e.g. 3:0") from None
    return module, position


def _only_simulation(options: SimulationOptions, comm):
    """Let two simulations of the same run not write into the same folders."""
    if comm is None:
        return nullcontext()
    # loads MPI, which a single process must not need
    from xfelmpi.io.lock_file import held

    prefix = Path(options.prefix)
    lock = Experiment(prefix, prefix / "scratch", options.run).simulation_lock
    return held(comm, lock, f"run {options.run} is being simulated")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = Parser(
        prog="xfelmpi simulate",
        description=SUMMARY.capitalize() + ".",
    )
    add_run(parser)
    _option(
        parser,
        "--kind",
        "corrected data, raw data with calibration constants, or raw data without light",
    )
    parser.add_argument("--prefix", metavar="DIR", help="experiment folder (or $EXP_PREFIX)")
    _option(
        parser,
        "--detector",
        f"{', '.join(DEVICES)}, or the name of one, e.g. MID_DET_AGIPD1M-1",
        metavar="NAME",
    )
    _add_frames(parser.add_argument_group("frames"))
    _add_photons(parser.add_argument_group("what the frames show"))
    _add_beamline(parser.add_argument_group("beamline data"))
    _add_signal(parser.add_argument_group("detector"))
    _add_files(parser.add_argument_group("files"))
    return parser


def _option(group, flag: str, help_text: str, **kwargs) -> None:
    """Add an option whose default, and choices if any, are those of `SimulationOptions`."""
    name = flag.removeprefix("--").replace("-", "_")
    default = _DEFAULTS[name]
    if default is False:
        kwargs["action"] = "store_true"
    elif name in CHOICES:
        kwargs["choices"] = CHOICES[name]
    elif "type" not in kwargs and not isinstance(default, tuple):
        kwargs["type"] = type(default)
    default = kwargs.setdefault("default", default)
    if default not in (False, (), None):
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        help_text += f" (default: {shown})"
    group.add_argument(flag, help=help_text, **kwargs)


def _add_frames(group) -> None:
    _option(group, "--trains", "number of trains", metavar="N")
    _option(
        group,
        "--cells",
        f"memory cells: a number, START:STOP:STEP or A,B,C (default: {len(_DEFAULTS['cells'])}, or "
        "all of a detector with fewer)",
        type=str,
        metavar="CELLS",
        default=None,
    )
    _option(group, "--pulse-step", "bunch slots from one memory cell to the next", metavar="N")
    group.add_argument(
        "--rate",
        type=float,
        choices=tuple(STRIDE_OF_RATE),
        help="the same, given as repetition rate of the detector in MHz: 1, 2, 4 or 8 bunch slots",
    )
    _option(group, "--dark-cells", "memory cells before the first X-ray pulse", metavar="N")
    _option(group, "--lit-cells", "memory cells with light after these; 0: all", metavar="N")
    _option(group, "--pulses-per-frame", "X-ray pulses of a frame, up to the step", metavar="N")
    _option(group, "--first-pulse", "bunch slot of the first X-ray pulse", metavar="N")
    _option(group, "--veto", "fraction of frames that are not recorded", metavar="FRACTION")
    _option(group, "--reorder-cells", "store cells in another order in every train")
    _option(group, "--first-train", "train ID of the first train", metavar="ID")
    _option(
        group,
        "--missing",
        "trains that are missing in a module; both counted from 0",
        nargs="+",
        type=str,
        metavar="MODULE:TRAIN",
    )
    _option(
        group,
        "--missing-style",
        "empty: missing trains are in the file's index, without frames; gone: they are not in"
        " the index",
    )
    _option(
        group,
        "--absent-modules",
        "modules that have no files",
        nargs="+",
        type=int,
        metavar="MODULE",
    )


def _add_beamline(group) -> None:
    _option(
        group,
        "--lit-frames",
        "found: the output of the facility's lit-frame finder, and the detector's settings; "
        "settings: only the settings; none: neither",
    )
    _option(group, "--alignment", "how the lit-frame finder aligns frames and pulses")
    _option(
        group,
        "--detector-generation",
        "generation of the detector's control device, 1 or 2",
        metavar="N",
    )
    _option(group, "--bunch-pattern", "source of the bunch pattern")
    _option(
        group,
        "--unseen-trains",
        "trains without data of the gas monitor, counted from 0",
        nargs="+",
        type=int,
        metavar="TRAIN",
    )


def _add_photons(group) -> None:
    pair = {"nargs": 2, "type": float, "metavar": ("MIN", "MAX")}
    _option(group, "--hit-rate", "probability of a particle in a frame", metavar="FRACTION")
    _option(
        group,
        "--particle",
        "spheres, spheroids, or a particle without any symmetry in all orientations",
    )
    _option(
        group,
        "--axis-ratio",
        "with --particle spheroid: axis of revolution divided by the other axes",
        **pair,
    )
    _option(
        group,
        "--pairs",
        "fraction of the particles that are two spheres in one pulse",
        metavar="FRACTION",
    )
    _option(group, "--ice", "fraction of the particles that are pieces of ice", metavar="FRACTION")
    _option(
        group,
        "--rings",
        "fraction of the particles that are rings of stray light",
        metavar="FRACTION",
    )
    _option(group, "--size-nm", "diameters of the particles in nm", **pair)
    _option(group, "--hit-photons", "mean photons from a particle on the detector", **pair)
    _option(group, "--background", "mean photons per module and frame", metavar="PHOTONS")
    _option(group, "--pulse-energy-mj", "mean pulse energy in mJ", metavar="MJ")
    _option(
        group,
        "--pulse-jitter",
        "relative standard deviation of the pulse energies",
        metavar="FRACTION",
    )
    _option(group, "--photon-energy-kev", "photon energy in keV", metavar="KEV")
    _option(group, "--distance", "distance from sample to detector in m", metavar="M")
    _option(group, "--sample", "name of the sample", metavar="NAME")
    _option(group, "--seed", "seed of all random numbers", metavar="N")


def _add_signal(group) -> None:
    _option(
        group,
        "--adu-per-photon",
        "signal of a photon in f4 and raw data (default: 1 in f4, 60 in raw data)",
        type=float,
        metavar="ADU",
    )
    _option(group, "--noise", "noise of f4 and raw data in photons", metavar="PHOTONS")
    _option(
        group,
        "--clip-noise",
        "largest noise, 0: no limit; up to 0.25, all photons can be recovered",
        metavar="PHOTONS",
    )
    _option(
        group,
        "--common-mode",
        "standard deviation of the common mode of ASICs in raw data",
        metavar="ADU",
    )
    _option(
        group,
        "--gain-spread",
        "relative standard deviation of the gains in raw data",
        metavar="FRACTION",
    )
    _option(group, "--bad-pixels", "fraction of bad pixels in raw data", metavar="FRACTION")
    _option(
        group,
        "--bad-cells",
        "fraction of the pixels of a memory cell that are hot, dead or flickering in"
        " corrected data, half of them in all cells; the truth file lists them",
        metavar="FRACTION",
    )
    _option(group, "--gain-stage", "gain stage of all pixels of a dark run")
    _option(
        group, "--constants-dtype", "type of the offsets in the calibration constants of raw data"
    )


def _add_files(group) -> None:
    _option(
        group,
        "--layout",
        "names of the sources; modern: CORR/…:output, with a link from"
        " the old name; legacy: DET/…:xtdf",
    )
    _option(
        group,
        "--dtype",
        "type of corrected data: photons as u1 (clipped at 255) or u2, or a noisy signal as f4",
    )
    _option(group, "--compression", "compression of corrected data; gzip: shuffle and gzip level 1")
    _option(group, "--chunk-frames", "frames in a chunk, 0: contiguous", metavar="N")
    _option(group, "--with-mask", "write image/mask of corrected data, with all pixels good")
    _option(
        group,
        "--masked-pixels",
        "fraction of the pixels that are bad in all frames of a memory cell in image/mask",
        metavar="FRACTION",
    )
    _option(
        group,
        "--masked-at-times",
        "number of further pixels of a module that are bad in some frames in image/mask",
        metavar="PIXELS",
    )
    _option(group, "--sequence-length", "trains in a file", metavar="N")
    _option(group, "--ragged-sequences", "start the files of each module at different trains")
    _option(
        group, "--truth", "frames whose pixels are in the truth file: frames with particles, or all"
    )
