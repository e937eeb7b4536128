"""Forms and limits of the values of options."""

import difflib
import math
import re

from xfelmpi.binning import SIZES
from xfelmpi.detector import ALL_MASK_BITS, BAD_PIXELS, MAX_CELLS, N_MODULES
from xfelmpi.errors import UsageError
from xfelmpi.records import EventColumns
from xfelmpi.units import ELECTRONVOLT

_TAKEN = {*EventColumns.__dataclass_fields__, "problems", "sums"}
_TAKEN |= {"name", "source_1", "detector_1", "experiment_identifier"}
"""Names of the events file, and of the group ``instrument_1`` of the CXI."""


_NUMBER = r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"


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


def parse_whole(text) -> int:
    """Return a whole number; ``int`` alone would cut off the digits of a number in a file.

    Raises
    ------
    ValueError
        If it is none.
    """
    if not isinstance(text, (int, str)):
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def parse_energy(text) -> float:
    """Return J from a number with an optional unit, e.g. ``200uJ``, ``0.5 mJ`` or ``2e-4``.

    Raises
    ------
    ValueError
        If it is no energy.
    """
    match = re.fullmatch(r"\s*([\d.]+(?:[eE][-+]?\d+)?)\s*(?:([munµμ]?)J)?\s*", str(text))
    if not match:
        raise ValueError(f"{text!r} is no energy; expected e.g. 200uJ or 0.0002 (J)")
    # float of the decimal text, so that 200uJ and 200e-6 are the same number
    power = {"m": -3, "u": -6, "µ": -6, "μ": -6, "n": -9}.get(match[2], 0)
    number, _, exponent = match[1].lower().partition("e")
    return float(f"{number}e{int(exponent or 0) + power}")


def parse_photon_energy(text) -> float:
    """Return J from ``6keV`` or ``6000 eV``.

    Raises
    ------
    ValueError
        If it is no such energy.
    """
    match = re.fullmatch(rf"\s*({_NUMBER})\s*(k?)eV\s*", str(text))
    if not match:
        raise ValueError(f"{text!r} is no photon energy; expected e.g. 6keV or 6000eV")
    return float(match[1]) * (1e3 if match[2] else 1) * ELECTRONVOLT


def parse_qmax(text) -> tuple[float, str]:
    """Return number and unit, ``/nm`` or empty for voxels, from ``0.25/nm`` or ``80``.

    Raises
    ------
    ValueError
        If it is neither.
    """
    match = re.fullmatch(rf"\s*({_NUMBER})\s*(/nm)?\s*", str(text))
    if not match:
        raise ValueError(f"{text!r} is no limit of q; expected e.g. 80 (voxels) or 0.25/nm")
    return float(match[1]), match[2] or ""


