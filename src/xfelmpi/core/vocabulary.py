"""Columns that have one name in the events file and another one in CXI: both are understood."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

SPELLINGS = (
    ("trainId", "train_id"),
    ("cellId", "cell_id"),
    ("pulseId", "pulse_id"),
    ("litpixels", "lit_pixels"),
    ("photons", "photon_counts"),
    ("hitscore", "hit_score"),
    ("wavelength", "photon_wavelength"),
)
"""The name in the events file (of the facility's files, where they have one), and the other."""

_OTHER = {name: other for pair in SPELLINGS for name, other in (pair, pair[::-1])}

OF_HITS = ("vds_index", "run", "photon_energy", "background_weighting", "background_index")
"""Further columns of hits in CXI and merged files, which the events file lacks."""

PLAIN_NUMBERS = (
    *("trainId", "cellId", "pulseId", "vds_index", "run", "modules", "n_pulses", "pumped"),
    *("litpixels", "hitscore", "hit_median", "hit_std", "hit_threshold", "hit_sigma"),
    *("background_weighting", "background_index", "class", "class_weight"),
)
"""Columns without a unit by their meaning; of others the unit may only be unknown."""

Value = TypeVar("Value")


def column_name(name: str, there: Iterable[str]) -> str | None:
    """Return the name under which a column is there, of its one or two names; None if it is not."""
    names = set(there)
    return next((n for n in (name, _OTHER.get(name, name)) if n in names), None)


def under_both_names(columns: Mapping[str, Value]) -> dict[str, Value]:
    """Return columns under all their names; those that are there keep their order."""
    found = dict(columns)
    for name, value in columns.items():
        if name in _OTHER:
            found.setdefault(_OTHER[name], value)
    return found
