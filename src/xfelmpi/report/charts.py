"""Charts of the run report, drawn by Bokeh: zoom, pan, hover, series that can be switched off.

The charts of a page are one document of Bokeh, which `page.js` puts into the elements that are
named here. BokehJS comes with the Python package and is part of the page: nothing is loaded.
"""

import math
from dataclasses import dataclass
from html import escape

import numpy as np
from bokeh import __version__ as bokeh_version
from bokeh.core.serialization import Serializer
from bokeh.document import Document
from bokeh.models import (
    BoxZoomTool,
    ColumnDataSource,
    FixedTicker,
    Grid,
    HoverTool,
    Legend,
    LegendItem,
    LinearAxis,
    LinearScale,
    LogAxis,
    LogScale,
    PanTool,
    Plot,
    Range1d,
    ResetTool,
    SaveTool,
    WheelZoomTool,
)
from bokeh.models.glyph import Glyph
from bokeh.models.glyphs import Line, Quad, Scatter, Segment, Step, VArea

from xfelmpi.report.axes import Axis, number
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
        self._plots: list[Plot] = []
        self._names: list[str] = []
        self._ranges: dict[str, Range1d] = {}

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
        plot = self._empty(x, y, link)
        # every three names are a line of the legend
        plot.height += 22 * ((len(series) + len(marks) - 1) // 3)
        legend = Legend(
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
        if top:
            plot.add_layout(_resolution_axis(x, top), "above")
        plot.add_layout(legend, "above")
        for one in series:
            _draw(plot, legend, one, (x, y))
        for i, mark in enumerate(marks):
            _draw_mark(plot, legend, mark, y, i)
        caption = f"<p>{escape(caption)}</p>" if caption else ""
        return (
            f'<figure class="chart"><figcaption><b>{escape(title)}</b></figcaption>'
            f"{self.add(plot, title)}{caption}</figure>"
        )

    def add(self, plot: Plot, label: str) -> str:
        """Add a plot of Bokeh, and return the element for it as HTML."""
        name = f"plot-{len(self._plots)}"
        self._plots.append(plot)
        self._names.append(name)
        return f'<div class="plot" id="{name}" role="img" aria-label="{escape(label)}"></div>'

    def document(self) -> str:
        """Return the document of Bokeh, and the element of each plot, as JSON in a script."""
        # as `Document.to_json`; adding plots to a document, which watches them, takes as long again
        empty, serializer = Document(), Serializer(deferred=False)
        written = {
            "version": bokeh_version,
            "title": empty.title,
            "config": serializer.encode(empty.config),
            "roots": serializer.encode(self._plots),
        }
        found = _renumbered(written)
        roots = {root["id"]: name for root, name in zip(found["roots"], self._names, strict=True)}
        return json_script("charts", {"document": found, "roots": roots})

    def _empty(self, x: Axis, y: Axis, link: str) -> Plot:
        x_range = self._ranges.get(link) or _range(x)
        if link:
            self._ranges[link] = x_range
        plot = Plot(
            x_range=x_range,
            y_range=_range(y),
            x_scale=LogScale() if x.log else LinearScale(),
            y_scale=LogScale() if y.log else LinearScale(),
            height=HEIGHT,
            sizing_mode="stretch_width",
            min_border_right=12,
            outline_line_color="#b8c0cc",
        )
        for axis, side in ((x, "below"), (y, "left")):
            ticks = _axis(axis)
            plot.add_layout(ticks, side)
            plot.add_layout(
                Grid(
                    dimension=0 if side == "below" else 1,
                    axis=ticks,
                    grid_line_color="#e6eaf0" if side == "left" else None,
                )
            )
        zoom = BoxZoomTool()
        plot.add_tools(zoom, PanTool(), WheelZoomTool(), ResetTool(), SaveTool())
        plot.toolbar.active_drag = zoom
        plot.toolbar.logo = None
        plot.toolbar.autohide = True
        return plot


def _renumbered(document: dict) -> dict:
    """Number the objects of a document of Bokeh from 1 on: the same page whatever was drawn."""
    numbers: dict[str, str] = {}

    def rename(value):
        """Return a part of the document with new numbers."""
        if isinstance(value, dict):
            return {
                key: numbers.setdefault(inner, f"x{len(numbers) + 1}")
                if key == "id" and isinstance(inner, str)
                else rename(inner)
                for key, inner in value.items()
            }
        return [rename(inner) for inner in value] if isinstance(value, list) else value

    return rename(document)


def _range(axis: Axis) -> Range1d:
    return Range1d(start=axis.low, end=axis.high, bounds=(axis.low, axis.high))


def _axis(axis: Axis):
    made = (LogAxis if axis.log else LinearAxis)(
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
    )
    if not axis.log:
        made.ticker.desired_num_ticks = 6
        if axis.whole:
            # no halves of a train or of a hit
            made.ticker.min_interval = 1
            made.formatter.use_scientific = False
    return made


def _resolution_axis(x: Axis, label: str) -> LinearAxis:
    """Return an axis that names 2 π / x at round values."""
    steps = [m * 10.0**e for e in range(-4, 7) for m in (1, 2, 5)]
    places: list[float] = []
    for step in steps:
        place = 2 * math.pi / step
        near = places and abs(place - places[-1]) < 0.07 * (x.high - x.low)
        if x.low + 0.02 * (x.high - x.low) < place < x.high and not near:
            places.append(place)
    axis = _axis(Axis(label, x.low, x.high))
    axis.ticker = FixedTicker(ticks=places)
    axis.major_label_overrides = {place: number(2 * math.pi / place) for place in places}
    return axis


def _draw(plot: Plot, legend: Legend, series: Series, axes: tuple[Axis, Axis]) -> None:
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
    renderers = []
    if series.low is not None and series.high is not None:
        # a band of steps: every edge twice
        band = {
            "x": np.repeat(series.x, 2)[1:-1],
            "low": np.repeat(series.low, 2),
            "high": np.repeat(series.high, 2),
        }
        area = VArea(x="x", y1="low", y2="high", fill_color=COLOURS[series.colour], fill_alpha=0.2)
        renderers.append(plot.add_glyph(_source(band), area))
    drawn = plot.add_glyph(_source(columns), _glyph(series.form, COLOURS[series.colour]))
    renderers.append(drawn)
    legend.items.append(LegendItem(label=series.label, renderers=renderers))
    hover = HoverTool(
        renderers=[drawn],
        tooltips=[(x.label, _shown("@x", x)), (series.label, _shown("@y", y))],
        formatters={name: "printf" for name, axis in (("@x", x), ("@y", y)) if not axis.whole},
        mode="mouse" if series.form == "dots" else "vline",
        description=f"show values: {series.label}",
        visible=False,
    )
    plot.add_tools(hover)


def _shown(name: str, axis: Axis) -> str:
    return f"{name}{{0,0}}" if axis.whole else f"{name}{{%.4g}}"


def _glyph(form: str, colour: str) -> Glyph:
    if form == "area":
        return Quad(
            left="left",
            right="right",
            top="y",
            bottom="bottom",
            fill_color=colour,
            line_color=colour,
            fill_alpha=0.45,
            line_alpha=0.7,
        )
    if form == "dots":
        return Scatter(x="x", y="y", size=5, fill_color=colour, line_color=None, fill_alpha=0.6)
    if form == "steps":
        return Step(x="x", y="y", mode="center", line_color=colour, line_width=2)
    return Line(x="x", y="y", line_color=colour, line_width=2)


def _draw_mark(plot: Plot, legend: Legend, mark: Mark, y: Axis, i: int) -> None:
    ends = {"x": np.array([mark.x]), "low": np.array([y.low]), "high": np.array([y.high])}
    glyph = Segment(
        x0="x",
        x1="x",
        y0="low",
        y1="high",
        line_color=_MARKS[i % len(_MARKS)],
        line_dash=_DASHES[i % len(_DASHES)],
        line_width=2,
    )
    drawn = plot.add_glyph(_source(ends), glyph)
    legend.items.append(LegendItem(label=f"{mark.label}: {number(mark.x)}", renderers=[drawn]))


def _source(columns: dict[str, np.ndarray]) -> ColumnDataSource:
    # single precision is more than a screen shows, and half of the page; ids of trains need more
    short = {
        name: np.asarray(values, np.float64 if name in ("x", "left", "right") else np.float32)
        for name, values in columns.items()
    }
    return ColumnDataSource(short)
