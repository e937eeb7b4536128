"""The text of a CrystFEL geometry file, and its statements that extra-geom does not apply."""

import errno
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xfelmpi.core.errors import InputError
from xfelmpi.core.regular_file import read_small
from xfelmpi.detectors.base import Detector

MOST_BYTES = 4 << 20
"""A geometry of 128 panels has 60 kB."""

_VALUE = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(m|mm)?")
_MOTOR_COMMENT = ";XGEOM"

_IN_PIXELS = re.compile(r"(?:^|/)(?:min|max)_[fs]s$")
_WHOLE = re.compile(r"(?<=\d)\.0*$")
"""What is left out of a number of pixels such as ``127.0``."""

_NO_EFFECT = {
    "mask": "give masks with --global-mask or --cell-mask",
    "flag": "no pixel is left out by its value",
    "max_adu": "give --max-score, or a mask",
    "min_adu": "no pixel is left out by its value",
    "saturation_map": "no pixel is left out by its value",
    "no_index": "give a mask to leave pixels out",
    "adu_per_photon": "give --adu-per-photon",
    "rail_direction": "the detector does not move along a rail here",
    "clen_for_centering": "the distance is clen, or --distance",
}
"""Statements of crystfel_geometry(5) that would change the result there, and what to do here."""

_KNOWN = re.compile(
    r"(adu_per_(eV|photon)|res|clen|coffset|photon_energy(_bandwidth)?|wavelength|(beam_)?bandwidth"
    r"|electron_voltage|detector_shift_[xy]|corner_[xy]|fs|ss|(min|max)_(fs|ss|x|y|adu)|panel|data"
    r"|dim\d+|peak_(list|list_type|info_location)|badrow_direction|event|mask\w*|flag\w*"
    r"|(rigid_)?group_\w+|saturation_map(_file)?|no_index|rail_direction|clen_for_centering)"
)
"""Names of crystfel_geometry(5), without those of panels."""


def read_text(path: Path) -> str:
    """Return the text of a geometry file.

    Raises
    ------
    InputError
        If it cannot be read, or is not a text of a likely size.
    """
    try:
        return read_small(path, MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not a CrystFEL geometry: byte {error.start} is not text (UTF-8)"
        ) from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise InputError(
                f"{path}: not a CrystFEL geometry: found {error.strerror}, expected at most that"
            ) from None
        raise InputError(f"{path}: cannot be read: {error.strerror} (geometry)") from None


def statements(text: str) -> list[tuple[str, str]]:
    """Return names and values of all statements, in order; comments are left out."""
    return [found for line in text.splitlines() if (found := _statement(line))]


def _statement(line: str) -> tuple[str, str] | None:
    name, equals, value = line.partition(";")[0].partition("=")
    return (name.strip(), value.strip()) if equals else None


def panels(found: list[tuple[str, str]]) -> dict[str, dict[str, str]]:
    """Return the statements of each panel, by name, with the defaults that stand before it.

    A default applies to panels that are named for the first time after it, as in
    crystfel_geometry(5) and extra-geom's parser. Names that begin with ``bad`` are bad regions.
    """
    defaults: dict[str, str] = {}
    of_panel: dict[str, dict[str, str]] = {}
    for key, value in found:
        panel, slash, name = key.partition("/")
        if not slash:
            defaults[key] = value
        elif not panel.startswith("bad"):
            of_panel.setdefault(panel, dict(defaults))[name] = value
    return of_panel


def more_of(found: Sequence) -> str:
    """Return how many there are beside the first, for a message that names only that one."""
    return f" and {len(found) - 1} more" if len(found) > 1 else ""


def length_in_metres(value: str) -> float:
    """Return the value of a statement that is a length, with ``m``, ``mm`` or no unit; else NaN."""
    match = _VALUE.fullmatch(value)
    return float(match[1]) * (1e-3 if match[2] == "mm" else 1.0) if match else math.nan


def text_for_parser(text: str) -> str:
    """Return the statements that say where pixels are, and the comments of EXtra-geom.

    The parser's time grows with the square of the number of empty lines, it takes no units, passes
    over statements without spaces around the equals sign, and takes no ``127.0`` for 127.
    """
    lines = []
    for line in text.splitlines():
        if line.startswith(_MOTOR_COMMENT):
            lines.append(line)
        found = _statement(line)
        if found and found[0] not in ("photon_energy", "detector_shift_x", "detector_shift_y"):
            name, value = found
            if _IN_PIXELS.search(name):
                value = _WHOLE.sub("", value)
            lines.append(f"{name} = {value}")
    return "\n".join(lines) + "\n"


def odd_lines(text: str, path: Path) -> list[str]:
    """Return a warning if there are lines that are neither statements nor comments."""
    parts = [line.partition(";")[0].strip() for line in text.splitlines()]
    odd = [(number, part) for number, part in enumerate(parts, 1) if part and "=" not in part]
    if not odd:
        return []
    number, part = odd[0]
    more = f" (and {len(odd) - 1} lines more)" if len(odd) > 1 else ""
    return [f"{path}: line {number} is not used: {part[:80]!r}, expected NAME = VALUE{more}"]


def detector_shift(found: list[tuple[str, str]], path: Path) -> tuple[np.ndarray, list[str]]:
    """Return the shift of the whole detector, float64 (3,) in m, and what was not understood."""
    shift, warnings = np.zeros(3), []
    for axis, name in enumerate(("detector_shift_x", "detector_shift_y")):
        values = [value for key, value in found if key == name]
        if not values:
            continue
        # false for NaN, too
        if abs(length := length_in_metres(values[-1])) < 1:
            shift[axis] = length
        else:
            warnings.append(
                f"{path}: {name} = {values[-1][:80]} is not applied: expected a length in m or mm"
            )
    return shift, warnings


