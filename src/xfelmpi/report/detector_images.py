"""The detector images of a page: powder, single hits, and the radial profile."""

from collections.abc import Iterator
from html import escape

import numpy as np

from xfelmpi.hitfinding.sampling import sampling_key
from xfelmpi.output.cxi.hit_file import HitFile, read_hit
from xfelmpi.output.cxi.reader import read_weighting
from xfelmpi.report import curves
from xfelmpi.report import images as pictures
from xfelmpi.report.axes import Axis, axis_around
from xfelmpi.report.charts import Charts, Mark, Series
from xfelmpi.report.powder_plots import CENTRE, powder_section
from xfelmpi.report.run_files import RunFiles

HITS_SHOWN = 12
"""Strongest hits, and as many random ones."""

_HIT_SHADES, _THUMBNAIL_SHADES = 32, 16

_MOST_BYTES = 1_500_000
"""Of all images of hits: what is left of 5 MB."""


def thumbnail(found: RunFiles) -> str:
    """Return the powder of the hits, small, as an address that holds the image; or empty."""
    if found.hit_file is None or not found.head.hits:
        return ""
    raster = pictures.make_raster(found.hit_file.xyz, 12, found.hit_file.pixel_size)
    powder = found.powder
    image = pictures.assemble(raster, powder["powder_hits"], powder["good_frames_hits"])
    limits = pictures.logarithmic_limits(image)
    return _image(image, limits, _THUMBNAIL_SHADES)


def _image(image: pictures.Assembled, limits: tuple[float, float], shades: int) -> str:
    numbers = pictures.shade(image, limits, shades)
    return pictures.data_uri(pictures.png(numbers, pictures.palette(shades)))


def detector_images(found: RunFiles, charts: Charts) -> Iterator[str]:
    """Yield sections as HTML; charts are added to those of the page."""
    if found.hit_file is None:
        yield f'<h2>Detector images</h2><p class="alarm">{escape(found.missing)}</p>'
        return
    yield powder_section(found, found.hit_file, charts)
    yield _radial(found, found.hit_file, charts)


def hit_images(found: RunFiles) -> str:
    """Return the strongest hits and random ones as HTML, nothing without hits."""
    if found.hit_file is None or not len(found.hit_file.rows):
        return ""
    return "\n".join(_hits(found, found.hit_file))


def _hits(found: RunFiles, hit_file: HitFile) -> Iterator[str]:
    raster, pixels, part = _centre(*found.layouts[1])
    events, rows = found.run.events, hit_file.rows
    strongest = np.argsort(-events.hitscore[rows], kind="stable")[:HITS_SHOWN]
    others = np.setdiff1d(np.arange(len(rows)), strongest)
    key = sampling_key(events.trainId[rows[others]], events.cellId[rows[others]])
    random = np.sort(others[np.argsort(key)[:HITS_SHOWN]])
    good_by_place: dict[int, np.ndarray] = {}
    room = _MOST_BYTES
    for title, chosen in (("strongest hits", strongest), ("random hits", random)):
        shown = []
        for hit in chosen:
            figure = _hit(found, (raster, pixels), int(hit), good_by_place)
            room -= len(figure)
            if room < 0:
                break
            shown.append(figure)
        if shown:
            yield f'<h2>{len(shown)} {title}</h2><div class="hits">{"".join(shown)}</div>'
    yield (
        f'<p class="soft">Photons in {part}, logarithmic, each hit from one photon to its'
        " brightest; seen along the beam. The hit browser shows the whole detector. A hit's number"
        " is its index in the CXI and EMC files:"
        f" <code>xfelmpi show {found.head.run} --hit N</code> draws one in the terminal.</p>"
    )


def _radial(found: RunFiles, hit_file: HitFile, charts: Charts) -> str:
    wavelength = found.run.events.wavelength
    wavelength = wavelength[np.isfinite(wavelength)]
    powder = found.powder
    background = np.nan_to_num(hit_file.background), np.isfinite(hit_file.background)
    images = [(powder["powder_hits"], powder["good_frames_hits"]), background]
    known = bool(len(wavelength)) and bool(np.isfinite(hit_file.xyz[2]).all())
    if known:
        radius = curves.momentum_transfer(hit_file.xyz, float(wavelength.mean())) * 1e-9
        label, top = "q = 4π sin θ / λ in 1/nm", "resolution 2π/q in nm"
    else:
        radius, label, top = np.hypot(*hit_file.xyz[:2]) * 1e3, "distance from the beam in mm", ""
    middle, (hits, others) = curves.radial_profile(radius, images)
    values = np.concatenate((hits, others))
    signal, limit = _signal(found, hit_file, radius)
    figure = charts.chart(
        "Radial profile",
        Axis(label, 0.0, float(middle[-1]) * 1.01),
        axis_around("photons per pixel and frame", values, log=True),
        [
            Series("hits", middle, hits, "line", "hit"),
            Series("background (all non-hits)", middle, others, "line", "quiet"),
            Series("hits − weighted background", middle, signal, "line", "main"),
        ],
        (Mark(limit, "signal up to"),) if np.isfinite(limit) else (),
        top=top,
        caption=_limit_words(limit, known=known),
    )
    return f'<h2>Scattering</h2><div class="pair">{figure}{_strengths(found, charts)}</div>'


