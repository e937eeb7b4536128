"""All settings of the main job in one frozen, validated `Config`.

Every option of the main job is one field of `Config`; its metadata gives the help text, the group
in ``--help``, the unit and the form of its values. The TOML file has the same names.
"""

import dataclasses
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypeVar

from xfelmpi.core.config.choices import (
    BACKGROUNDS,
    BIN_SIZES,
    CLASS_BIN,
    CLASS_QMAX,
    DECISIONS,
    POLARISATIONS,
    RECONSTRUCTIONS,
    SCORES,
    SIZES,
    SUSPECT_TRAINS,
)
from xfelmpi.core.config.parsing import (
    parse_added,
    parse_cells,
    parse_constants,
    parse_energy,
    parse_mask_bits,
    parse_photon_energy,
    parse_qmax,
    parse_size,
    parse_size_range,
    parse_trains,
    parse_whole,
)
from xfelmpi.core.config.parts import (
    AnalysisSettings,
    HitSettings,
    InputFileSettings,
    MaskSettings,
    MemorySettings,
    OutputSettings,
    RawSettings,
    RunSettings,
)
from xfelmpi.core.config.validation import validate

GROUPS = {
    "run": "which run, and where",
    "masks": "masks (default: found in OUTPUT/det/, else PREFIX/scratch/det/)",
    "photons": "photons",
    "decision": "hit finding",
    "geometry": "geometry",
    "outputs": "what is written",
    "dragonfly": "for Dragonfly (EMC and detector file)",
    "resources": "resources",
}

PASS_GROUPS = ("masks", "photons")
"""Groups of options that change what the pass over the frames finds."""


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


def _listed(choices) -> str:
    """Return what the help text says of choices, by name."""
    return "; ".join(f"{name}: {choice.help}" for name, choice in choices.items())


