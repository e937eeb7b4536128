"""Forms of the values of options: text → value."""

import re
from pathlib import Path

from xfelmpi.core.text import did_you_mean
from xfelmpi.core.units import ELECTRONVOLT
from xfelmpi.detectors.bad_pixels import ALL_MASK_BITS, BAD_PIXELS
from xfelmpi.detectors.known import MAX_CELLS

LAST_RUN = 99_999
"""The facility's names have four digits, ``r0050``; a run beyond them has five."""

MOST_RUNS = 10_000

_NUMBER = r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"


def parse_run(text) -> int:
    """Return a run number from ``50`` or ``r0050``.

    Raises
    ------
    ValueError
        If it is neither.
    """
    match = re.fullmatch(r"[rR]?(\d{1,9})", str(text), re.ASCII)
    if not match:
        raise ValueError(f"{str(text)[:40]!r} is not a run number; expected e.g. 50 or r0050")
    run = int(match[1])
    if run > LAST_RUN:
        raise ValueError(f"found {run}, expected a run number 0 … {LAST_RUN}")
    return run


def parse_run_list(text) -> tuple[int, ...]:
    """Return run numbers, as they stand there, from ``50``, ``r0050``, ``52,50`` or ``50-53``.

    Raises
    ------
    ValueError
        If it names none, or more than there can be.
    """
    runs: list[int] = []
    for part in re.split(r"[,\s]+", str(text).strip()):
        match = re.fullmatch(r"[rR]?(\d{1,9})(?:-[rR]?(\d{1,9}))?", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < first + MOST_RUNS:
            raise ValueError(f"{str(text)[:40]!r} names no runs; expected e.g. 50 or 50-60,65")
        if last > LAST_RUN:
            raise ValueError(f"found {last}, expected run numbers 0 … {LAST_RUN}")
        runs.extend(range(first, last + 1))
    return tuple(runs)


def parse_runs(text) -> tuple[int, ...]:
    """Return run numbers, ascending, from ``50-60,65`` (ends included); see `parse_run_list`."""
    return tuple(sorted(set(parse_run_list(text))))


_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_duration(text) -> float:
    """Return seconds from a time with an optional unit, e.g. ``30m``, ``90 s``, ``1.5h``.

    Raises
    ------
    ValueError
        If it is none, or longer than a year.
    """
    match = re.fullmatch(rf"\s*({_NUMBER})\s*(s|m|min|h|d|)\s*", str(text))
    seconds = float(match[1]) * _SECONDS[match[2]] if match else -1.0
    if not 0 <= seconds <= 366 * 86400:
        raise ValueError(f"{str(text)[:40]!r} is not a time; expected e.g. 30m, 90s or 2h")
    return seconds


CATALOGUE = Path("catalogue")
"""Stands for the constants of the facility's catalogue, in place of a folder."""


def parse_constants(text) -> Path:
    """Return a folder of constants, as an absolute path, or `CATALOGUE`.

    Raises
    ------
    TypeError
        If it is no text.
    """
    return CATALOGUE if text == str(CATALOGUE) else Path(text).absolute()


def parse_size(text) -> int:
    """Return bytes from a number with an optional unit, e.g. ``400M`` or ``1.5G`` (powers of 1024).

    Raises
    ------
    ValueError
        If it is not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?)(?:i?B)?\s*", str(text))
    if not match:
        raise ValueError(f"{text!r} is not a size; expected e.g. 400M or 1.5G")
    size = float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " ")
    if not size < 1 << 60:
        raise ValueError(f"{str(text)[:40]!r} is not a memory size; expected e.g. 400M or 1.5G")
    return int(size)


def parse_size_range(text) -> tuple[float, float]:
    """Return the smallest and the largest diameter in nm from ``20:80``.

    Raises
    ------
    ValueError
        If it is no such range.
    """
    match = re.fullmatch(rf"\s*({_NUMBER})\s*:\s*({_NUMBER})\s*", str(text))
    if not match:
        raise ValueError(f"{text!r} is not a range of diameters (expected A:B in nm, e.g. 20:80)")
    return float(match[1]), float(match[2])


def parse_trains(text) -> tuple[int | None, int | None]:
    """Return (A, B) from ``A:B``, a slice of the run's trains by position; either may be left out.

    Raises
    ------
    ValueError
        If it is no such slice.
    """
    if isinstance(text, (tuple, list)):
        if len(text) != 2 or not all(type(part) is int and part >= 0 for part in text):
            raise ValueError(f"{text!r} is not a train range (expected A:B, two numbers from 0 on)")
        return text[0], text[1]
    match = re.fullmatch(r"(\d*):(\d*)", str(text))
    if not match:
        raise ValueError(f"{text!r} is not a train range (expected A:B, e.g. 0:100)")
    start, stop = (int(part) if part else None for part in match.groups())
    return start, stop


def parse_whole(text) -> int:
    """Return a whole number; ``int`` alone would cut off the digits of a number in a file.

    Raises
    ------
    ValueError
        If it is none.
    """
    if not isinstance(text, (int, str)):
        raise ValueError(f"{text!r} is not a whole number")
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
        raise ValueError(f"{text!r} is not an energy; expected e.g. 200uJ or 0.0002 (J)")
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
        raise ValueError(f"{text!r} is not a photon energy; expected e.g. 6keV or 6000eV")
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
        raise ValueError(f"{text!r} is not a limit for q; expected e.g. 80 (voxels) or 0.25/nm")
    return float(match[1]), match[2] or ""


def parse_modules(text) -> tuple[int, ...]:
    """Return module numbers, ascending, from ``3``, ``3,4,8,15`` or ``0-3`` (ends included).

    A single number may be any: which modules there are is checked with the other settings.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if re.fullmatch(r"-?\d{1,9}", str(text)):
        return (int(text),)
    try:
        return parse_cells(text)
    except ValueError:
        raise ValueError(f"{text!r} names no modules; expected e.g. 3 4 8 15 or 3,4,8,15") from None


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
    cells: set[int] = set()
    for part in re.split(r"[,\s]+", str(text).strip()):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
        if not match:
            raise ValueError(f"{text!r} names no cells; expected e.g. 0,5-10,31")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < MAX_CELLS:
            raise ValueError(f"{part}: expected cells from 0 to {MAX_CELLS - 1}, ascending")
        cells.update(range(first, last + 1))
    return tuple(sorted(cells))


NUMBER_LISTS = {"hit_modules": parse_modules, "exclude_cells": parse_cells}
"""Options whose numbers may be given as one text or as several: ``3,4 8-10``."""

_BAD_PIXELS = dict(BAD_PIXELS)
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
        hint = did_you_mean(name.upper(), _BAD_PIXELS) or f", e.g. {next(iter(BAD_PIXELS))} or 0x3"
        raise ValueError(f"{text!r} is neither a kind of bad pixel nor a number{hint}") from None
    if not 0 < bits <= ALL_MASK_BITS:
        raise ValueError(f"{text!r}: expected bits from 1 to {ALL_MASK_BITS:#x}")
    return bits


def parse_added(text) -> str:
    """Return ``NAME=SOURCE/KEY`` without spaces around its parts.

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
