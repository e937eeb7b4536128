"""Charts of the run report, drawn by Bokeh: zoom, pan, hover, series that can be switched off.

The charts of a page are one document of Bokeh, which `page.js` puts into the elements that are
named here. BokehJS comes with the Python package and is part of the page: nothing is loaded.
"""

import math
from dataclasses import dataclass
from html import escape

import numpy as np

from xfelmpi.report.axes import Axis, number
from xfelmpi.report.bokeh_objects import (
    BokehObject,
    Value,
    drawn,
    fields,
    new,
    source,
    written,
)
from xfelmpi.report.json_script import json_script

HEIGHT = 300
"""Of a chart in CSS pixels."""

COLOURS = {"main": "#0b62a8", "hit": "#c8500a", "quiet": "#8694a7", "soft": "#9db4cc"}

_MARKS = ("#b3201c", "#1b2330", "#7a3fa0", "#1c7a46", "#9a6200")
_DASHES = ("solid", "dashed", "dotted", "dotdash", "dashdot")
_TEXT = {"text_font": "system-ui, sans-serif", "text_color": "#566070"}


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
        ``line``, ``dots``, ``area`` (bars down to the axis) or ``steps`` (`x` are edges, too).
    colour : str
        Key of `COLOURS`.
    low, high : ndarray, float64 (point,), optional
        Limits of the uncertainty.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    form: str = "line"
    colour: str = "main"
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass(frozen=True)
class Mark:
    """A vertical line, with a name in the legend."""

    x: float
    label: str


