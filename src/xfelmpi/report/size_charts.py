"""The sizes of the hits on a page: histograms, against train and score, profiles with models."""

from html import escape
from typing import NamedTuple

import numpy as np

from xfelmpi.analysis.form_factor import forward_scattering, sphere_amplitude
from xfelmpi.analysis.sphere_size import SphereSize
from xfelmpi.analysis.spheroid_size import SpheroidSize
from xfelmpi.core.errors import InputError
from xfelmpi.core.units import PLANCK_TIMES_C
from xfelmpi.output.cxi.hit_file import HitFile, read_hit
from xfelmpi.output.cxi.reader import read_weighting
from xfelmpi.report import curves
from xfelmpi.report.axes import Axis, axis_around
from xfelmpi.report.charts import Charts, Series
from xfelmpi.report.run_files import RunFiles

SINGLE = 1.5
"""Deviance per degree of freedom below which a hit looks like one particle."""

MOST_DOTS = 2000
"""Hits of a chart at most: more could not be told apart."""

PROFILES = 3
"""Strongest hits whose profiles are shown."""

_POSITIVE = ("diameter", "short_axis_diameter", "long_axis_diameter", "fluence")
_LARGEST = 1e30
"""Of the values of `_POSITIVE`, in their units: charts can be made of what is below."""

_WORST = 1e4
"""Deviance up to which hits are told apart."""

_BINS, _RINGS, _FINE, _ANGLES = 60, 160, 3, 24
_UM2, _NM, _NM3 = 1e-12, 1e-9, 1e-27


