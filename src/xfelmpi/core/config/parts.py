"""Parts of the settings: what a stage uses, so that its signature says what it depends on.

`Config.part` cuts one out; fields have the names, types and meanings of `Config`.
"""

from dataclasses import dataclass
from pathlib import Path


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
