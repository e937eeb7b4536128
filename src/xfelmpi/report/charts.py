"""Charts as inline SVG, readable as they stand; `page.js` adds hovering and zooming. Pure."""

import json
import math
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 560, 270
"""Of a chart, in its own units."""

LEFT, RIGHT, TOP, BOTTOM = 62, 14, 30, 46
"""What axes and their labels need of it."""

_INNER = 1000.0
"""Edge of the square that the curves are drawn in; stretched to the plot, and what zooming cuts."""


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`, logarithmic or not; `whole`: of whole numbers."""

    label: str
    low: float
    high: float
    log: bool = False
    whole: bool = False

    def place(self, values) -> np.ndarray:
        """Return where values lie, 0 … 1 from low to high; what is below a log axis at 0."""
        values = np.asarray(values, float)
        if not self.log:
            return (values - self.low) / (self.high - self.low)
        span = math.log(self.high / self.low)
        with np.errstate(divide="ignore", invalid="ignore"):
            place = np.log(values / self.low) / span
        return np.where(values <= self.low, 0.0, place)


@dataclass(frozen=True)
class Series:
    """One curve.

    Parameters
    ----------
    label : str
    x : ndarray, float64 (point,)
        With ``form`` area: the edges, one more than `y`.
    y : ndarray, float64 (point,)
        NaN leaves a gap.
    form : str
        ``line``, ``dots`` or ``area`` (steps down to the axis).
    colour : str
        Class in `page.css`: ``main``, ``hit``, ``quiet``.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    form: str = "line"
    colour: str = "main"


@dataclass(frozen=True)
class Mark:
    """A vertical line with a name at its top; `row` keeps the names of close ones apart."""

    x: float
    label: str
    row: int = 0


def axis_around(
    label: str, values, log: bool = False, zero: bool = False, whole: bool = False
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


def chart(
    title: str,
    x: Axis,
    y: Axis,
    series: list[Series],
    marks: tuple[Mark, ...] = (),
    top: str = "",
    caption: str = "",
) -> str:
    """Return a figure as HTML.

    Parameters
    ----------
    title : str
    x, y : Axis
    series : list of Series
    marks : tuple of Mark
    top : str
        Label of a second axis on top, whose values are 2 π / x; empty for none.
    caption : str
        A sentence below.
    """
    above = TOP + (22 if top else 0)
    plot = (LEFT, above, WIDTH - LEFT - RIGHT, HEIGHT - above - BOTTOM)
    legend = "".join(
        f'<span class="key {s.colour} {s.form}">{escape(s.label)}</span>' for s in series
    )
    caption = f"<p>{escape(caption)}</p>" if caption else ""
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b> {legend}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{_y_ticks(y, plot)}{_x_ticks(x, plot, bool(top))}{_labels(x, y, top, plot)}"
        f'<svg class="plot" x="{plot[0]}" y="{plot[1]}" width="{plot[2]}" height="{plot[3]}"'
        f' viewBox="0 0 {_INNER:g} {_INNER:g}" preserveAspectRatio="none">'
        f"{''.join(_path(s, x, y) for s in series)}</svg>"
        f"{_marks(marks, x, plot)}"
        f'<rect class="frame" x="{plot[0]}" y="{plot[1]}" width="{plot[2]}" height="{plot[3]}"/>'
        f"</svg>{caption}"
        f'<script type="application/json">{_data(x, series, marks, bool(top))}</script></figure>'
    )


def ticks(axis: Axis, most: int) -> list[float]:
    """Return about `most` round numbers on an axis."""
    if axis.log:
        decades = math.log10(axis.high / axis.low)
        steps = (1,) if decades > 2.5 else (1, 2, 5) if decades > 0.8 else ()
        first, last = math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high))
        every = max(1, -(-(last - first) // most))
        found = [s * 10.0**e for e in range(first, last + 1, every) for s in steps]
        found = [v for v in found if axis.low <= v <= axis.high]
        if len(found) > 1:
            return found
    rough = max((axis.high - axis.low) / most, 1.0 if axis.whole else 0.0)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(axis.low / step - 1e-9)
    last = math.floor(axis.high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def number(value: float) -> str:
    """Return a short text of a number, as `page.js` does on zooming."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{float(f'{value:.4g}'):,.10g}"
    mantissa, power = f"{value:.3e}".split("e")
    mantissa = f"{float(mantissa):g}"
    return f"{'' if mantissa == '1' else mantissa + '·'}10{_raised(int(power))}"


def _raised(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _y_ticks(y: Axis, plot) -> str:
    left, top, width, height = plot
    values = ticks(y, 5)
    parts = []
    for value, place in zip(values, y.place(values), strict=True):
        at = top + height * (1 - place)
        parts.append(
            f'<line x1="{left}" x2="{left + width}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text x="{left - 6}" y="{at:.1f}" dy=".35em">{number(value)}</text>'
        )
    return f'<g class="y">{"".join(parts)}</g>'


def _x_ticks(x: Axis, plot, top: bool) -> str:
    left, above, width, height = plot
    values = ticks(x, 6)
    parts = []
    for value, place in zip(values, x.place(values), strict=True):
        at, below = left + width * place, above + height
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{below}" y2="{below + 4}"/>'
            f'<text x="{at:.1f}" y="{below + 18}">{number(value)}</text>'
        )
        if top and value > 0:
            resolution = number(float(f"{2 * math.pi / value:.2g}"))
            parts.append(f'<text x="{at:.1f}" y="{above - 6}">{resolution}</text>')
    return f'<g class="x">{"".join(parts)}</g>'


def _labels(x: Axis, y: Axis, top: str, plot) -> str:
    left, _, width, _ = plot
    upper = f'<text x="{left + width}" y="14" class="end">{escape(top)}</text>' if top else ""
    return (
        f'<g class="label"><text x="{left + width}" y="{HEIGHT - 8}" class="end">'
        f'{escape(x.label)}</text><text x="4" y="14">{escape(y.label)}</text>{upper}</g>'
    )


def _path(series: Series, x: Axis, y: Axis) -> str:
    across, up = _INNER * x.place(series.x), _INNER * (1 - y.place(series.y))
    if series.form == "area":
        across, up = np.repeat(across, 2), np.concatenate(([_INNER], np.repeat(up, 2), [_INNER]))
    known = np.isfinite(across) & np.isfinite(up)
    points = [f"{a:.1f} {b:.1f}" for a, b in zip(across[known], up[known], strict=True)]
    if series.form == "dots":
        # a line of no length with round ends is a dot that stretching leaves round
        text = "".join(f"M{p}h0" for p in points)
    else:
        begins, ends = np.append(True, ~known[:-1])[known], np.append(~known[1:], True)[known]
        text = "".join(
            # a point alone is a dot
            ("M" if first else "L") + p + ("h0" if first and last else "")
            for p, first, last in zip(points, begins, ends, strict=True)
        )
    return f'<path class="{series.colour} {series.form}" d="{text}"/>'


def _marks(marks, x: Axis, plot) -> str:
    left, above, width, height = plot
    lines, names = [], []
    for mark in marks:
        place = f'<g transform="translate({left + width * float(x.place([mark.x])[0]):.1f} 0)">'
        lines.append(f'{place}<line y1="{above}" y2="{above + height}"/></g>')
        at = above + 12 + 15 * mark.row
        names.append(f'{place}<text x="3" y="{at}">{escape(mark.label)}</text></g>')
    # names last, so that no line crosses one
    return f'<g class="marks">{"".join(lines + names)}</g>'


def _data(x: Axis, series: list[Series], marks, top: bool) -> str:
    """Return what `page.js` needs, as JSON that is safe within a script element."""
    curves = []
    for s in series:
        middle = (s.x[:-1] + s.x[1:]) / 2 if s.form == "area" else s.x
        curves.append([s.label, _short(middle, 7), _short(s.y, 4)])
    data = {"x": [x.low, x.high, x.log, x.whole], "name": x.label, "top": top, "series": curves}
    data["marks"] = [float(mark.x) for mark in marks]
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _short(values, digits: int) -> list[float | None]:
    rounded = (float(f"{v:.{digits}g}") for v in np.asarray(values, float))
    return [(int(v) if v == int(v) else v) if math.isfinite(v) else None for v in rounded]
