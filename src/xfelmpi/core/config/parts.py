"""Parts of the settings: what a stage uses, so that its signature says what it depends on.

`Config.part` cuts one out; fields have the names, types and meanings of `Config`.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Which data of a run are used, and what is looked up for its frames.

    The last three are there to be compared with the detector that the run turns out to have.
    """

    data: str
    detector: str | None
    trains: tuple[int | None, int | None]
    suspect_trains: str
    sample: str | None
    ask_catalogue: bool
    add: tuple[str, ...]
    vds: bool
    score: str
    hit_modules: tuple[int, ...] | None
    mask: tuple[str, ...]
    mask_trains: int
    exclude_cells: tuple[int, ...]
    first_cell: int
    bin: int


@dataclass(frozen=True, kw_only=True)
class HitSettings:
    """What scores are, which frames are hits, and which non-hits are drawn."""

    score: str
    normalise: str
    decide: str
    sigma: float
    width: str
    sigma_floor: str
    min_scores: int
    fixed_threshold: float | None
    min_score: float | None
    max_score: float | None
    min_pulse_energy: float | None
    exclude_cells: tuple[int, ...]
    first_cell: int
    miss_fraction: float
    miss_base: str


@dataclass(frozen=True, kw_only=True)
class RawSettings:
    """What turns raw frames into photons."""

    constants: Path | None
    adu_per_photon: float
    photon_threshold: float
    common_mode: str
    mask_bits: tuple[int, ...] | None
    memory_per_rank: int


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """Which pixels are bad, and which count for the score."""

    mask: tuple[str, ...]
    mask_bits: tuple[int, ...] | None
    mask_trains: int
    cell_mask: Path | None
    global_mask: Path | None
    hit_mask: Path | None
    hit_modules: tuple[int, ...] | None
    memory_per_rank: int


@dataclass(frozen=True, kw_only=True)
class InputFileSettings:
    """Masks, geometry and calibration constants: named files, None where those found count."""

    cell_mask: Path | None
    global_mask: Path | None
    hit_mask: Path | None
    geometry: Path | None
    constants: Path | None


@dataclass(frozen=True, kw_only=True)
class MemorySettings:
    """What a rank may use, and whether a part of it is for checkpoints."""

    memory_per_rank: int
    checkpoint_minutes: float


@dataclass(frozen=True, kw_only=True)
class AnalysisSettings:
    """What is computed for every hit."""

    size: str
    density: float
    size_range: tuple[float, float] | None
    analyse: tuple[str, ...]
    polarisation: str
    photon_energy: float | None


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """Which files of hits there are, and what is in them."""

    with_misses: bool
    background: str
    profiles: bool
    also_write: tuple[str, ...]
    where: str
    dragonfly: Path | None
    recon: str
    bin: int
    roi_qmax: tuple[float, str] | None
    ewald_rad: float | None
    polarisation: str
    photon_energy: float | None
    max_bad: float
