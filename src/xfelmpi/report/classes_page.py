"""The page of a run's classes: average, hits, sizes of each, and a condition for ``--where``."""

from html import escape
from typing import NamedTuple

import numpy as np

from xfelmpi.core.log import counted
from xfelmpi.report.images import Assembled, data_uri, logarithmic_limits, palette, png, shade
from xfelmpi.report.template import fill_page

_SHADES, _BARS = 64, 24
_WIDTH, _HEIGHT = 170, 40


class ClassOfRun(NamedTuple):
    """A class.

    Parameters
    ----------
    number : int
    average : ndarray, float64 (x, y)
        NaN where no pixel was.
    size : ndarray, float64 (hit,)
        Diameters of its hits in nm, NaN where unknown.
    n_hits : int
        Of this run.
    """

    number: int
    average: np.ndarray
    size: np.ndarray
    n_hits: int


def classes_page(
    name: str, classes: list[ClassOfRun], n_without: int, source: str, where: str | None = None
) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    name : str
        Of the run, e.g. ``r0050``.
    classes : list of ClassOfRun
    n_without : int
        Hits without a class.
    source : str
        Dragonfly's file.
    where : str, optional
        Condition that the hits fulfil.
    """
    sizes = np.concatenate([c.size for c in classes])
    sizes = sizes[np.isfinite(sizes)]
    limits = tuple(np.quantile(sizes, (0.01, 0.99)).tolist()) if len(sizes) else None
    figures = "".join(
        _figure(one, limits) for one in sorted(classes, key=lambda c: (-c.n_hits, c.number))
    )
    n_hits = sum(c.n_hits for c in classes)
    also = f"({where}) and " if where else ""
    only = f", only hits with {where}" if where else ""
    body = (
        f'<header><nav><a href="{name}.html">run report</a></nav>'
        f'<h1>{name}: classes</h1><p class="soft">{counted(n_hits, "hit")} in '
        f"{len(classes):,} classes, {n_without:,} without{escape(only)}; {escape(source)}</p>"
        "</header><p>Tick the classes that you want, and copy the condition:</p>"
        f'<div class="command"><pre id="where" data-command="xfelmpi merge {int(name[1:])} '
        f'--where" data-also="{escape(also)}">no class is ticked</pre>'
        '<button type="button">copy</button></div>'
        f'<p class="soft"><span id="chosen">0</span> of {n_hits:,} hits. Averages have scales of '
        "their own, logarithmic. Bars: diameters"
        + (f" from {limits[0]:.1f} to {limits[1]:.1f} nm" if limits else " are not known")
        + f'.</p><div class="hits">{figures}</div>'
    )
    return fill_page(f"{name}: classes", body, "classes.js")


def _figure(one: ClassOfRun, limits: tuple[float, float] | None) -> str:
    known = one.size[np.isfinite(one.size)]
    size = f", {np.median(known):.1f} nm" if len(known) else ""
    return (
        f'<figure><label><img src="{_picture(one.average)}" alt="average of class {one.number}">'
        f'<figcaption><input type="checkbox" value="{one.number}" data-hits="{one.n_hits}"> '
        f"<b>class {one.number}</b>: {counted(one.n_hits, 'hit')}{size}</figcaption></label>"
        f"{_bars(known, limits)}</figure>"
    )


def _picture(average: np.ndarray) -> str:
    """Return the average as seen along the beam, y up and x to the left, as an address."""
    shown = Assembled(average.T[::-1, ::-1], np.zeros(average.T.shape, bool))
    numbers = shade(shown, logarithmic_limits(shown), _SHADES)
    return data_uri(png(numbers, palette(_SHADES)))


def _bars(size: np.ndarray, limits: tuple[float, float] | None) -> str:
    """Return a histogram of diameters as SVG."""
    if limits is None or not len(size):
        return ""
    low, high = limits
    counts, _ = np.histogram(size, _BARS, (low, max(high, low * 1.001)))
    step, tallest = _WIDTH / _BARS, max(counts.max(), 1)
    bars = "".join(
        f'<rect x="{i * step:.1f}" y="{_HEIGHT - h:.1f}" width="{step - 1:.1f}" height="{h:.1f}"/>'
        for i, h in enumerate(_HEIGHT * counts / tallest)
        if h
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="diameters" '
        f'fill="#0b62a8">{bars}</svg>'
    )
