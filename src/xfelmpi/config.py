"""All settings of the main job in one frozen, validated `Config`.

Every option of the main job is one field of `Config`; its metadata gives the help text, the group
in ``--help``, the unit and the form of its values. The same names stand in the TOML file.
"""

import dataclasses
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from xfelmpi.detector import N_MODULES
from xfelmpi.errors import UsageError

GROUPS = {
    "run": "which run, and where",
    "masks": "masks (default: found in OUTPUT/det/, else PREFIX/scratch/det/)",
    "photons": "photons",
    "decision": "hit decision",
    "geometry": "geometry",
    "outputs": "what is written",
    "resources": "resources",
}


def _option(group, default, parse, text, *, metavar=None, choices=None, many=False):
    return field(
        default=default,
        metadata={
            "group": group,
            "parse": parse,
            "help": text,
            "metavar": metavar,
            "choices": choices,
            "many": many,
        },
    )


def parse_size(text) -> int:
    """Return bytes from a number with an optional unit, e.g. ``400M`` or ``1.5G`` (powers of 1024).

    Raises
    ------
    ValueError
        If it is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?)(?:i?B)?\s*", str(text))
    if not match:
        raise ValueError(f"{text!r} is no size; expected e.g. 400M or 1.5G")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


def parse_trains(text) -> tuple[int | None, int | None]:
    """Return (A, B) from ``A:B``, a slice of the run's trains by position; either may be left out.

    Raises
    ------
    ValueError
        If it is no such slice.
    """
    if isinstance(text, (tuple, list)):
        if len(text) != 2 or not all(type(part) is int and part >= 0 for part in text):
            raise ValueError(f"{text!r} is no slice of trains; expected two numbers from 0 on")
        return tuple(text)
    match = re.fullmatch(r"(\d*):(\d*)", str(text))
    if not match:
        raise ValueError(f"{text!r} is no slice of trains; expected A:B, e.g. 0:100")
    return tuple(int(part) if part else None for part in match.groups())


@dataclass(frozen=True)
class Config:
    """All settings of the main job, validated. Field metadata says what each means.

    An option that is a bool is a flag, ``--NAME``, or ``--no-NAME`` if it is on by default; its
    help text says what the flag does.
    """

    run: int = 0
    prefix: Path | None = _option(
        "run",
        None,
        Path,
        "experiment folder with raw/ and proc/ (default: $EXP_PREFIX)",
        metavar="DIR",
    )
    output: Path | None = _option(
        "run", None, Path, "folder for the outputs (default: PREFIX/scratch)", metavar="DIR"
    )
    data: str = _option(
        "run",
        "auto",
        str,
        "which data of the run; auto takes proc if it is there, else raw",
        choices=("auto", "proc", "raw"),
    )
    detector: str | None = _option(
        "run",
        None,
        str,
        "detector, e.g. SPB_DET_AGIPD1M-1 (default: the one AGIPD in the run)",
        metavar="NAME",
    )
    trains: tuple[int | None, int | None] = _option(
        "run",
        (None, None),
        parse_trains,
        "only these trains, by position in the run, end excluded (default: all)",
        metavar="A:B",
    )
    sample: str | None = _option(
        "run", None, str, "sample name (default: from the run's metadata)", metavar="NAME"
    )
    cell_mask: Path | None = _option(
        "masks",
        None,
        Path,
        "good pixels per memory cell (default: det/rRRRR_mask.h5 if there)",
        metavar="FILE",
    )
    global_mask: Path | None = _option(
        "masks",
        None,
        Path,
        "good pixels for all cells (default: det/mask.h5 if there)",
        metavar="FILE",
    )
    hit_mask: Path | None = _option(
        "masks",
        None,
        Path,
        "hit-finding region (default: det/hit_finding_mask.h5 if there)",
        metavar="FILE",
    )
    hit_modules: tuple[int, ...] | None = _option(
        "masks",
        None,
        int,
        "modules of the hit-finding region, if no hit mask (default: all)",
        metavar="M",
        many=True,
    )
    adu_per_photon: float = _option(
        "photons",
        1.0,
        float,
        "signal of one photon in float data, in the data's own unit, ADU or keV, or in raw data,"
        " in ADU of the high gain stage; corrected integer data are photons",
        metavar="X",
    )
    constants: Path | None = _option(
        "photons",
        None,
        Path,
        "folder of the constants Cheetah-AGIPDmm-calib.h5, for raw data (default: det/constants)",
        metavar="DIR",
    )
    common_mode: str = _option(
        "photons",
        "none",
        str,
        "for raw data: subtract the median of the good pixels of every 64 x 64 ASIC",
        choices=("none", "asic"),
    )
    photon_threshold: float = _option(
        "photons",
        0.7,
        float,
        "photons = floor(signal / adu_per_photon + 1 - threshold)",
        metavar="X",
    )
    score: str = _option(
        "decision",
        "litpixels",
        str,
        "what is counted in the hit-finding region",
        choices=("litpixels", "photons"),
    )
    decide: str = _option(
        "decision",
        "train",
        str,
        "frames whose median and width give the threshold; fixed takes --fixed-threshold",
        choices=("train", "run", "fixed"),
    )
    sigma: float = _option(
        "decision", 4.0, float, "hit if score > median + sigma x width", metavar="S"
    )
    fixed_threshold: float | None = _option(
        "decision", None, float, "hit if score > threshold, with --decide fixed", metavar="X"
    )
    miss_fraction: float = _option(
        "decision", 1.0, float, "misses drawn at random, as a multiple of the hits", metavar="X"
    )
    geometry: Path | None = _option(
        "geometry",
        None,
        Path,
        "CrystFEL geometry (default: det/agipd.geom if there, else nominal quadrants)",
        metavar="FILE.geom",
    )
    distance: float | None = _option(
        "geometry",
        None,
        float,
        "sample to detector, in m (default: clen of the geometry file)",
        metavar="M",
    )
    vds: bool = _option("outputs", True, bool, "write the virtual dataset of all frames (vds/)")
    memory_per_rank: int = _option(
        "resources",
        400 << 20,
        parse_size,
        "memory of one rank, bytes or e.g. 400M; hits beyond it are read again",
        metavar="SIZE",
    )

    def __post_init__(self):
        _validate(self)

    def to_json(self) -> str:
        """Return the full configuration as JSON, for the root attribute of every output."""
        return json.dumps(dataclasses.asdict(self), default=str, sort_keys=True)


def _validate(config: Config) -> None:
    def need(ok, name, found, expected):
        if not ok:
            raise UsageError(f"--{name}: found {found}, expected {expected}")

    need(0 <= config.run <= 9999, "run", config.run, "a run number 0 … 9999")
    for name, low in (("adu_per_photon", 0), ("sigma", None), ("photon_threshold", None)):
        value = getattr(config, name)
        need(
            math.isfinite(value) and (low is None or value > low),
            name.replace("_", "-"),
            value,
            "a finite number" + (" above 0" if low == 0 else ""),
        )
    # beyond these, float32 cannot tell no photon from one
    need(
        1e-30 < config.adu_per_photon < 1e30,
        "adu-per-photon",
        config.adu_per_photon,
        "a number between 1e-30 and 1e30",
    )
    need(
        1e-6 <= config.photon_threshold <= 1,
        "photon-threshold",
        config.photon_threshold,
        "a number from 1e-6 to 1",
    )
    need(
        0 <= config.miss_fraction < math.inf,
        "miss-fraction",
        config.miss_fraction,
        "a finite number, 0 or more",
    )
    need(
        config.decide != "fixed" or config.fixed_threshold is not None,
        "decide fixed",
        "no --fixed-threshold",
        "one",
    )
    need(
        config.fixed_threshold is None or math.isfinite(config.fixed_threshold),
        "fixed-threshold",
        config.fixed_threshold,
        "a finite number",
    )
    need(
        config.fixed_threshold is None or config.decide == "fixed",
        "fixed-threshold",
        f"--decide {config.decide}",
        "--decide fixed with it",
    )
    modules = config.hit_modules
    need(modules != (), "hit-modules", "none", "at least one")
    modules = modules or ()
    need(all(0 <= m < N_MODULES for m in modules), "hit-modules", modules, "numbers 0 … 15")
    need(
        config.distance is None or 0 < config.distance < 100,
        "distance",
        config.distance,
        "metres, above 0 and below 100",
    )
    need(
        config.memory_per_rank >= 256 << 20,
        "memory-per-rank",
        config.memory_per_rank,
        "at least 256M",
    )
    first, end = config.trains
    need(first is None or end is None or first < end, "trains", f"{first}:{end}", "A below B")
