"""Limits of the values of options, and which of them go together."""

import math
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

from xfelmpi.core.config.choices import BIN_SIZES, CLASS_COLUMNS, DECISIONS, SIZE_COLUMNS
from xfelmpi.core.config.parsing import LAST_RUN
from xfelmpi.core.config.parts import RunSettings
from xfelmpi.core.errors import UsageError
from xfelmpi.core.event_table import EventColumns
from xfelmpi.core.units import ELECTRONVOLT
from xfelmpi.core.vocabulary import OF_HITS, SPELLINGS
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.known import MAX_CELLS, MAX_MODULES

_MODULES, _CELLS = range(MAX_MODULES), range(MAX_CELLS)
"""What options may name before the run says which detector it has; see `validate_for`."""

TAKEN_COLUMNS = {*EventColumns.__dataclass_fields__, "problems", "sums"}
TAKEN_COLUMNS |= {*SIZE_COLUMNS, *CLASS_COLUMNS, *OF_HITS, *chain(*SPELLINGS)}
TAKEN_COLUMNS |= {"name", "source_1", "detector_1", "experiment_identifier"}
"""Names of the events file, of the group ``instrument_1`` of the CXI, and of columns of hits, which
``--where`` tells from others by their name alone."""


class _Limit(NamedTuple):
    option: str
    holds: Callable[[Any], bool]
    """Told the value, unless that is None: the option is not given."""
    expected: str
    found: Callable[[Any], str] = str
    """The value as the message shows it."""


def _none(value) -> str:
    return "none"


def _fits_float32(value: float) -> bool:
    return abs(value) < 1e38


_LIMITS = (
    _Limit("run", lambda n: 0 <= n <= LAST_RUN, f"a run number 0 … {LAST_RUN}"),
    _Limit("adu_per_photon", lambda x: 0 < x < math.inf, "a finite number above 0"),
    # beyond these, float32 cannot tell no photon from one
    _Limit("adu_per_photon", lambda x: 1e-30 < x < 1e30, "a number between 1e-30 and 1e30"),
    _Limit("sigma", lambda x: abs(x) <= 1e6, "a number from -1e6 to 1e6"),
    _Limit("photon_threshold", lambda x: 1e-6 <= x <= 1, "a number from 1e-6 to 1"),
    _Limit("miss_fraction", lambda x: 0 <= x <= 1e6, "a number from 0 to 1e6"),
    _Limit("fixed_threshold", _fits_float32, "a number between -1e38 and 1e38"),
    _Limit("min_scores", lambda n: 1 <= n <= 10**9, "1 … 1,000,000,000"),
    _Limit("min_score", _fits_float32, "a number between -1e38 and 1e38"),
    _Limit("max_score", _fits_float32, "a number between -1e38 and 1e38"),
    _Limit(
        "min_pulse_energy",
        lambda energy: 0 < energy < 1,
        "above 0 and below 1 J; microjoules are given as e.g. 200uJ",
        "{} J".format,
    ),
    _Limit(
        "exclude_cells",
        lambda cells: all(cell in _CELLS for cell in cells),
        f"0 … {_CELLS[-1]}",
    ),
    _Limit("first_cell", lambda cell: cell in _CELLS, f"0 … {_CELLS[-1]}"),
    _Limit("mask", lambda masks: masks != (), "at least one", _none),
    _Limit("mask_bits", lambda bits: bits != (), "at least one", _none),
    _Limit("mask_trains", lambda n: 1 <= n <= 100, "1 … 100"),
    _Limit("hit_modules", lambda modules: modules != (), "at least one", _none),
    _Limit(
        "hit_modules",
        lambda modules: all(module in _MODULES for module in modules),
        f"numbers 0 … {_MODULES[-1]}",
    ),
    _Limit("distance", lambda x: 1e-3 <= x < 100, "metres, from 0.001 and below 100"),
    _Limit("distance_offset", lambda x: -100 < x < 100, "metres, between -100 and 100"),
    _Limit("density", lambda x: 1 <= x <= 1e5, "electrons per nm^3, 1 … 100000"),
    _Limit(
        "size_range",
        lambda ends: 0.1 <= ends[0] < ends[1] <= 1e5,
        "A:B in nm, A below B, 0.1 … 100000",
        lambda ends: "{:g}:{:g}".format(*ends),
    ),
    _Limit("bin", lambda n: n in BIN_SIZES, f"one of {BIN_SIZES}"),
    _Limit(
        "roi_qmax",
        lambda limit: 0 < limit[0] < 1e18,
        "a number above 0 and below 1e18",
        lambda limit: str(limit[0]),
    ),
    _Limit("ewald_rad", lambda x: 0 < x < 1e9, "voxels, above 0 and below 1e9"),
    _Limit("max_bad", lambda x: 0 <= x < 1, "a fraction, from 0 and below 1"),
    _Limit(
        "photon_energy",
        lambda energy: 99 <= energy / ELECTRONVOLT <= 101e3,
        "100eV to 100keV",
        lambda energy: f"{energy / ELECTRONVOLT:g} eV",
    ),
    _Limit("memory_per_rank", lambda n_bytes: n_bytes >= 256 << 20, "at least 256M"),
    _Limit("checkpoint_minutes", lambda x: 0 <= x < math.inf, "minutes, 0 or more"),
)


