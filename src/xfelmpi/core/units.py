"""Units of the facility's files → SI, and the constants that tie them together."""

import math
from dataclasses import dataclass

ELECTRONVOLT = 1.602176634e-19
"""J (SI 2019, exact)."""

PLANCK_TIMES_C = 6.62607015e-34 * 299792458
"""h c in J m (SI 2019, exact)."""

_PREFIXES = (
    ("yotta", "Y", 24),
    ("zetta", "Z", 21),
    ("exa", "E", 18),
    ("peta", "P", 15),
    ("tera", "T", 12),
    ("giga", "G", 9),
    ("mega", "M", 6),
    ("kilo", "k", 3),
    ("hecto", "h", 2),
    ("deca", "da", 1),
    ("none", "", 0),
    ("deci", "d", -1),
    ("centi", "c", -2),
    ("milli", "m", -3),
    ("micro", "u", -6),
    ("micro", "\u03bc", -6),
    ("micro", "\u00b5", -6),
    ("nano", "n", -9),
    ("pico", "p", -12),
    ("femto", "f", -15),
    ("atto", "a", -18),
    ("zepto", "z", -21),
    ("yocto", "y", -24),
)
# float of the decimal text: the number nearest to a micro, not a product of rounded ones
_FACTORS = {form: float(f"1e{power}") for *forms, power in _PREFIXES for form in forms}

_CONVERTED = (
    ("meter", "m", "m", 1.0),
    ("metre", "m", "m", 1.0),
    ("gram", "g", "kg", 1e-3),
    ("second", "s", "s", 1.0),
    ("minute", "min", "s", 60.0),
    ("hour", "h", "s", 3600.0),
    ("day", "d", "s", 86400.0),
    ("year", "a", "s", 31557600.0),
    ("joule", "J", "J", 1.0),
    ("electronvolt", "eV", "J", ELECTRONVOLT),
    ("pascal", "Pa", "Pa", 1.0),
    ("bar", "bar", "Pa", 1e5),
    ("radian", "rad", "rad", 1.0),
    ("degree", "deg", "rad", math.pi / 180),
    ("revolutions_per_minute", "rpm", "Hz", 1 / 60),
    ("percent", "%", "1", 0.01),
    ("number", "", "", 1.0),
    ("count", "#", "", 1.0),
    ("not_assigned", "N_A", "", 1.0),
)
_KEPT = (
    ("ampere", "A"),
    ("kelvin", "K"),
    ("degree_celsius", "degC"),
    ("mole", "mol"),
    ("candela", "cd"),
    ("hertz", "Hz"),
    ("steradian", "sr"),
    ("newton", "N"),
    ("watt", "W"),
    ("coulomb", "C"),
    ("volt", "V"),
    ("farad", "F"),
    ("ohm", "Ω"),
    ("siemens", "S"),
    ("weber", "Wb"),
    ("tesla", "T"),
    ("henry", "H"),
    ("lumen", "lm"),
    ("lux", "lx"),
    ("becquerel", "Bq"),
    ("gray", "Gy"),
    ("sievert", "Sv"),
    ("katal", "kat"),
    ("meter_per_second", "m/s"),
    ("volt_per_second", "V/s"),
    ("ampere_per_second", "A/s"),
    ("pixel", "px"),
    ("byte", "B"),
    ("bit", "bit"),
)
_UNITS = {form: (symbol, factor) for *forms, symbol, factor in _CONVERTED for form in forms}
_UNITS |= {form: (symbol, 1.0) for name, symbol in _KEPT for form in (name, symbol)}


@dataclass(frozen=True)
class Unit:
    """The SI unit of some numbers.

    Parameters
    ----------
    symbol : str
        E.g. ``J``; empty for plain numbers, and as the file has it for a unit that is not known.
    factor : float
        What the file's numbers are multiplied with.
    """

    symbol: str
    factor: float


def si_unit(unit: str, prefix: str = "") -> Unit:
    """Return the SI unit of numbers in a file's unit.

    Parameters
    ----------
    unit, prefix : str
        Name or symbol, as Karabo has them (``karabo.native.data.enums``, ``Unit`` and
        ``MetricPrefix``), e.g. ``joule`` and ``micro``, or ``J`` and ``u``. Empty for none.
    """
    si, factor = _look_up(_UNITS, unit), _look_up(_FACTORS, prefix)
    if si is None or factor is None:
        return Unit(f"{prefix}{unit}", 1.0)
    return Unit(si[0], si[1] * factor)


def parse_unit(text: str) -> Unit | None:
    """Return the SI unit of numbers whose unit a person wrote, e.g. ``uJ``, ``keV`` or ``nm``.

    Parameters
    ----------
    text : str
        Prefix and unit, as symbols or names; µ in both of Unicode's forms.

    Returns
    -------
    Unit or None
        None if it is not known.
    """
    text = text.replace("µ", "u").replace("μ", "u")
    for prefix in ("", *(form for form in _FACTORS if form and form != "none")):
        unit = text.removeprefix(prefix)
        if text.startswith(prefix) and unit in _UNITS and unit:
            symbol, factor = _UNITS[unit]
            return Unit(symbol, factor * _FACTORS[prefix])
    return None


def _look_up(table: dict, form: str):
    # m and M are different symbols, but names come in any case
    name = form.lower().replace(" ", "_") if len(form) > 2 else form
    return table.get(form, table.get(name))