def parse_cells(text) -> tuple[int, ...]:
    """Return memory cells, ascending, from ``0,5-10,31`` (ends included) or a list of numbers.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if isinstance(text, (tuple, list)):
        if any(type(part) is not int for part in text):
            raise ValueError(f"{text!r}: expected a list of whole numbers")
        text = ",".join(map(str, text))
        if not text:
            return ()
    cells = set()
    for part in re.split(r"[,\s]+", str(text).strip()):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
        if not match:
            raise ValueError(f"{text!r} names no cells; expected e.g. 0,5-10,31")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < MAX_CELLS:
            raise ValueError(f"{part}: expected cells from 0 to {MAX_CELLS - 1}, ascending")
        cells.update(range(first, last + 1))
    return tuple(sorted(cells))


_BAD_PIXELS = {name: 1 << bit for bit, name in enumerate(BAD_PIXELS)}
# as the facility's own list spells it
_BAD_PIXELS["CI_GAIN_OF_OF_THRESHOLD"] = _BAD_PIXELS["CI_GAIN_OUT_OF_THRESHOLD"]


def parse_mask_bits(text) -> int:
    """Return bits of ``image/mask`` from the name of one, or a number such as ``4096`` or ``0x12``.

    Raises
    ------
    ValueError
        If it is neither.
    """
    name = str(text).strip()
    if name.upper() in _BAD_PIXELS:
        return _BAD_PIXELS[name.upper()]
    try:
        bits = int(name, 0)
    except ValueError:
        near = difflib.get_close_matches(name.upper(), _BAD_PIXELS, 1)
        hint = f"; did you mean {near[0]}?" if near else f", e.g. {BAD_PIXELS[0]} or 0x3"
        raise ValueError(f"{text!r} is neither a kind of bad pixel nor a number{hint}") from None
    if not 0 < bits <= ALL_MASK_BITS:
        raise ValueError(f"{text!r}: expected bits from 1 to {ALL_MASK_BITS:#x}")
    return bits


def parse_added(text) -> str:
    """Return ``NAME=SOURCE/KEY`` without blanks around its parts.

    Raises
    ------
    ValueError
        If it has another form.
    """
    match = re.fullmatch(r"\s*([A-Za-z_]\w*)\s*=\s*([^\s/=]+(?:/[^\s/=]+)+)\s*", text, re.ASCII)
    if not match:
        raise ValueError(
            f"{text!r} has the wrong form; expected NAME=SOURCE/KEY, with letters, digits and _ "
            "in NAME, e.g. chamber=SPB_IRU_VAC/GAUGE/GAUGE_FR_6/value"
        )
    return f"{match[1]}={match[2]}"


def validate(config) -> None:
    """Check the values of a `Config`.

    Raises
    ------
    UsageError
        With the option, what was found and what was expected.
    """

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
    need(config.min_scores >= 1, "min-scores", config.min_scores, "1 or more")
    for name in ("min_score", "max_score"):
        value = getattr(config, name)
        need(
            value is None or math.isfinite(value),
            name.replace("_", "-"),
            value,
            "a finite number",
        )
    need(
        None in (config.min_score, config.max_score) or config.min_score <= config.max_score,
        "max-score",
        config.max_score,
        f"at least --min-score, {config.min_score}",
    )
    energy = config.min_pulse_energy
    need(
        energy is None or 0 < energy < 1,
        "min-pulse-energy",
        f"{energy} J",
        "above 0 and below 1 J; microjoules are given as e.g. 200uJ",
    )
    cells = config.exclude_cells
    need(all(0 <= c < MAX_CELLS for c in cells), "exclude-cells", cells, f"0 … {MAX_CELLS - 1}")
    first_cell = config.first_cell
    need(0 <= first_cell < MAX_CELLS, "first-cell", first_cell, f"0 … {MAX_CELLS - 1}")
    masks = config.mask
    need(masks != (), "mask", "none", "at least one")
    alone = {"auto", "none"} & set(masks)
    need(
        not alone or len(masks) == 1, "mask", " ".join(masks), f"{' or '.join(sorted(alone))} alone"
    )
    need(config.mask_bits != (), "mask-bits", "none", "at least one")
    need(1 <= config.mask_trains <= 100, "mask-trains", config.mask_trains, "1 … 100")
    modules = config.hit_modules
    need(modules != (), "hit-modules", "none", "at least one")
    modules = modules or ()
    need(all(0 <= m < N_MODULES for m in modules), "hit-modules", modules, "numbers 0 … 15")
    names = [text.partition("=")[0] for text in config.add]
    taken = sorted(_TAKEN.intersection(names))
    need(not taken, "add", f"the name {', '.join(taken)}", "another: the outputs have that already")
    need(len(set(names)) == len(names), "add", f"names {', '.join(names)}", "each only once")
    need(
        config.distance is None or 0 < config.distance < 100,
        "distance",
        config.distance,
        "metres, above 0 and below 100",
    )
    _validate_dragonfly(config, need)
    need(
        config.memory_per_rank >= 256 << 20,
        "memory-per-rank",
        config.memory_per_rank,
        "at least 256M",
    )
    need(
        0 <= config.checkpoint_minutes < math.inf,
        "checkpoint-minutes",
        config.checkpoint_minutes,
        "minutes, 0 or more",
    )
    first, end = config.trains
    need(first is None or end is None or first < end, "trains", f"{first}:{end}", "A below B")


def _validate_dragonfly(config, need) -> None:
    need(config.bin in SIZES, "bin", config.bin, f"one of {SIZES}")
    q_max, _ = config.roi_qmax or (1, "")
    need(0 < q_max < math.inf, "roi-qmax", q_max, "a number above 0")
    radius = config.ewald_rad
    need(radius is None or 0 < radius < math.inf, "ewald-rad", radius, "voxels, above 0")
    need(0 <= config.max_bad < 1, "max-bad", config.max_bad, "a fraction, from 0 and below 1")
    energy = config.photon_energy
    need(
        energy is None or 99 <= energy / ELECTRONVOLT <= 101e3,
        "photon-energy",
        f"{(energy or 0) / ELECTRONVOLT:g} eV",
        "100eV to 100keV",
    )