def size_section(found: RunFiles, charts: Charts) -> str:
    """Return the section on sizes as HTML, empty if none were measured; charts are added.

    Raises
    ------
    InputError
        If columns of the sizes are missing, or hold what no size is.
    """
    columns = _size_columns(found)
    if not columns:
        return ""
    measured = np.flatnonzero(np.isfinite(columns["diameter"]))
    if not len(measured):
        return ""
    single = columns["size_deviance"] < SINGLE
    single &= columns.get("size_edge", np.zeros(len(single))) == 0
    parts = [_histogram(columns["diameter"] / _NM, single, charts), _deviances(columns, charts)]
    shown = measured[:: -(-len(measured) // MOST_DOTS)]
    if "theta_z" in columns:
        parts.append(_axes(columns, shown, single, charts))
    parts += _against(found, columns["diameter"] / _NM, shown, single, charts)
    parts += _profiles(found, columns, charts)
    words = f"{single.sum():,} of {len(measured):,} hits look like one particle: deviance below "
    words += f"{SINGLE:g}, and a size that the geometry can resolve."
    return (
        f'<h2>Sizes</h2><p class="soft">{escape(words)}</p><div class="pair">{"".join(parts)}</div>'
    )


def _size_columns(found: RunFiles) -> dict[str, np.ndarray]:
    """Return the added columns of the hits by name, float64 (hit,); empty without sizes."""
    events, path = found.run.events, found.experiment.events
    added = {c.name: c.values for c in events.added if c.values is not None}
    if not {"diameter", "size_deviance"} & set(added):
        return {}
    of_spheroids = {c.name for c in SpheroidSize.columns} - {c.name for c in SphereSize.columns}
    expected = (SpheroidSize if of_spheroids & set(added) else SphereSize).columns
    lacks = [c.name for c in expected if c.name not in added]
    if lacks:
        raise InputError(f"{path}: has sizes of hits, but not their columns {', '.join(lacks)}")
    columns = {name: np.asarray(values, float)[events.is_hit] for name, values in added.items()}
    for name in _POSITIVE:
        wrong = (columns[name] <= 0) | (columns[name] > _LARGEST)
        if wrong.any():
            hit = int(np.argmax(wrong))
            what = f"{name} of hit {hit} is {columns[name][hit]:g}"
            raise InputError(f"{path}: {what}, expected a positive number, or NaN if unknown")
    return columns


def _histogram(diameter: np.ndarray, single: np.ndarray, charts: Charts) -> str:
    known = diameter[np.isfinite(diameter)]
    low, high = np.quantile(known, (0.005, 0.995))
    edges = np.linspace(0.97 * low, 1.03 * high, _BINS + 1)
    every = curves.histogram(known, edges).astype(float)
    good = curves.histogram(diameter[single], edges).astype(float)
    median = np.median(diameter[single]) if single.any() else np.nan
    beyond = len(known) - int(every.sum())
    words = f"Median of single particles {median:.1f} nm. " if single.any() else ""
    return charts.chart(
        "Diameters",
        Axis("diameter in nm", float(edges[0]), float(edges[-1])),
        axis_around("hits", every, zero=True, whole=True),
        [
            Series("all", edges, every, "area", "quiet"),
            Series("like one particle", edges, good, "area", "hit"),
        ],
        caption=words + (f"{beyond:,} hits are beyond the chart." if beyond else ""),
    )


def _deviances(columns: dict[str, np.ndarray], charts: Charts) -> str:
    values = np.minimum(columns["size_deviance"], _WORST)
    edges, logarithmic = curves.score_edges(np.maximum(values, 0.1), _BINS)
    if not logarithmic:
        edges = np.geomspace(max(edges[0], 0.05), max(edges[-1], 3.0), _BINS + 1)
    number = curves.histogram(np.maximum(values, edges[0]), edges).astype(float)
    return charts.chart(
        "Deviance from one particle",
        Axis("deviance per degree of freedom", float(edges[0]), float(edges[-1]), True),
        axis_around("hits", number, zero=True, whole=True),
        [Series("hits", edges, number, "area", "hit")],
        caption="1 is a perfect fit; pairs, droplets, ice and stray light have more. Hits beyond "
        f"{_WORST:g} are in the last bin.",
    )


def _two(x: np.ndarray, y: np.ndarray, shown: np.ndarray, single: np.ndarray) -> list[Series]:
    """Return hits that look like one particle, and the others, as dots."""
    others, good = shown[~single[shown]], shown[single[shown]]
    series = [
        Series("others", x[others], y[others], "dots", "quiet"),
        Series("like one particle", x[good], y[good], "dots", "hit"),
    ]
    return [one for one in series if len(one.x)]


def _axes(columns: dict, shown: np.ndarray, single: np.ndarray, charts: Charts) -> str:
    short = columns["short_axis_diameter"] / _NM
    long = columns["long_axis_diameter"] / _NM
    return charts.chart(
        "Axes of the spheroids",
        axis_around("short axis in nm", short[shown]),
        axis_around("long axis in nm", long[shown]),
        _two(short, long, shown, single),
    )


def _against(found: RunFiles, diameter, shown, single, charts: Charts) -> list[str]:
    events = found.run.events
    train = events.trainId[events.is_hit]
    number = (train - events.trainId[0]).astype(float)
    score = events.hitscore[events.is_hit].astype(float)
    positive = bool((score[shown] > 0).all())
    size = axis_around("diameter in nm", diameter[shown])
    last = float(events.trainId[-1] - events.trainId[0])
    return [
        charts.chart(
            "Diameter against train",
            Axis(f"train, from {events.trainId[0]}", -0.5, last + 0.5, whole=True),
            size,
            _two(number, diameter, shown, single),
            link="train",
        ),
        charts.chart(
            "Diameter against score",
            axis_around("hit score", score[shown], log=positive),
            size,
            _two(score, diameter, shown, single),
        ),
    ]


def _profiles(found: RunFiles, columns: dict[str, np.ndarray], charts: Charts) -> list[str]:
    """Return charts of the strongest hits: photons in rings, and what their sizes explain."""
    events, hit_file = found.run.events, found.hit_file
    wavelength = _wavelengths(found)
    known = wavelength[np.isfinite(wavelength)]
    if hit_file is None or not np.isfinite(hit_file.xyz).all() or not len(known):
        return []
    median = float(np.median(known))
    usable = np.isfinite(columns["diameter"]) & np.isfinite(columns["fluence"])
    score = np.where(usable, events.hitscore[events.is_hit], -np.inf)
    chosen = np.argsort(-score, kind="stable")[:PROFILES]
    rings = _Rings(hit_file, median, polarised=found.run.config.polarisation != "none")
    weighting = read_weighting(hit_file.path)
    if len(weighting) != len(hit_file.rows):
        what = f"{len(weighting)} values of background_weighting, expected {len(hit_file.rows)}"
        raise InputError(f"{hit_file.path}: {what}, one for each hit")
    parts = []
    for hit in chosen[usable[chosen]].tolist():
        values = {name: float(column[hit]) for name, column in columns.items()}
        ratio = np.nan_to_num(wavelength[hit_file.rows[hit]] / median, nan=1.0)
        particle = _Particle.of_columns(values, found.run.config.density, ratio)
        seen, background, model = rings.profile(hit, float(weighting[hit]), particle)
        text = _with_error(values["diameter"] / _NM, values["diameter_error"] / _NM) + " nm"
        both = np.concatenate([seen[seen > 0], model[np.isfinite(seen) & (model > 0)]])
        parts.append(
            charts.chart(
                f"Hit {hit}: {text}",
                Axis("q = 4π sin θ / λ in 1/nm", 0.0, float(rings.middle[-1]) * 1.01),
                axis_around("photons per pixel", both, log=True),
                [
                    Series(
                        "photons", rings.middle, np.where(seen > 0, seen, np.nan), "dots", "hit"
                    ),
                    Series("model", rings.middle, model, "line", "main"),
                    Series("background in it", rings.middle, background, "line", "quiet"),
                ],
                caption=f"Deviance {values['size_deviance']:.2f}.",
            )
        )
    return parts


def _with_error(value: float, error: float) -> str:
    """Return a number as text, to the first digit of its error."""
    if not (np.isfinite(error) and error > 0):
        return f"{value:.1f}"
    digits = min(max(1, -int(np.floor(np.log10(error)))), 4)
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _wavelengths(found: RunFiles) -> np.ndarray:
    """Return the wavelengths that the sizes were measured with, float64 (frame,)."""
    events, config = found.run.events, found.run.config
    if config.photon_energy is None:
        return events.wavelength
    return np.full(len(events.wavelength), PLANCK_TIMES_C / config.photon_energy)


class _Rings:
    """Rings of equal width in |q| around the beam; models are made for parts of them."""

    def __init__(self, hit_file: HitFile, wavelength: float, *, polarised: bool):
        self._file = hit_file
        x, y, z = hit_file.xyz
        length = np.sqrt(x * x + y * y + z * z)
        q = np.sqrt(2 * np.maximum(1 - z / length, 0.0)) / wavelength
        largest = float(q.max()) * (1 + 1e-9)
        fine = (q * (_RINGS * _FINE / largest)).astype(np.int64)
        angle = np.arctan2(y, x) % np.pi
        self._part = fine * _ANGLES + np.minimum(angle * (_ANGLES / np.pi), _ANGLES - 1).astype(int)
        # both change little across a part
        exposure = hit_file.pixel_size**2 * z / length**3
        exposure *= 1 - ((x / length) ** 2 if polarised else 0.0)
        self._exposure = self._sums(exposure) / np.maximum(self._sums(np.ones(len(q))), 1)
        width = largest / _RINGS
        self.middle = 2 * np.pi * width * (np.arange(_RINGS) + 0.5) * _NM
        self._q = (np.arange(_RINGS * _FINE) + 0.5)[:, None] * width / _FINE
        self._angle = (np.arange(_ANGLES) + 0.5) * np.pi / _ANGLES
        self._background = np.nan_to_num(hit_file.background)

    def _sums(self, values: np.ndarray) -> np.ndarray:
        shape = _RINGS * _FINE, _ANGLES
        return np.bincount(self._part, values, shape[0] * shape[1]).reshape(shape)

    def profile(self, hit: int, weighting: float, particle: "_Particle"):
        """Return photons per good pixel of the rings, background and model; float64 (ring,) each.

        Parameters
        ----------
        hit : int
            Place in the CXI file.
        weighting : float
            What scales the background.
        particle : _Particle
        """
        photons, good = read_hit(self._file.path, hit)
        number = self._sums(good)
        parts = [self._sums(np.where(good, v, 0)) for v in (photons, self._background)]
        parts += [number * self._signal(particle), number]
        seen, ground, signal, pixels = (p.reshape(_RINGS, -1).sum(axis=1) for p in parts)
        with np.errstate(invalid="ignore", divide="ignore"):
            per_pixel = [np.where(pixels > 0, v / pixels, np.nan) for v in (seen, ground, signal)]
        seen, ground, signal = per_pixel
        return seen, ground * weighting, signal + ground * weighting

    def _signal(self, particle: "_Particle") -> np.ndarray:
        """Return photons per pixel of a particle, float64 (fine ring, angle)."""
        turned = self._angle - particle.angle
        seen = np.hypot(particle.long * np.cos(turned), particle.short * np.sin(turned))
        shape = sphere_amplitude(np.pi * self._q * seen)[0] ** 2
        return particle.forward * shape * self._exposure


class _Particle(NamedTuple):
    """A spheroid: axes in m, its angle, and photons per steradian in the middle."""

    short: float
    long: float
    angle: float
    forward: float

    @classmethod
    def of_columns(cls, values: dict[str, float], density: float, ratio: float) -> "_Particle":
        """Return it by the columns of a hit, as seen with another wavelength.

        Parameters
        ----------
        values : dict
        density : float
            Electrons per nm³.
        ratio : float
            The hit's wavelength over that of the rings.
        """
        # of a prolate and of an oblate one alike
        volume = (np.pi / 6) * values["diameter"] ** 3
        forward = values["fluence"] / _UM2 * forward_scattering(density / _NM3) * volume**2
        axes = values["short_axis_diameter"] / ratio, values["long_axis_diameter"] / ratio
        return cls(*axes, values.get("theta_z", 0.0), forward)
