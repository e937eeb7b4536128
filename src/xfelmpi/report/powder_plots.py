"""The powders of the report: images with a scale in numbers, which zoom and move together.

Their values travel as grey PNGs, which `page.js` turns into numbers again: an eighth of what
Bokeh's own arrays would take.
"""

from html import escape

import numpy as np

from xfelmpi.output.cxi.hit_file import HitFile
from xfelmpi.report import images as pictures
from xfelmpi.report.axes import number
from xfelmpi.report.bokeh_objects import BokehObject, drawn, fields, new, source
from xfelmpi.report.charts import Charts, toolbar
from xfelmpi.report.json_script import json_script
from xfelmpi.report.layout import BINS, tile_gaps
from xfelmpi.report.run_files import SUMS, RunFiles

CENTRE = 128
"""Pixels from the beam to the edges of the enlarged centre."""

_SHADES = 128
_NOTHING = "#eceff3"
_BAD_COLOUR = "#5f9e8f"
_TRANSPARENT = "rgba(0, 0, 0, 0)"


def powder_section(found: RunFiles, hit_file: HitFile, charts: Charts) -> str:
    """Add the powders to the charts of a page, and return their section as HTML.

    Parameters
    ----------
    found : RunFiles
    hit_file : HitFile
    charts : Charts
    """
    names = {
        "": f"all {found.head.frames:,} frames",
        "_hits": f"{found.head.hits:,} hits",
        "_misses": f"{found.head.misses:,} misses",
    }
    (whole, beam), (fine, fine_beam) = found.layouts
    centre_shape = 2 * CENTRE, 2 * CENTRE
    ranges = [
        _ranges(whole.shape, beam, whole.size),
        _ranges(centre_shape, _middle(fine_beam), fine.size),
    ]
    gaps = tile_gaps(hit_file.xyz, found.run.detector_type)
    figures, data = [], []
    for which in SUMS:
        sums = found.powder[f"powder{which}"], found.powder[f"good_frames{which}"]
        if not sums[1].any():
            continue
        image = pictures.assemble(whole, *sums)
        limits = pictures.logarithmic_limits(image)
        mapper = _mapper(limits, f"scale{which}")
        centre = _around(pictures.assemble(fine, *sums), fine_beam)
        parts = []
        for part, (values, at, edge) in enumerate(
            ((image, beam, whole.size), (centre, _middle(fine_beam), fine.size))
        ):
            name = f"powder{which}-{part}"
            plot = _plot(name, ranges[part], mapper, "" if part else f"scale{which}", gaps)
            label = f"{'centre of the ' if part else ''}powder of {names[which]}"
            parts.append(charts.add(plot, label))
            data.append(_data(name, values, at, edge))
        low, high = (number(float(f"{limit:.2g}")) for limit in limits)
        figures.append(
            f'<figure class="powder" data-scale="scale{which}" data-low="{limits[0]!r}" '
            f'data-high="{limits[1]!r}">'
            f"<figcaption><b>{escape(names[which])}</b>: {low} … {high}</figcaption>"
            f"{parts[0]}<p>centre, {2 * CENTRE} × {2 * CENTRE} pixels</p>{parts[1]}</figure>"
        )
    return (
        f'<h2>Powder</h2><div class="images">{"".join(figures)}</div><p class="scale soft">'
        "Mean photons per pixel and frame, logarithmic; axes in mm from the beam, seen along it."
        f" Above, a point is {BINS} × {BINS} pixels; in the centre, one."
        '<span><span class="swatch"></span> bad pixels</span>'
        '<label><input type="checkbox" id="same-scale"> the same scale for all</label></p>'
        f"{json_script('powders', data)}"
    )


def _middle(beam: tuple[float, float]) -> tuple[float, float]:
    """Return where the beam is in the centre that `_around` cuts out."""
    return CENTRE + beam[0] % 1, CENTRE + beam[1] % 1


def _around(image: pictures.Assembled, beam: tuple[float, float]) -> pictures.Assembled:
    """Return the centre of an image; beyond its edges there is no detector."""
    first = [int(np.floor(b)) - CENTRE for b in beam]
    shape = 2 * CENTRE, 2 * CENTRE
    values, bad = np.full(shape, np.nan), np.zeros(shape, bool)
    height, width = image.values.shape
    rows, columns = (np.arange(2 * CENTRE) + f for f in first)
    inside_rows = np.flatnonzero((rows >= 0) & (rows < height))
    inside_columns = np.flatnonzero((columns >= 0) & (columns < width))
    into = np.ix_(inside_rows, inside_columns)
    source = np.ix_(rows[inside_rows], columns[inside_columns])
    values[into], bad[into] = image.values[source], image.bad[source]
    return pictures.Assembled(values, bad)