class Charts:
    """The charts of one page."""

    def __init__(self):
        self._plots: list[BokehObject] = []
        self._names: list[str] = []
        self._ranges: dict[str, BokehObject] = {}

    def chart(
        self,
        title: str,
        x: Axis,
        y: Axis,
        series: list[Series],
        marks: tuple[Mark, ...] = (),
        *,
        top: str = "",
        caption: str = "",
        link: str = "",
    ) -> str:
        """Add a chart, and return the element for it as HTML.

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
        link : str
            Charts with the same word zoom and pan along x together.
        """
        x_range = self._ranges.get(link) or _range(x)
        if link:
            self._ranges[link] = x_range
        shown, items, hovers = _drawn(series, marks, (x, y))
        ticks = {"below": _axis(x), "left": _axis(y)}
        legend = _legend(items)
        plot = new(
            "Plot",
            x_range=x_range,
            y_range=_range(y),
            x_scale=_scale(x),
            y_scale=_scale(y),
            # every three names are a line of the legend
            height=HEIGHT + 22 * ((len(series) + len(marks) - 1) // 3),
            sizing_mode="stretch_width",
            min_border_right=12,
            outline_line_color="#b8c0cc",
            renderers=shown,
            toolbar=toolbar(new("BoxZoomTool"), hovers),
            below=[ticks["below"]],
            left=[ticks["left"]],
            above=[_resolution_axis(x, top), legend] if top else [legend],
            center=[
                new("Grid", dimension=0, axis=ticks["below"], grid_line_color=None),
                new("Grid", dimension=1, axis=ticks["left"], grid_line_color="#e6eaf0"),
            ],
        )
        caption = f"<p>{escape(caption)}</p>" if caption else ""
        return (
            f'<figure class="chart"><figcaption><b>{escape(title)}</b></figcaption>'
            f"{self.add(plot, title)}{caption}</figure>"
        )

    def add(self, plot: BokehObject, label: str) -> str:
        """Add a plot of Bokeh, and return the element for it as HTML."""
        name = f"plot-{len(self._plots)}"
        self._plots.append(plot)
        self._names.append(name)
        return f'<div class="plot" id="{name}" role="img" aria-label="{escape(label)}"></div>'

    def document(self) -> str:
        """Return the document of Bokeh, and the element of each plot, as JSON in a script."""
        document, ids = written(self._plots)
        roots = dict(zip(ids, self._names, strict=True))
        return json_script("charts", {"document": document, "roots": roots})


def toolbar(zoom: BokehObject, hovers: list[BokehObject]) -> BokehObject:
    """Return the tools of a plot: zooming by a box is what the pointer does at first."""
    others = [new(f"{name}Tool") for name in ("Pan", "WheelZoom", "Reset", "Save")]
    return new(
        "Toolbar", tools=[zoom, *others, *hovers], active_drag=zoom, logo=None, autohide=True
    )


def _legend(items: list[BokehObject]) -> BokehObject:
    return new(
        "Legend",
        items=items,
        orientation="horizontal",
        click_policy="hide",
        border_line_color=None,
        padding=0,
        spacing=10,
        margin=2,
        glyph_height=14,
        glyph_width=18,
        label_text_font_size="12px",
        label_text_font=_TEXT["text_font"],
        ncols=3,
    )


def _range(axis: Axis) -> BokehObject:
    limits = [axis.low, axis.high]
    return new("Range1d", start=axis.low, end=axis.high, bounds=limits)


def _scale(axis: Axis) -> BokehObject:
    return new("LogScale" if axis.log else "LinearScale")


def _axis(axis: Axis, ticks: list[float] | None = None) -> BokehObject:
    """Return an axis, with a label at some values or where it likes."""
    kind = "Log" if axis.log else "Linear"
    ticker = new("LogTicker") if axis.log else new("BasicTicker", mantissas=[1, 2, 5])
    formatter = new("LogTickFormatter" if axis.log else "BasicTickFormatter")
    if axis.whole and not axis.log:
        # no halves of a train or of a hit
        ticker.attributes["min_interval"] = 1
        formatter.attributes["use_scientific"] = False
    labels = {}
    if ticks is not None:
        ticker = new("FixedTicker", ticks=ticks)
        labels = {"major_label_overrides": {t: number(2 * math.pi / t) for t in ticks}}
    return new(
        f"{kind}Axis",
        ticker=ticker,
        formatter=formatter,
        axis_label=axis.label,
        axis_label_text_font_style="normal",
        axis_label_text_font_size="12px",
        axis_label_text_font=_TEXT["text_font"],
        major_label_text_font=_TEXT["text_font"],
        major_label_text_color=_TEXT["text_color"],
        major_label_text_font_size="12px",
        minor_tick_line_color=None,
        axis_line_color="#b8c0cc",
        major_tick_line_color="#8a93a1",
        **labels,
    )


def _resolution_axis(x: Axis, label: str) -> BokehObject:
    """Return an axis that names 2 π / x at round values."""
    steps = [m * 10.0**e for e in range(-4, 7) for m in (1, 2, 5)]
    places: list[float] = []
    for step in steps:
        place = 2 * math.pi / step
        near = places and abs(place - places[-1]) < 0.07 * (x.high - x.low)
        if x.low + 0.02 * (x.high - x.low) < place < x.high and not near:
            places.append(place)
    return _axis(Axis(label, x.low, x.high), places)


def _drawn(
    all_series: list[Series], marks: tuple[Mark, ...], axes: tuple[Axis, Axis]
) -> tuple[list[BokehObject], list[BokehObject], list[BokehObject]]:
    """Return what draws series and marks, their places in the legend, and the hover tools."""
    shown, items, hovers = [], [], []
    for series in all_series:
        renderers, hover = _series(series, axes)
        shown += renderers
        items.append(new("LegendItem", label=Value(series.label), renderers=renderers))
        hovers.append(hover)
    for i, mark in enumerate(marks):
        line = _mark(mark, axes[1], i)
        shown.append(line)
        name = f"{mark.label}: {number(mark.x)}"
        items.append(new("LegendItem", label=Value(name), renderers=[line]))
    return shown, items, hovers


def _series(series: Series, axes: tuple[Axis, Axis]) -> tuple[list[BokehObject], BokehObject]:
    """Return what draws a series, and the tool that shows its values."""
    x, y = axes
    columns = {"x": series.x, "y": series.y}
    if series.form in ("area", "steps"):
        columns = {
            "x": (series.x[:-1] + series.x[1:]) / 2,
            "y": series.y,
            "left": series.x[:-1],
            "right": series.x[1:],
        }
    if series.form == "area":
        # what is not there has no place on a logarithmic axis
        columns["bottom"] = np.full(len(series.y), y.low)
    colour = COLOURS[series.colour]
    renderers = []
    if series.low is not None and series.high is not None:
        # bin by bin: where there is no value, nothing is drawn
        band = {
            "left": series.x[:-1],
            "right": series.x[1:],
            "low": series.low,
            "high": series.high,
        }
        edges = fields(left="left", right="right", bottom="low", top="high")
        filled = {"fill_color": colour, "fill_alpha": 0.2, "line_color": None}
        renderers.append(drawn(_source(band), "Quad", **edges, **filled))
    curve = _curve(_source(columns), series.form, colour)
    renderers.append(curve)
    hover = new(
        "HoverTool",
        renderers=[curve],
        tooltips=[[x.label, _shown("@x", x)], [series.label, _shown("@y", y)]],
        formatters={name: "printf" for name, axis in (("@x", x), ("@y", y)) if not axis.whole},
        mode="mouse" if series.form == "dots" else "vline",
        description=f"show values: {series.label}",
        visible=False,
    )
    return renderers, hover


def _shown(name: str, axis: Axis) -> str:
    return f"{name}{{0,0}}" if axis.whole else f"{name}{{%.4g}}"


def _curve(data: BokehObject, form: str, colour: str) -> BokehObject:
    """Return what draws the values of a series."""
    if form == "area":
        edges = fields(left="left", right="right", top="y", bottom="bottom")
        filled = {"fill_color": colour, "fill_alpha": 0.45}
        return drawn(data, "Quad", **edges, **filled, line_color=colour, line_alpha=0.7)
    places = fields(x="x", y="y")
    if form == "dots":
        filled = {"fill_color": colour, "fill_alpha": 0.6}
        return drawn(data, "Scatter", **places, **filled, size=5, line_color=None)
    if form == "steps":
        # no line to a bin without a value, and one that stands alone is seen
        ends = fields(x0="left", x1="right", y0="y", y1="y")
        return drawn(data, "Segment", **ends, line_color=colour, line_width=2)
    return drawn(data, "Line", **places, line_color=colour, line_width=2)


def _mark(mark: Mark, y: Axis, i: int) -> BokehObject:
    ends = {"x": np.array([mark.x]), "low": np.array([y.low]), "high": np.array([y.high])}
    return drawn(
        _source(ends),
        "Segment",
        **fields(x0="x", x1="x", y0="low", y1="high"),
        line_color=_MARKS[i % len(_MARKS)],
        line_dash=_DASHES[i % len(_DASHES)],
        line_width=2,
    )


def _source(columns: dict[str, np.ndarray]) -> BokehObject:
    # single precision is more than a screen shows, and half of the page; ids of trains need more
    short = {
        name: np.asarray(values, np.float64 if name in ("x", "left", "right") else np.float32)
        for name, values in columns.items()
    }
    return source(short)
