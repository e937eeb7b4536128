"""The hit browser: one HTML file with the values and the photons of all hits of a run.

Photons travel as sparse lists, packed hit by hit; `hits.js` unpacks those that are looked at.
"""

import base64
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from xfelmpi import mpi
from xfelmpi._kernels._deflate import zlib_compress
from xfelmpi.core.vocabulary import SPELLINGS
from xfelmpi.io.replace_file import replace_text
from xfelmpi.output.cxi.frames import HitFrames
from xfelmpi.report import images as pictures
from xfelmpi.report.assembly import lit_pixels
from xfelmpi.report.json_script import json_script
from xfelmpi.report.layout import lay_out
from xfelmpi.report.run_files import RunFiles
from xfelmpi.report.template import fill_page

MOST_HITS = 5000
"""Hits of the page at most: the strongest ones."""

MOST_BYTES = 40_000_000
"""Of all photons, packed; hits beyond, the weaker ones, have their values only."""

HEAD_START = 150
"""Hits that a rank packs in the time in which the run report is made."""

_NOT_SHOWN = ("is_hit", "is_miss", "modules")
_SHADES = 64


@dataclass(frozen=True)
class ShownHits:
    """The hits that the page shows.

    Parameters
    ----------
    path : Path
        The CXI file.
    strongest : ndarray, int64 (hit,)
        Their numbers in the file, by falling score.
    raster : Raster
        Positions of their pixels in the images.
    """

    path: Path
    strongest: np.ndarray
    raster: pictures.Raster


def write_hit_browser(comm, found: RunFiles | None) -> None:
    """Write the page; every rank packs the photons of some hits: collective.

    Parameters
    ----------
    comm : Intracomm
    found : RunFiles or None
        On rank 0; None there if there is nothing to be written.

    Raises
    ------
    InputError
        If the CXI file cannot be read.
    OSError
        If the page cannot be written.
    """
    shown = mpi.bcast_from_root(comm, lambda: shown_hits(found) if found else None)
    packed: dict[int, str] = {}
    with mpi.fail_together(comm):
        if shown:
            packed = pack_hits(shown, own_places(len(shown.strongest), comm.rank, comm.size))
    parts = comm.gather(packed, root=0)
    mpi.run_on_root(comm, lambda: _write(found, shown, parts) if found else None)


def _write(found: RunFiles, shown: ShownHits | None, parts: list[dict[int, str]]) -> None:
    replace_text(found.experiment.hit_browser, hit_browser(found, shown, parts))


def shown_hits(found: RunFiles) -> ShownHits | None:
    """Return which hits the page shows; None if there are none."""
    hit_file = found.hit_file
    if hit_file is None or not len(hit_file.rows):
        return None
    score = found.run.events.hitscore[hit_file.rows]
    strongest = np.argsort(-score, kind="stable")[:MOST_HITS]
    ((raster, _),) = lay_out(hit_file.xyz, found.run.detector_type, hit_file.pixel_size, 1)
    return ShownHits(found.experiment.cxi, strongest, raster)


def hit_browser(found: RunFiles, shown: ShownHits | None, parts: list[dict[int, str]]) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    found : RunFiles
    shown : ShownHits or None
        From `shown_hits`.
    parts : list of dict of int to str
        What `pack_hits` gave on every rank.
    """
    head, hit_file = found.head, found.hit_file
    title = f"Hits of run {head.run}"
    if hit_file is None or shown is None:
        why = found.missing or "There are no hits."
        return fill_page(title, f"{_header(found, title)}<p>{escape(why)}</p>", "hits.js")
    packed = _joined(shown.strongest, parts)
    hits, raster = np.sort(shown.strongest), shown.raster
    columns, units = _columns(found, hits)
    height, width = raster.shape
    data = {
        "columns": columns,
        "units": units,
        "other_names": {other: name for name, other in SPELLINGS},
        "photons": [packed.get(int(hit), "") for hit in hits],
        "height": height,
        "width": width,
        "detector": _detector(found, raster),
        "palette": pictures.palette(_SHADES)[pictures.LOWEST :, :3].tolist(),
    }
    notes = []
    if len(hits) < len(hit_file.rows):
        notes.append(f"The {len(hits):,} strongest of {len(hit_file.rows):,} hits.")
    if len(packed) < len(hits):
        notes.append(f"Images of the {len(packed):,} strongest.")
    body = _header(found, title, " ".join(notes)) + _CONTROLS + json_script("hits", data)
    return fill_page(title, body, "hits.js")


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


def _columns(found: RunFiles, hits: np.ndarray) -> tuple[dict[str, list], dict[str, str]]:
    """Return the values of some hits by name, with None for NaN, and the units."""
    events = found.run.events
    rows = found.hit_file.rows[hits] if found.hit_file else hits
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


def own_places(n_hits: int, rank: int, n_ranks: int) -> np.ndarray:
    """Return which of the shown hits a rank packs, by their places.

    The last rank makes the run report first: the others have a head start.

    Returns
    -------
    ndarray, int64 (place,)
    """
    places = np.arange(n_hits)
    n_early = HEAD_START * (n_ranks - 1)
    of_rank = places % n_ranks
    if n_early:
        of_rank[:n_early] = places[:n_early] % (n_ranks - 1)
    return np.flatnonzero(of_rank == rank)


def pack_hits(shown: ShownHits, places: np.ndarray) -> dict[int, str]:
    """Return the photons of some of the shown hits by number, up to `MOST_BYTES`; see `pack`."""
    packed: dict[int, str] = {}
    room = MOST_BYTES
    frames = HitFrames(shown.path)
    try:
        for hit in shown.strongest[places].tolist():
            photons = frames.photons(hit).reshape(-1)
            # none are on bad pixels
            pixel = lit_pixels(photons)
            packed[hit] = pack(shown.raster.point[pixel], photons[pixel])
            room -= len(packed[hit])
            if room < 0:
                # the hits of all ranks together end before it
                break
    finally:
        frames.close()
    return packed


def _joined(strongest: np.ndarray, parts: list[dict[int, str]]) -> dict[int, str]:
    """Return the photons of hits by number, the strongest up to `MOST_BYTES`."""
    of_all = {hit: text for part in parts for hit, text in part.items()}
    packed: dict[int, str] = {}
    room = MOST_BYTES
    for hit in strongest.tolist():
        room -= len(of_all[hit])
        if room < 0:
            break
        packed[hit] = of_all[hit]
    return packed


def pack(point: np.ndarray, photons: np.ndarray) -> str:
    """Return photons at points of an image as text, base64 of zlib.

    First the steps from point to point, in ascending order, 4 planes of bytes, lowest first; then
    the photons, 2 planes: bytes of the same weight are alike, and pack well.

    Parameters
    ----------
    point : ndarray, int (pixel,)
    photons : ndarray, uint8 or uint16 (pixel,)
    """
    order = np.argsort(point, kind="stable")
    steps = np.diff(point[order], prepend=0).astype("<u4").view(np.uint8).reshape(-1, 4)
    counts = photons[order].astype("<u2").view(np.uint8).reshape(-1, 2)
    planes = np.concatenate([steps.T.reshape(-1), counts.T.reshape(-1)])
    return base64.b64encode(zlib_compress(planes, 1)).decode()
