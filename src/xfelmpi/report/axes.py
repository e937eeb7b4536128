"""Axes of charts, and numbers as short texts. Pure."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`, logarithmic or not; `whole`: of whole numbers."""

    label: str
    low: float
    high: float
    log: bool = False
    whole: bool = False


def axis_around(
    label: str, values, *, log: bool = False, zero: bool = False, whole: bool = False
) -> Axis:
    """Return an axis with room around finite values; `zero`: it begins there."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values) & ((values > 0) | (not log))]
    if not len(values):
        return Axis(label, 0.1 if log else 0.0, 1.0, log, whole)
    low, high = float(values.min()), float(values.max())
    if log:
        return Axis(label, low * 0.8, max(high * 1.3, low * 2), True)
    low = 0.0 if zero else low
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return Axis(label, low if zero else low - room, high + room, whole=whole)


def number(value: float) -> str:
    """Return a short text of a number."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{float(f'{value:.4g}'):,.10g}"
    mantissa, power = f"{value:.3e}".split("e")
    mantissa = f"{float(mantissa):g}"
    return f"{'' if mantissa == '1' else mantissa + '·'}10{_raised(int(power))}"


def _raised(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def ticks(axis: Axis, most: int) -> list[float]:
    """Return about `most` round numbers on a linear axis."""
    rough = max((axis.high - axis.low) / most, 1.0 if axis.whole else 0.0)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(axis.low / step - 1e-9)
    last = math.floor(axis.high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]