Part = TypeVar(
    "Part",
    RunSettings,
    InputFileSettings,
    MaskSettings,
    RawSettings,
    MemorySettings,
    HitSettings,
    AnalysisSettings,
    OutputSettings,
)


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
        "which data of the run; auto: corrected data (proc) if there are any, else raw",
        choices=("auto", "proc", "raw"),
    )
    detector: str | None = _option(
        "run",
        None,
        str,
        "detector, e.g. SPB_DET_AGIPD1M-1 (default: the detector of the run)",
        metavar="NAME",
    )
    trains: tuple[int | None, int | None] = _option(
        "run",
        (None, None),
        parse_trains,
        "only these trains, by position in the run, end excluded (default: all)",
        metavar="A:B",
    )
    suspect_trains: str = _option(
        "run",
        "include",
        str,
        "trains flagged as suspect in the files (INDEX/flag): include them, as EXtra-data"
        " does, or exclude them",
        choices=SUSPECT_TRAINS,
    )
    sample: str | None = _option(
        "run",
        None,
        str,
        "sample name, used if neither the metadata catalogue nor METADATA of the run has one",
        metavar="NAME",
    )
    ask_catalogue: bool = _option(
        "run",
        True,
        bool,
        "ask the facility's metadata catalogue for sample and run type, if extra_proposal is"
        " installed; in the background, for at most 5 s",
    )
    mask: tuple[str, ...] = _option(
        "masks",
        ("auto",),
        str,
        "which masks to use; a pixel is good only if it is good in all of them; file: mask"
        " files; run: masks in the corrected data (image/mask), frame by frame; run-static:"
        " pixels that are bad in all frames of these masks; none: only files given explicitly"
        " (default: auto, which is file if there is one in det/, else run-static if the data"
        " have masks)",
        choices=("auto", "file", "run", "run-static", "none"),
        many=True,
    )
    mask_bits: tuple[int, ...] | None = _option(
        "masks",
        None,
        parse_mask_bits,
        "bits of image/mask that make a pixel bad: numbers, or names such as NOISY_ADC (default:"
        " all but NON_STANDARD_SIZE)",
        metavar="BITS",
        many=True,
    )
    mask_trains: int = _option(
        "masks",
        5,
        parse_whole,
        "with --mask run-static: a bit counts if it is set in all of the first N trains of a"
        " module and cell",
        metavar="N",
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
        "pixels of the hit-finding region (default: det/hit_finding_mask.h5 if there)",
        metavar="FILE",
    )
    hit_modules: tuple[int, ...] | None = _option(
        "masks",
        None,
        int,
        "modules of the hit-finding region, if there is no hit mask (default: all)",
        metavar="M",
        many=True,
    )
    adu_per_photon: float = _option(
        "photons",
        1.0,
        float,
        "signal of one photon: for float data in the data's own unit, ADU or keV; for raw"
        " data in ADU of the high gain stage; not for integer corrected data, which are photon"
        " counts",
        metavar="X",
    )
    constants: Path | None = _option(
        "photons",
        None,
        parse_constants,
        "folder of calibration constants for raw data, as Cheetah-AGIPDmm-calib.h5; or"
        " catalogue: the constants that the facility's correction used, or else those in its"
        " catalogue (default: det/constants)",
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
        "what the score counts; " + _listed(SCORES),
        choices=tuple(SCORES),
    )
    hits: str = _option(
        "decision",
        "own",
        str,
        "hit finder to use; own: that of xfelmpi; facility: take hits, misses, scores and"
        " thresholds from the facility's hit finder, so that only hits and misses are read",
        choices=("own", "facility"),
    )
    decide: str = _option(
        "decision",
        "auto",
        str,
        "frames from which median and background width are computed; " + _listed(DECISIONS),
        choices=tuple(DECISIONS),
    )
    min_scores: int = _option(
        "decision",
        100,
        parse_whole,
        "minimum number of frames for --decide auto and window, and for the mean energy of"
        " --normalise pulse-energy; if a train has fewer, trains around it are used, too",
        metavar="N",
    )
    sigma: float = _option(
        "decision", 4.0, float, "hit if score > median + sigma x background width", metavar="S"
    )
    width: str = _option(
        "decision",
        "lower",
        str,
        "how to estimate the background width: from median and lower quartile, or from both"
        " quartiles; not with --decide auto",
        choices=("lower", "iqr"),
    )
    sigma_floor: str = _option(
        "decision",
        "poisson",
        str,
        "poisson: the background width is at least the shot noise of the median, and at least 1;"
        " none: no lower limit",
        choices=("poisson", "none"),
    )
    fixed_threshold: float | None = _option(
        "decision", None, float, "with --decide fixed: hit if score > this threshold", metavar="X"
    )
    min_score: float | None = _option(
        "decision", None, float, "lowest score of a hit (default: no limit)", metavar="X"
    )
    max_score: float | None = _option(
        "decision",
        None,
        float,
        "highest score of a hit; frames with a higher score are not misses either (default:"
        " no limit)",
        metavar="X",
    )
    min_pulse_energy: float | None = _option(
        "decision",
        None,
        parse_energy,
        "frames with a lower or unknown pulse energy are neither hits nor misses; in J, or"
        " with a unit, e.g. 200uJ, 0.5mJ (default: any energy)",
        metavar="E",
    )
    exclude_cells: tuple[int, ...] = _option(
        "decision",
        (),
        parse_cells,
        "memory cells whose frames are neither hits nor misses, e.g. 0,5-10,31 (default: none)",
        metavar="C,A-B",
    )
    first_cell: int = _option(
        "decision",
        0,
        parse_whole,
        "frames of memory cells below C are neither hits nor misses",
        metavar="C",
    )
    normalise: str = _option(
        "decision",
        "none",
        str,
        "multiply scores by (mean pulse energy around the train / pulse energy of the frame), or"
        " by (pixels of the hit-finding region / good pixels in it)",
        choices=("none", "pulse-energy", "unmasked"),
    )
    miss_fraction: float = _option(
        "decision",
        1.0,
        float,
        "how many misses to draw at random, as a multiple of --miss-base",
        metavar="X",
    )
    miss_base: str = _option(
        "decision",
        "hits",
        str,
        "what --miss-fraction is a fraction of: the number of hits, or of non-hits (misses)",
        choices=("hits", "misses"),
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
        "distance from sample to detector, in m (default: from the motor and --distance-offset,"
        " else clen of the geometry file)",
        metavar="M",
    )
    distance_offset: float | None = _option(
        "geometry",
        None,
        float,
        "distance = this + position of the detector's motor along the beam, in m; --distance "
        "overrides it (default: comment ;XGEOM DISTANCE_OFFSET=M of the geometry file; else clen)",
        metavar="M",
    )
    with_misses: bool = _option(
        "outputs", False, bool, "add the misses to the CXI file, as its entry_2"
    )
    vds: bool = _option("outputs", True, bool, "write the virtual dataset of all frames (vds/)")
    report: bool = _option(
        "outputs", True, bool, "write the run report and the run overview (report/)"
    )
    add: tuple[str, ...] = _option(
        "outputs",
        (),
        parse_added,
        "further beamline values for the events file and the CXI file, e.g."
        " flow=SPB_IRU_AEROSOL/FLOW/HE_CHAMBER/measureCapacity; may be given several times"
        " (default: none)",
        metavar="NAME=SOURCE/KEY",
        many=True,
    )
    background: str = _option(
        "outputs",
        "run",
        str,
        "mean photons of the non-hits in the CXI file; run: of all memory cells together;"
        " cell: also of each memory cell, for which the non-hits are read once more",
        choices=BACKGROUNDS,
    )
    size: str = _option(
        "outputs",
        "auto",
        str,
        "measure every hit as a sphere or a spheroid of uniform density; auto: as a sphere, if"
        " distance and wavelength are known",
        choices=SIZES,
    )
    density: float = _option(
        "outputs",
        430.0,
        float,
        "electron density of the particles in electrons per nm^3, for their fluence; protein"
        " 430, water 334, gold 4400",
        metavar="X",
    )
    size_range: tuple[float, float] | None = _option(
        "outputs",
        None,
        parse_size_range,
        "smallest and largest diameter in nm, e.g. 20:80 (default: what the geometry can resolve)",
        metavar="A:B",
    )
    analyse: tuple[str, ...] = _option(
        "outputs",
        (),
        str,
        "analyses to compute for every hit, by name; their columns are in the events file and the"
        " CXI file; radius: mean distance of the photons from the beam (default: none)",
        metavar="NAME",
        many=True,
    )
    profiles: bool = _option(
        "outputs",
        False,
        bool,
        "add the radial profile of every hit to the CXI: mean photons in rings of |q|",
    )
    where: str = _option(
        "outputs",
        "",
        str.strip,
        "also write the hits for which this is true as separate files, merged/rRRRR_selected*,"
        ' which the folder of --dragonfly uses, e.g. "hit_sigma > 8 and diameter < 60 nm"'
        " (default: no selection)",
        metavar="CONDITION",
    )
    also_write: tuple[str, ...] = _option(
        "outputs",
        (),
        str,
        "further formats of the hits, by name, provided by other packages: see"
        " docs/howto/add-an-output-format.md (default: none)",
        metavar="FORMAT",
        many=True,
    )
    dragonfly: Path | None = _option(
        "dragonfly",
        None,
        Path,
        "make a folder from which dragonfly.emc can be started: config.ini and links to the files",
        metavar="DIR",
    )
    recon: str = _option(
        "dragonfly",
        "3d",
        str,
        "purpose of the folder of --dragonfly; 3d: a reconstruction; 2d: classes of hits,"
        " with --bin 8 and --roi-qmax 16 if these are not given",
        choices=RECONSTRUCTIONS,
    )
    bin: int = _option(
        "dragonfly",
        1,
        parse_whole,
        "sum n x n pixels, within each ASIC, for a smaller problem",
        choices=BIN_SIZES,
    )
    roi_qmax: tuple[float, str] | None = _option(
        "dragonfly",
        None,
        parse_qmax,
        "mask pixels with larger |q|, for a smaller problem: in voxels, or 1/d = 2 sin(theta) /"
        " lambda, e.g. 0.25/nm (default: no limit)",
        metavar="Q",
    )
    ewald_rad: float | None = _option(
        "dragonfly",
        None,
        float,
        "radius of the Ewald sphere in voxels (default: a voxel is one pixel at the detector's"
        " centre)",
        metavar="VOXELS",
    )
    polarisation: str = _option(
        "dragonfly",
        "x",
        str,
        "direction of the electric field; x: horizontal, none: unpolarised",
        choices=POLARISATIONS,
    )
    photon_energy: float | None = _option(
        "dragonfly",
        None,
        parse_photon_energy,
        "photon energy, e.g. 6keV (default: from the run)",
        metavar="E",
    )
    max_bad: float = _option(
        "dragonfly",
        0.1,
        float,
        "mask pixels that are bad in more than this fraction of the hits",
        metavar="X",
    )
    memory_per_rank: int = _option(
        "resources",
        400 << 20,
        parse_size,
        "memory of one rank, in bytes or e.g. 400M; frames that do not fit are read again",
        metavar="SIZE",
    )
    checkpoint_minutes: float = _option(
        "resources",
        3.0,
        float,
        "checkpoint interval in minutes, for --resume; 0: no checkpoints",
        metavar="X",
    )

    def __post_init__(self):
        validate(self)

    def part(self, kind: type[Part]) -> Part:
        """Return those settings that a stage uses, one of the classes of `parts`."""
        return kind(**{field.name: getattr(self, field.name) for field in fields(kind)})

    def of_groups(self, *groups: str) -> dict[str, str]:
        """Return the values of all options of some `GROUPS` as text, by ``--NAME``."""
        return {
            f"--{f.name.replace('_', '-')}": str(getattr(self, f.name))
            for f in fields(self)
            if f.metadata.get("group") in groups
        }

    def to_json(self) -> str:
        """Return the full configuration as JSON, for the root attribute of every output."""
        return json.dumps(dataclasses.asdict(self), default=str, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """Return the configuration that `to_json` wrote.

        Raises
        ------
        ValueError
            If it is no such text, or has options that this version does not know.
        """
        values = json.loads(text)
        known = {f.name: f for f in dataclasses.fields(cls)}
        if not isinstance(values, dict):
            raise ValueError(f"no configuration: {text[:40]!r}")
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"configuration of another version: unknown {', '.join(unknown)}")
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = tuple(value)
            elif value is not None and known[name].metadata.get("parse") in (Path, parse_constants):
                values[name] = Path(value)
        return cls(**values)


def with_implied(given: dict) -> dict:
    """Return settings that are given together with others that follow from them."""
    implied: dict = {}
    if given.get("decide", "fixed") != "fixed":
        # a threshold of the first job must not apply
        implied["fixed_threshold"] = None
    if given.get("recon") == "2d":
        # classes differ in the middle of the pattern
        implied |= {"bin": CLASS_BIN, "roi_qmax": (CLASS_QMAX, "")}
    return implied | given