def unused_statements(found: list[tuple[str, str]], path: Path) -> list[str]:
    """Return a warning for each kind of statement that has no effect here but has in CrystFEL."""
    warnings, told = [], set()
    for key, value in found:
        name = key.partition("/")[2] or key
        kind = re.sub(r"^(mask|flag)(\d+_\w+|_\w+|\d+)?$", r"\1", name)
        if kind == "flag" and name == "flag":
            continue
        if kind in _NO_EFFECT and kind not in told:
            told.add(kind)
            warnings.append(f"{path}: {name} is not used: {_NO_EFFECT[kind]}")
        elif name == "adu_per_eV" and value not in ("1", "1.0") and name not in told:
            told.add(name)
            warnings.append(f"{path}: {name} is not used: give --adu-per-photon")
        elif re.search(r"\s", key):
            # extra-geom's parser passes over it
            if " " not in told:
                told.add(" ")
                warnings.append(f"{path}: {key[:80]!r} is not used: expected a name without spaces")
        elif not _KNOWN.fullmatch(name.lower()) and not _KNOWN.fullmatch(name) and name not in told:
            told.add(name)
            warnings.append(f"{path}: {name[:80]} is not used: no such statement is known")
    return warnings


def other_panels(found: list[tuple[str, str]], detector: Detector, path: Path) -> list[str]:
    """Return a warning for panels that have not the detector's number of pixels."""
    expected = dict(zip(("ss", "fs"), detector.tile_shape, strict=True))
    odd: dict[tuple[str, int], list[str]] = {}
    for panel, its in panels(found).items():
        for axis, n in expected.items():
            try:
                has = int(float(its[f"max_{axis}"])) - int(float(its[f"min_{axis}"])) + 1
            except (KeyError, ValueError, OverflowError):
                continue
            if has != n:
                odd.setdefault((axis, has), []).append(panel)
    return [
        f"{path}: min_{axis} and max_{axis} of {names[0][:80]}{more_of(names)} are not applied: "
        f"found {has} pixels, expected {expected[axis]}"
        for (axis, has), names in odd.items()
    ]


def require_different_panels(found: list[tuple[str, str]], path: Path) -> None:
    """Refuse two panels of the same pixels: the last one would silently count.

    Raises
    ------
    InputError
        With the names of the two.
    """
    first: dict[tuple, str] = {}
    for panel, its in panels(found).items():
        axes = sorted((name, value) for name, value in its.items() if re.fullmatch(r"dim\d+", name))
        try:
            start = tuple(float(its[name]) for name in ("min_ss", "min_fs"))
        except (KeyError, ValueError):
            continue
        other = first.setdefault((*axes, *start), panel)
        if other != panel:
            raise InputError(
                f"{path}: panels {other[:80]} and {panel[:80]} have the same pixels (min_ss "
                f"{start[0]:g}, min_fs {start[1]:g}), expected one panel for each part of a module"
            )


def unapplied(found: list[tuple[str, str]], regions: dict, path: Path) -> list[str]:
    """Return a warning for each bad region that is left out, and for shifts of another name."""
    names = dict.fromkeys(key.partition("/")[0] for key, _ in found if key.startswith("bad"))
    warnings = [
        f"{path}: bad region {name[:80]} is not applied: expected min_fs, max_fs, min_ss, max_ss "
        "and a panel of this file, or min_x, max_x, min_y and max_y"
        for name in names
        if name not in regions
    ]
    for name, region in regions.items():
        axes = ("fs", "ss") if region["is_fsss"] else ("x", "y")
        if any(region[f"min_{axis}"] > region[f"max_{axis}"] for axis in axes):
            warnings.append(f"{path}: bad region {name[:80]} has no pixels: a minimum is larger")
    for key, _ in found:
        name = key.rpartition("/")[2].lower()
        if name in ("detector_shift_x", "detector_shift_y") and key != name:
            warnings.append(f"{path}: {key[:80]} is not applied: expected {name}, of all panels")
    return warnings


def bad_pixels(
    regions: dict, xyz: np.ndarray, pixel_size: float, tiles: list[tuple[slice, slice]]
) -> np.ndarray | None:
    """Return the pixels in bad regions, bool (module, ss, fs), or None without any region.

    Parameters
    ----------
    regions : dict
        As extra-geom reads them: panels are named pNaM, ss and fs are those of the module.
    xyz : ndarray, float64 (3, module, ss, fs)
        m.
    pixel_size : float
        m; x and y of regions are in pixels from the beam.
    tiles : list of (slice, slice)
        Rows and columns of a module that a tile has, in the order of the panels' names.
    """
    if not regions:
        return None
    bad = np.zeros(xyz.shape[1:], bool)
    x, y = xyz[:2] / pixel_size
    ss, fs = np.ogrid[: bad.shape[1], : bad.shape[2]]
    for region in regions.values():
        if region["is_fsss"]:
            inside = (ss >= region["min_ss"]) & (ss <= region["max_ss"])
            inside = inside & (fs >= region["min_fs"]) & (fs <= region["max_fs"])
            inside = np.broadcast_to(inside, bad.shape)
        else:
            inside = (x >= region["min_x"]) & (x <= region["max_x"])
            inside &= (y >= region["min_y"]) & (y <= region["max_y"])
        part: tuple = (...,)
        if region["panel"]:
            module, tile = map(int, re.fullmatch(r"p(\d+)a(\d+)", region["panel"]).groups())
            part = (module, *tiles[tile])
        bad[part] |= inside[part]
    return bad