def _signal(found: RunFiles, hit_file: HitFile, radius: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the profile of hits − weighted background, and how far out there is signal."""
    weighting = read_weighting(hit_file.path)
    weight = float(np.mean(weighting)) if len(weighting) else 1.0
    known = np.isfinite(hit_file.background)
    hits = np.where(known, found.powder["good_frames_hits"], 0).astype(float)
    others = np.maximum(found.powder["good_frames"] - hits, 1.0)
    ground = np.where(known, hit_file.background, 0.0) * weight * hits
    variance = ground * weight
    variance *= hits
    variance /= others
    del others
    middle, at = curves.radial_bins(radius)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(at, values, len(middle))

    # one after the other: they are as long as a frame
    ground, variance, hits = total(ground), total(variance), total(hits)
    photons = total(np.where(known, found.powder["powder_hits"], 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        signal = np.where(photons > ground, (photons - ground) / hits, np.nan)
    return signal, curves.signal_limit(middle, photons, ground, variance)


def _limit_words(limit: float, *, known: bool) -> str:
    """Return how far out there is signal, in words."""
    if not known:
        return "Without wavelength and detector distance, q is unknown."
    if not np.isfinite(limit):
        return "No signal above the background."
    return (
        f"The hits are above the background up to q = {limit:.3g}/nm, a resolution 2π/q of "
        f"{2 * np.pi / limit:.3g} nm."
    )


def _strengths(found: RunFiles, charts: Charts) -> str:
    """Return a chart of how many photons the hits have."""
    photons = found.run.events.photons[found.run.events.is_hit].astype(float)
    edges, logarithmic = curves.score_edges(photons, 60)
    number = curves.histogram(photons, edges).astype(float)
    return charts.chart(
        "Photons of the hits",
        Axis("photons in a hit", float(edges[0]), float(edges[-1]), logarithmic),
        axis_around("hits", number, zero=True, whole=True),
        [Series("hits", edges, number, "area", "hit")],
    )


def _centre(
    raster: pictures.Raster, beam: tuple[float, float]
) -> tuple[pictures.Raster, np.ndarray, str]:
    """Return the middle of a picture, which pixels it has, int64 (pixel,), and its name.

    All of the picture if the beam misses the detector.
    """
    place = np.divmod(raster.point, raster.shape[1])
    row, column = (at - int(np.floor(b)) + CENTRE for at, b in zip(place, beam, strict=True))
    edge = 2 * CENTRE
    (pixels,) = np.nonzero((row >= 0) & (row < edge) & (column >= 0) & (column < edge))
    if len(pixels) < CENTRE**2:
        return raster, np.arange(len(raster.point)), "all pixels"
    point = row[pixels] * edge + column[pixels]
    names = f"the central {edge} × {edge} pixels"
    return pictures.Raster(point, (edge, edge), raster.size), pixels, names


def _hit(
    found: RunFiles, layout: tuple[pictures.Raster, np.ndarray], hit: int, good_by_place: dict
) -> str:
    events, hit_file = found.run.events, found.hit_file
    raster, pixels = layout
    row = hit_file.rows[hit]
    photons, good = read_hit(hit_file.path, hit, good_by_place)
    image = pictures.assemble_counts(raster, photons[pixels], good[pixels])
    limits = pictures.count_limits(image)
    train, cell = events.trainId[row], events.cellId[row]
    sigma = events.hit_sigma[row]
    strength = f"{sigma:.1f} σ" if np.isfinite(sigma) else f"score {events.hitscore[row]:,.0f}"
    return (
        f'<figure><img src="{_image(image, limits, _HIT_SHADES)}" alt="hit {hit}, train {train}, '
        f'cell {cell}"><figcaption><b>hit {hit}</b> · cell {cell}<br>train {train}<br>'
        f"{events.photons[row]:,} photons, {strength}</figcaption></figure>"
    )
