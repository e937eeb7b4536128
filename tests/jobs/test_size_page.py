"""Sizes on the page of a run: which charts there are, and models beside the photons of hits."""

import re
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
from launch import call_xfelmpi
from mockrun import tiny_run

from xfelmpi.analysis.spheroid_size import SpheroidSize
from xfelmpi.core.errors import InputError
from xfelmpi.core.paths import Experiment
from xfelmpi.output.cxi.reader import read_weighting
from xfelmpi.report import curves, hit_browser, size_charts
from xfelmpi.report.charts import Charts
from xfelmpi.report.run_files import read_run_files
from xfelmpi.report.run_page import run_page
from xfelmpi.report.trends import run_numbers

ALWAYS = ["Diameters", "Deviance from one particle"]
AGAINST = ["Diameter against train", "Diameter against score"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs of spheroids: sizes of spheroids, of spheres, and none."""
    folder = tmp_path_factory.mktemp("sizes")
    mock = tiny_run(
        folder / "p007927", trains=2, cells=(0, 1, 2, 3), hit_rate=0.6, particle="spheroid"
    )
    where = ("--prefix", mock.options.prefix, "--no-vds", "--no-report")
    where += ("--decide", "fixed", "--fixed-threshold", "3000")
    found = {}
    for size in ("spheroid", "sphere", "none"):
        done = call_xfelmpi([50, *where, "--output", folder / size, "--size", size])
        assert done.returncode == 0, done.stderr
        found[size] = read_run_files(Experiment(mock.options.prefix, folder / size, 50))
    return found


def titles(html):
    return re.findall(r"<figcaption><b>(.*?)</b>", html)


def test_charts_of_spheroids(made):
    html = size_charts.size_section(made["spheroid"], Charts())
    shown = titles(html)
    assert shown[:5] == [*ALWAYS, "Axes of the spheroids", *AGAINST]
    assert len(shown) == 5 + size_charts.PROFILES
    title = r"Hit \d+: \d+\.\d+ ± (?=[\d.]*[1-9])\d+\.\d+ nm"
    assert all(re.fullmatch(title, text) for text in shown[5:])
    assert "Median of single particles" in html


def test_charts_of_spheres(made):
    shown = titles(size_charts.size_section(made["sphere"], Charts()))
    assert shown[:4] == [*ALWAYS, *AGAINST]


def test_nothing_without_sizes(made):
    """The page of a run without sizes is as before."""
    assert size_charts.size_section(made["none"], Charts()) == ""
    page = run_page(made["none"])
    assert "Diameters" not in page
    assert "hits − weighted background" in page or "hits \\u2212 weighted" in page


def with_column(found, name, values=None):
    """Return what was read of a run with other values of a column of the hits, or without it."""
    added = []
    for column in found.run.events.added:
        if column.name != name:
            added.append(column)
        elif values is not None:
            changed = np.array(column.values, float)
            changed[np.flatnonzero(found.run.events.is_hit)[: len(values)]] = values
            added.append(replace(column, values=changed))
    events = replace(found.run.events, added=added)
    return replace(found, run=replace(found.run, events=events))


@pytest.mark.parametrize("name", [c.name for c in SpheroidSize.columns])
def test_columns_that_are_gone(made, name):
    with pytest.raises(InputError, match=f"_events.h5: has sizes of hits, but not .*{name}"):
        size_charts.size_section(with_column(made["spheroid"], name), Charts())


@pytest.mark.parametrize(
    ("name", "value"),
    [("diameter", -5e-8), ("long_axis_diameter", 0.0), ("fluence", np.inf), ("fluence", 1e300)],
)
def test_sizes_that_no_particle_has(made, name, value):
    with pytest.raises(InputError, match=f"_events.h5: {name} of hit 0 is .*, expected a positive"):
        size_charts.size_section(with_column(made["sphere"], name, [value]), Charts())


@pytest.mark.parametrize("values", [[1e300, -1e300], [np.inf, 0.0], [-np.inf, 1e-300], [5e3, 5e3]])
def test_deviances_of_any_value(made, values):
    html = size_charts.size_section(with_column(made["sphere"], "size_deviance", values), Charts())
    assert "Deviance from one particle" in html


def test_weighting_of_another_length(made, tmp_path):
    found = made["sphere"]
    path = tmp_path / "hits.cxi"
    shutil.copy(found.hit_file.path, path)
    with h5py.File(path, "r+") as file:
        group = file["entry_1/instrument_1/detector_1"]
        del group["background_weighting"]
        group["background_weighting"] = np.zeros(0)
    damaged = replace(found, hit_file=replace(found.hit_file, path=path))
    with pytest.raises(InputError, match=r"hits.cxi: 0 values of background_weighting, expected"):
        size_charts.size_section(damaged, Charts())


@pytest.mark.parametrize(
    ("where", "values"),
    [((2, ...), 1e200), ((2, ...), -np.inf), ((slice(None), 0, 0, 0), 0.0), ((2, 3, 0, 0), 101.0)],
)
def test_pixels_at_impossible_positions(made, tmp_path, where, values):
    """Without the CXI file, the page has no pictures and no sizes, and says why."""
    experiment = made["sphere"].experiment
    out = shutil.copytree(experiment.output, tmp_path / "out", symlinks=True)
    files = replace(experiment, output=out)
    with h5py.File(files.cxi, "r+") as file:
        file["entry_1/instrument_1/detector_1/xyz_map"][where] = values
    found = read_run_files(files)
    assert "xyz_map has pixels at the sample, or too far from it" in found.missing
    assert "no pictures without it" in run_page(found)


def test_trains_that_cannot_be_of_one_run(made, tmp_path):
    experiment = made["sphere"].experiment
    out = shutil.copytree(experiment.output, tmp_path / "out", symlinks=True)
    files = replace(experiment, output=out)
    with h5py.File(files.events, "r+") as file:
        file["trainId"][-1] = 2**63 + 5
    with pytest.raises(InputError, match="trains 1500000000 and 9223372036854775813 cannot be of"):
        read_run_files(files)


def misfit(found, hit):
    """Return how far the rings of a hit are from the model of its columns, by chance and 10 %."""
    events, density = found.run.events, found.run.config.density
    values = {c.name: float(c.values[events.is_hit][hit]) for c in found.run.events.added}
    rings = size_charts._Rings(found.hit_file, float(np.median(events.wavelength)), polarised=True)
    pixels = rings._sums(np.ones(len(rings._part))).reshape(len(rings.middle), -1).sum(axis=1)
    particle = size_charts._Particle.of_columns(values, density, 1.0)
    weighting = read_weighting(found.hit_file.path)[hit]
    seen, _, model = rings.profile(hit, weighting, particle)
    enough = np.isfinite(seen) & (seen * pixels > 30)
    assert enough.sum() > 15
    chance = model[enough] / pixels[enough] + (0.1 * model[enough]) ** 2
    return np.median((seen - model)[enough] ** 2 / chance)


def test_models_are_beside_the_photons(made):
    """The spheroid of a hit's columns explains its rings; a sphere does not."""
    for hit in range(3):
        spheroid, sphere = (misfit(made[kind], hit) for kind in ("spheroid", "sphere"))
        assert spheroid < 1.5
        assert sphere > 2 * spheroid


def test_sizes_in_overview_and_browser(made):
    """The numbers of a run have the median size, the hits their columns; none without sizes."""
    found = made["sphere"]
    diameter = next(c.values for c in found.run.events.added if c.name == "diameter")
    assert run_numbers(found.run).median_size == pytest.approx(float(np.nanmedian(diameter)))
    columns, units = hit_browser._columns(found.hit_file, found, np.arange(2))
    assert columns["diameter"] == pytest.approx(diameter[found.hit_file.rows[:2]].tolist(), 1e-3)
    assert units["diameter"] == "m"
    assert run_numbers(made["none"].run).median_size is None


def test_limit_of_the_signal():
    """Where it ends, to a few bins; none in chance alone, and not by a scale that is 1 % off."""
    random, middle = np.random.default_rng(5), np.arange(240.0)
    ground = np.full(240, 4e4)
    known = ground / 10
    signal = np.where(middle < 120, 3e4 * np.exp(-middle / 60), 0.0)
    found = curves.signal_limit(middle, random.poisson(ground + signal), ground, known)
    assert 112 <= found <= 124
    chance = [
        curves.signal_limit(middle, random.poisson(scale * ground), ground, known)
        for scale in (1.0, 1.0, 1.01)
    ]
    assert np.isnan(chance).all()
    assert np.isnan(curves.signal_limit(middle, 0 * ground, 0 * ground, 0 * ground))