def _ranges(shape, beam, size: float) -> tuple[BokehObject, ...]:
    """Return ranges in mm that hold an image, as wide as high."""
    right = (shape[1] - beam[1]) * size * 1e3, -beam[1] * size * 1e3
    up = beam[0] * size * 1e3, (beam[0] - shape[0]) * size * 1e3
    middle = (right[0] + right[1]) / 2, (up[0] + up[1]) / 2
    half = 1.02 * max(right[0] - right[1], up[0] - up[1]) / 2
    x, y = ((m - half, m + half) for m in middle)
    return tuple(new("Range1d", start=r[0], end=r[1], bounds=list(r)) for r in (x, y))


def _mapper(limits: tuple[float, float], name: str) -> BokehObject:
    table = pictures.palette(_SHADES)[pictures.LOWEST :, :3]
    colours = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in table.tolist()]
    low, high = limits
    return new(
        "LogColorMapper", palette=colours, low=low, high=high, nan_color=_TRANSPARENT, name=name
    )


def _plot(name: str, ranges, mapper: BokehObject, scale: str, gaps: np.ndarray) -> BokehObject:
    """Return a plot whose image `page.js` fills in."""
    frame = fields(x="x", y="y", dw="dw", dh="dh")
    data = source({key: [] for key in ("image", "bad", *frame)}, name)
    image = drawn(data, "Image", **fields(image="image"), **frame, color_mapper=mapper)
    one = new("LinearColorMapper", palette=[_BAD_COLOUR], low=0, high=2, nan_color=_TRANSPARENT)
    bad = drawn(data, "Image", **fields(image="bad"), **frame, color_mapper=one)
    # as wide as a line on the screen at least: else some would vanish between its points
    ends = dict(zip(("x0", "y0", "x1", "y1"), np.ascontiguousarray(gaps.T), strict=True))
    places = fields(**{key: key for key in ends})
    lines = drawn(source(ends), "Segment", **places, line_color=_NOTHING, line_width=1.2)
    hover = new(
        "HoverTool",
        renderers=[image],
        tooltips=[["photons", "@image{%.3g}"], ["x, y in mm", "$x{0.0}, $y{0.0}"]],
        formatters={"@image": "printf"},
        visible=False,
    )
    return new(
        "Plot",
        x_range=ranges[0],
        y_range=ranges[1],
        x_scale=new("LinearScale"),
        y_scale=new("LinearScale"),
        match_aspect=True,
        frame_align=False,
        sizing_mode="scale_width",
        height=336 if scale else 300,
        width=300,
        min_border=2,
        outline_line_color="#d9dee6",
        background_fill_color=_NOTHING,
        renderers=[image, bad, lines],
        below=[_colour_bar(mapper, scale)] if scale else [],
        toolbar=toolbar(new("BoxZoomTool", match_aspect=True), [hover]),
    )


def _colour_bar(mapper: BokehObject, scale: str) -> BokehObject:
    """Return the scale of a powder; `page.js` gives it its numbers."""
    return new(
        "ColorBar",
        color_mapper=mapper,
        ticker=new("FixedTicker", ticks=[], name=f"{scale} ticks"),
        formatter=new("PrintfTickFormatter", format="%g"),
        major_label_policy=new("NoOverlap"),
        orientation="horizontal",
        height=10,
        padding=4,
        border_line_color=None,
        background_fill_color=None,
        major_label_text_font_size="12px",
    )


def _data(name: str, image: pictures.Assembled, beam, size: float) -> dict:
    """Return what `page.js` makes an image of: its values, and its edges in mm."""
    numbers, low, high = pictures.levels(image)
    height, width = numbers.shape
    edge = size * 1e3
    return {
        "name": name,
        "png": pictures.data_uri(pictures.grey_png(numbers)),
        "low": low,
        "high": high,
        "left": -beam[1] * edge,
        "top": beam[0] * edge,
        "width": width * edge,
        "height": height * edge,
    }