def validate(config) -> None:
    """Check the values of a `Config`.

    Raises
    ------
    UsageError
        With the option, what was found and what was expected.
    """
    for limit in _LIMITS:
        value = getattr(config, limit.option)
        if value is not None:
            _need(limit.holds(value), limit.option, limit.found(value), limit.expected)
    _validate_decision(config)
    masks = config.mask
    alone = sorted({"auto", "none"} & set(masks))
    _need(not alone or len(masks) == 1, "mask", " ".join(masks), f"{' or '.join(alone)} alone")
    _validate_added([text.partition("=")[0] for text in config.add])
    first, end = config.trains
    _need(first is None or end is None or first < end, "trains", f"{first}:{end}", "A below B")


def validate_for(settings: RunSettings, detector: Detector) -> None:
    """Check what the settings name against the detector of the run.

    Raises
    ------
    UsageError
        With the option, what was found and what was expected.
    """
    cells, modules = range(detector.max_cells), range(detector.n_modules)
    last = f"0 … {{}} of the {detector.name}"
    named = (
        ("exclude_cells", settings.exclude_cells, cells),
        ("first_cell", (settings.first_cell,), cells),
        ("hit_modules", settings.hit_modules or (), modules),
    )
    for option, numbers, there in named:
        wrong = [number for number in numbers if number not in there]
        _need(not wrong, option, ", ".join(map(str, wrong[:5])), last.format(there[-1]))
    edge = math.gcd(*detector.asic_shape)
    expected = f"a divisor of {edge}, so that no bin reaches over an ASIC of the {detector.name}"
    _need(edge % settings.bin == 0, "bin", settings.bin, expected)


def _need(holds: bool, option: str, found, expected: str) -> None:  # noqa: FBT001, as in an assert
    if not holds:
        raise UsageError(f"--{option.replace('_', '-')}: found {found}, expected {expected}")


def _validate_decision(config) -> None:
    """Check options of the decision that go together."""
    fixed, given = config.decide == "fixed", config.fixed_threshold is not None
    _need(given or not fixed, "decide fixed", "no --fixed-threshold", "one")
    _need(
        fixed or not given,
        "fixed_threshold",
        f"--decide {config.decide}",
        "--decide fixed with it",
    )
    low, high = config.min_score, config.max_score
    _need(None in (low, high) or low <= high, "max_score", high, f"at least --min-score, {low}")


_NOT_USED_BY_FACILITY = (
    *("decide", "sigma", "width", "sigma_floor", "min_scores", "fixed_threshold", "min_score"),
    *("max_score", "normalise", "miss_fraction", "miss_base", "score", "hit_mask", "hit_modules"),
)
"""Options of the decision that have no effect if the facility has decided."""


def without_effect(config) -> str:
    """Return which options of a `Config` that are not at their defaults have no effect, or none."""
    names: tuple[str, ...] = DECISIONS[config.decide].not_used
    how = f"--decide {config.decide}"
    if config.hits == "facility":
        names, how = _NOT_USED_BY_FACILITY, "--hits facility"
    unused = [
        f"--{name.replace('_', '-')} {_shown(getattr(config, name))}"
        for name in names
        if getattr(config, name) != getattr(type(config), name)
        # the mean energy around a train is taken from as many frames
        and (name != "min_scores" or config.normalise != "pulse-energy" or "facility" in how)
    ]
    if not unused:
        return ""
    verb = "has" if len(unused) == 1 else "have"
    return f"{', '.join(unused)} {verb} no effect with {how}"


def low_sigma(config) -> str:
    """Return a warning if the threshold is not above the background's median, or nothing."""
    used = config.hits == "own" and "sigma" not in DECISIONS[config.decide].not_used
    if not used or config.sigma > 0 or config.min_score is not None:
        return ""
    return (
        f"--sigma {config.sigma:g}: half of the frames without a particle, or more, become hits; "
        "expected a number above 0, unless you want these frames"
    )


def _shown(value) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _validate_added(names: list[str]) -> None:
    taken = ", ".join(sorted(TAKEN_COLUMNS.intersection(names)))
    _need(not taken, "add", f"the name {taken}", "another: the outputs have that already")
    _need(len(set(names)) == len(names), "add", f"names {', '.join(names)}", "each only once")
