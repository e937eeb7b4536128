"""The distance from sample to detector: given, by the detector's motor, or of the geometry file."""

import re
from dataclasses import dataclass
from pathlib import Path

from xfelmpi.calibration.geometry_file import length_in_metres
from xfelmpi.core.machine_records import BeamlineSource, ZMotor

_OFFSET = re.compile(r"^;XGEOM DISTANCE_OFFSET[ \t]*=(.*)$", re.MULTILINE)

_MOTION = 0.1e-3
"""m: a detector that moves further along the beam during a run is worth a warning."""

SHORTEST_DISTANCE = 1e-3
"""m: no detector is nearer to the sample."""

LONGEST_DISTANCE = 100.0
"""m: no detector is farther from the sample."""

_USUAL = 0.02, 30.0
"""m: what is outside is probably in another unit."""

_DIFFERENCE = 1e-3
"""m: distances of motor and geometry file that differ by more contradict each other."""


@dataclass(frozen=True)
class Distance:
    """Sample to detector.

    Parameters
    ----------
    metres : float
        NaN if unknown.
    source : BeamlineSource
        Where it came from.
    warnings : tuple of str
    """

    metres: float
    source: BeamlineSource
    warnings: tuple[str, ...] = ()

    def words(self) -> str:
        """Return it for the log."""
        if self.metres != self.metres:
            return "distance unknown"
        return f"distance {self.metres:g} m ({self.source.source})"


def find_distance(
    path: Path | None,
    text: str,
    statements: list[tuple[str, str]],
    given: float | None = None,
    offset: float | None = None,
    motor: ZMotor | None = None,
) -> Distance:
    """Return the distance by the first of these that tells it.

    1. What is given.
    2. Offset + position of the detector's motor. The offset belongs to the geometry: it is given,
       or a comment of its file, ``;XGEOM DISTANCE_OFFSET=0.49957``, in m.
    3. ``clen`` of the file.

    Parameters
    ----------
    path : Path or None
        Geometry file.
    text : str
        Its text, empty without a file.
    statements : list of (str, str)
        Its statements.
    given, offset : float or None
        m.
    motor : ZMotor or None
    """
    if given is not None:
        return _distance(float(given), "--distance")
    warnings = []
    whose = "--distance-offset"
    if offset is None:
        offset, complaint = _comment(text, path)
        warnings += [complaint] if complaint else []
        whose = str(path)
    static, why_not = _camera_length(statements, path)
    if offset is not None and motor is None:
        warnings.append(
            f"distance offset {offset:g} m is not used: the run has no position of the detector's "
            "motor along the beam"
        )
    elif offset is not None and motor is not None:
        metres = offset + motor.position
        if SHORTEST_DISTANCE <= metres < LONGEST_DISTANCE:
            return _by_motor(metres, offset, whose, motor, static, warnings)
        warnings.append(
            f"distance offset {offset:g} m is not used: with {motor.source} at "
            f"{motor.position:g} m the distance would be {metres:g} m"
        )
    warnings += [why_not] if why_not else []
    return _distance(static, "clen of the geometry file", "", warnings)


def _by_motor(metres, offset, whose, motor: ZMotor, static: float, warnings: list[str]) -> Distance:
    if motor.travel > _MOTION:
        warnings.append(
            f"{motor.source} moved by {motor.travel * 1e3:.3f} mm during the run; the distance is "
            "computed from its median position"
        )
    # false for an unknown one
    if abs(metres - static) > _DIFFERENCE:
        warnings.append(
            f"distance {metres:g} m by {motor.source}, {static:g} m by clen of the geometry file; "
            "the first is used"
        )
    rule = f"{offset:g} m ({whose}) + {motor.position:g} m"
    return _distance(metres, motor.source, rule, warnings)


def _distance(metres: float, source: str, rule: str = "", warnings=()) -> Distance:
    warnings = tuple(warnings)
    low, high = _USUAL
    if metres < low or metres > high:  # false for an unknown one
        warnings += (
            f"distance {metres:g} m ({source}): expected {low:g} to {high:g} m; is it in m?",
        )
    return Distance(metres, BeamlineSource("distance", source, rule), warnings)


def _comment(text: str, path: Path | None) -> tuple[float | None, str]:
    """Return the offset that a comment of the file has, in m, and what is wrong with it."""
    match = _OFFSET.search(text)
    if match is None:
        return None, ""
    value = match[1].strip()
    # false for NaN, too
    if abs(offset := length_in_metres(value)) < LONGEST_DISTANCE:
        return offset, ""
    return None, f"{path}: DISTANCE_OFFSET={value[:40]} is not used: expected a length in m"


def _camera_length(statements: list[tuple[str, str]], path: Path | None) -> tuple[float, str]:
    """Return ``clen`` of a geometry file in m, or NaN and why it is unknown."""
    if path is None:
        return float("nan"), "detector distance unknown: no geometry file and none given"
    # Read here: the parser reduces anything but a plain number to -1.
    found = {value for name, value in statements if name.rpartition("/")[2] == "clen"}
    unknown = f"detector distance unknown: {path} "
    if not found:
        return float("nan"), unknown + "has no clen"
    if len(found) > 1:
        return float("nan"), unknown + f"has {len(found)} different values of clen"
    (value,) = found
    length = length_in_metres(value)
    # true for NaN, too
    if not SHORTEST_DISTANCE <= length < LONGEST_DISTANCE:
        return float("nan"), unknown + f"has clen = {value}, expected a length in m"
    return length, ""
