"""The hit browser: one HTML file with the values and the photons of all hits of a run.

Every hit is in the page as the CXI file has it, packed; `hits.js` unpacks those that are looked at.
"""

import base64
from collections.abc import Iterator
from html import escape

import numpy as np

from xfelmpi._kernels._deflate import zlib_compress
from xfelmpi.core.vocabulary import SPELLINGS
from xfelmpi.io.replace_file import replace_pieces
from xfelmpi.output.cxi.frames import HitFrames
from xfelmpi.output.cxi.hit_file import HitFile
from xfelmpi.report import images as pictures
from xfelmpi.report.json_script import json_script
from xfelmpi.report.run_files import RunFiles
from xfelmpi.report.template import fill_page

MOST_HITS = 5000
"""Hits of the page at most: the strongest ones."""

MOST_BYTES = 52_000_000
"""Of all photons, packed, as text; hits beyond, the weaker ones, have their values only."""

_NOT_SHOWN = ("is_hit", "is_miss", "modules")
_SHADES = 64


def write_hit_browser(found: RunFiles) -> None:
    """Write the page; one rank.

    Raises
    ------
    InputError
        If the CXI file cannot be read.
    OSError
        If the page cannot be written.
    """
    replace_pieces(found.experiment.hit_browser, hit_browser(found))


def hit_browser(found: RunFiles) -> Iterator[str]:
    """Yield the page as HTML, piece by piece: it may be as long as `MOST_BYTES`."""
    head, hit_file = found.head, found.hit_file
    title = f"Hits of run {head.run}"
    if hit_file is None or not len(hit_file.rows):
        why = found.missing or "There are no hits."
        yield fill_page(title, f"{_header(found, title)}<p>{escape(why)}</p>", "hits.js")
        return
    score = found.run.events.hitscore[hit_file.rows]
    strongest = np.argsort(-score, kind="stable")[:MOST_HITS]
    hits = np.sort(strongest)
    _, (raster, _) = found.layouts
    columns, units = _columns(hit_file, found, hits)
    height, width = raster.shape
    data = {
        "columns": columns,
        "units": units,
        "other_names": {other: name for name, other in SPELLINGS},
        "photons": [],
        "points": pack_points(raster.point),
        "height": height,
        "width": width,
        "detector": _detector(found, raster),
        "palette": pictures.palette(_SHADES)[pictures.LOWEST :, :3].tolist(),
    }
    # after what takes as much memory for a moment
    packed = pack_hits(found, strongest)
    notes = []
    if len(hits) < len(hit_file.rows):
        notes.append(f"The {len(hits):,} strongest of {len(hit_file.rows):,} hits.")
    if len(packed) < len(hits):
        notes.append(f"Images of the {len(packed):,} strongest.")
    body = _header(found, title, " ".join(notes)) + _CONTROLS + json_script("hits", data)
    # the last place of that name: no text from outside comes after it
    before, name, after = fill_page(title, body, "hits.js").rpartition('"photons":[')
    yield before + name
    for i, hit in enumerate(hits.tolist()):
        # base64 is the same in JSON
        text = base64.b64encode(packed.get(hit, b"")).decode()
        yield f'{"," if i else ""}"{text}"'
    yield after


def _header(found: RunFiles, title: str, note: str = "") -> str:
    page = escape(found.experiment.page.name)
    return (
        f'<nav><a href="{page}">run report</a> <a href="index.html">all runs</a></nav>'
        f'<header><h1>{escape(title)} · {escape(found.head.proposal)}</h1><p class="soft">'
        f"{escape(note)} Photons on a logarithmic scale, each hit from one photon to its brightest "
        "point, seen along the beam.</p></header>"
    )


_CONTROLS = """\
<form class="filters">
<label>sort by <select id="sort"></select></label>
<button type="button" id="direction">descending</button>
<label>only <input id="where" size="34" spellcheck="false"
placeholder="hit_sigma &gt; 8 and photons &lt; 5000"></label>
<label>add <select id="column"></select> <select id="operator"><option>&gt;=</option>
<option>&lt;=</option><option>==</option></select> <input id="value" size="8">
<button type="button" id="add">add</button></label>
<label><input type="checkbox" id="only-ticked"> ticked only</label>
</form>
<p id="message" role="status"></p>
<p class="filters"><button type="button" id="previous">◀ previous</button>
<span id="page"></span><button type="button" id="next">next ▶</button>
<button type="button" id="copy-list">copy list</button>
<button type="button" id="copy-where">copy --where</button>
<span class="soft">arrows: choose · Enter: enlarge · space: tick · Page Up, Page Down</span></p>
<div class="browser" id="grid"></div>
<dialog aria-label="hit, enlarged"><div class="large"><canvas></canvas></div><div class="caption">
<button type="button" id="zoom">pixel by pixel</button>
<button type="button" id="close">close</button>
<table></table></div></dialog>
"""


def _columns(
    hit_file: HitFile, found: RunFiles, hits: np.ndarray
) -> tuple[dict[str, list], dict[str, str]]:
    """Return the values of some hits by name, with None for NaN, and the units."""
    events, rows = found.run.events, hit_file.rows[hits]
    columns: dict[str, list] = {"hit": hits.tolist()}
    named = [(n, c) for n, c in events.columns() if n not in _NOT_SHOWN and c.ndim == 1]
    named += [(added.name, added.values) for added in events.added if added.values.ndim == 1]
    for name, values in named:
        columns[name] = _numbers(values[rows])
    units = {added.name: added.units for added in events.added if added.units}
    return columns, {"pulse_energy": "J", "wavelength": "m", **units}


def _numbers(values: np.ndarray) -> list:
    if values.dtype.kind in "iub":
        return values.tolist()
    # six digits are what float32 has, and more than a caption shows
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in values.tolist()]


def _detector(found: RunFiles, raster: pictures.Raster) -> str:
    """Return the empty detector as an image: gaps, pixels, and those bad in all hits."""
    good = found.powder["good_frames_hits"] > 0
    image = pictures.assemble_counts(raster, np.zeros(len(good), np.uint16), good)
    numbers = np.full(raster.shape, pictures.GAP, np.uint8)
    numbers[raster.pixels > 0] = pictures.LOWEST
    numbers[image.bad] = pictures.BAD
    return pictures.data_uri(pictures.png(numbers, pictures.palette(_SHADES)))


def pack_hits(found: RunFiles, strongest: np.ndarray) -> dict[int, bytes]:
    """Return the photons of hits by number, those of the first ones up to `MOST_BYTES` of text.

    Parameters
    ----------
    found : RunFiles
    strongest : ndarray, int64 (hit,)

    Returns
    -------
    dict of int to bytes
        What `HitFrames.packed` returns.
    """
    packed: dict[int, bytes] = {}
    room = MOST_BYTES
    frames = HitFrames(found.experiment.cxi)
    try:
        for hit in strongest.tolist():
            stream = frames.packed(hit)
            # its length in base64
            room -= 4 * -(-len(stream) // 3)
            if room < 0:
                break
            packed[hit] = stream
    finally:
        frames.close()
    return packed


def pack_points(point: np.ndarray) -> str:
    """Return which point of the image every pixel falls on, as text, base64 of zlib.

    These are the steps from pixel to pixel, modulo 2³², as 4 planes of bytes, lowest first: most
    steps are alike, and pack well.

    Parameters
    ----------
    point : ndarray, int64 (pixel,)
    """
    steps = np.diff(point, prepend=0).astype("<i4").view(np.uint8).reshape(-1, 4)
    return base64.b64encode(zlib_compress(steps.T.reshape(-1), 6)).decode()
