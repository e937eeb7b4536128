"""A small chart of one number over the runs, as inline SVG that needs no script. Pure."""

from html import escape

import numpy as np

from xfelmpi.report.axes import Axis, number, ticks

WIDTH, HEIGHT = 560, 270
"""In its own units."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 14, 30, 46
"""Margins; on a telephone and on the wall, letters are larger."""


def trend_chart(title: str, x: Axis, y: Axis, values: np.ndarray, heights: np.ndarray) -> str:
    """Return dots at `values` and `heights` on linear axes, as HTML."""
    width, height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def across(value) -> float:
        return _LEFT + width * (value - x.low) / (x.high - x.low)

    def down(value) -> float:
        return _TOP + height * (1 - (value - y.low) / (y.high - y.low))

    lines = "".join(
        f'<line x1="{_LEFT}" x2="{_LEFT + width}" y1="{down(v):.1f}" y2="{down(v):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{down(v):.1f}" dy=".35em">{number(v)}</text>'
        for v in ticks(y, 5)
    )
    below = "".join(
        f'<text x="{across(v):.1f}" y="{_TOP + height + 18}">{number(v)}</text>'
        for v in ticks(x, 6)
    )
    dots = "".join(
        f'<circle class="dot" cx="{across(a):.1f}" cy="{down(b):.1f}" r="4"/>'
        for a, b in zip(values, heights, strict=True)
    )
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'<g class="y">{lines}</g><g class="x">{below}</g><g class="label">'
        f'<text x="{_LEFT + width}" y="{HEIGHT - 8}" class="end">{escape(x.label)}</text>'
        f'<text x="4" y="14">{escape(y.label)}</text></g>{dots}'
        f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{width}" height="{height}"/>'
        "</svg></figure>"
    )
