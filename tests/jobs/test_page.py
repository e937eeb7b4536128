"""The page of a run and the overview: what is in them, and that a job makes them in peace."""

import io
import json
import re
import sys
import time
from dataclasses import replace
from html import unescape
from pathlib import Path

import h5py
import numpy as np
import pytest
from launch import all_files, run_job, run_python, run_xfelmpi
from mockrun import tiny_raw_run, tiny_run
from PIL import Image

from xfelmpi.calibration.geometry import load_geometry
from xfelmpi.core.errors import InputError, PeerError
from xfelmpi.core.paths import Experiment
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.report import charts, curves, images, overview
from xfelmpi.report.charts import Axis, Series, chart, ticks
from xfelmpi.report.overview import RunStatus


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A processed run in which a module lacks a train, and the output of the job."""
    folder = tmp_path_factory.mktemp("page") / "p007927"
    mock = tiny_run(folder, trains=4, cells=tuple(range(8)), missing=((3, 1),))
    geometry = ["--geometry", mock.paths.geometry, "--sample", "<i>MS2</i> & 5 µm"]
    job = run_xfelmpi([50, "--prefix", folder, *geometry], 3)
    assert job.returncode == 3, job.stderr
    return mock, job


@pytest.fixture(scope="module")
def page(done):
    return (done[0].options.prefix / "scratch/report/r0050.html").read_text()


def headline_numbers(page: str) -> dict[str, str]:
    return {unescape(k): unescape(v) for k, v in re.findall(r'data-name="(.*?)">(.*?)</dd>', page)}


# a job


def test_job_makes_page_and_overview(done):
    mock, job = done
    report = mock.options.prefix / "scratch" / "report"
    assert all_files(report) == ["index.html", "r0050.html", "r0050.json"]
    assert f"report: {report / 'r0050.html'}" in job.stdout
    status = json.loads((report / "r0050.json").read_text())
    assert (status["run"], status["status"], status["frames"]) == (50, "3", 32)
    page = (report / "r0050.html").read_text()
    cards = re.findall(r'<li class="(\w+)"><b>.*?</strong> <div>(.*?)</div></li>', page)
    assert list(status["verdicts"]) == ["beam", "sample", "hits", "detector", "reconstruction"]
    told = [(verdict["state"], verdict["why"]) for verdict in status["verdicts"].values()]
    assert told == [(state, unescape(why)) for state, why in cards]
    assert {state for state, _ in told} <= {"good", "doubtful", "bad"}
    assert status["verdicts"]["reconstruction"]["state"] != "good"
    assert all((report / name).stat().st_mode & 0o444 == 0o444 for name in all_files(report))


def test_headline_equals_the_events_file(done, page):
    with h5py.File(done[0].options.prefix / "scratch/events/r0050_events.h5") as file:
        hits, modules = int(file["is_hit"][:].sum()), file["modules"][:]
        complete = int((modules == 0xFFFF).sum())
        energy = float(np.nanmean(file["pulse_energy"][:]))
        n_problems = len(file["problems"])
    assert hits
    assert headline_numbers(page) == {
        "hits": str(hits),
        "hit rate": f"{100 * hits / complete:.2f} %",
        "frames": "32",
        "trains": "4",
        "duration": "0.4 s",
        "sample": "<i>MS2</i> & 5 µm",
        "pulse energy, mean": f"{1e3 * energy:.2f} mJ",
        "photon energy": "6.000 keV",
        "detector distance": "0.7 m",
        "excluded": f"{n_problems} problem, 8 incomplete frames",
    }
    assert 'class="alarm" data-name="excluded"' in page


def test_page_holds_everything_and_is_small(page):
    assert len(page) < 5e6
    assert "<i>MS2" not in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|index\.html)", page)
    assert "module lacks 1 trains" in page
    for title in ("Hit rate against train", "Radial profile", "Modules", "resolution 2π/q in nm"):
        assert title in page
    assert page.count('alt="powder of') == 3


def test_page_is_made_from_the_files_alone(done, page, tmp_path):
    """The run's own folder is not needed, and it takes less than 10 s."""
    output = tmp_path / "out"
    for part in ("events", "powder", "saved_hits"):
        (output / part).mkdir(parents=True)
        for path in (done[0].options.prefix / "scratch" / part).iterdir():
            (output / part / path.name).symlink_to(path)
    start = time.monotonic()
    job = run_job(["report", 50, "--prefix", tmp_path / "nowhere", "--output", output])
    assert job.returncode == 0, job.stderr
    assert time.monotonic() - start < 10
    again = (output / "report" / "r0050.html").read_text()
    assert headline_numbers(again) == headline_numbers(page)
    assert re.findall("<img.*?>", again) == re.findall("<img.*?>", page)
    (output / "saved_hits" / "r0050_hits.cxi").unlink()
    job = run_job(["report", 50, "--prefix", tmp_path / "nowhere", "--output", output])
    assert job.returncode == 0, job.stderr
    assert "no pictures without it" in (output / "report" / "r0050.html").read_text()


def test_no_outputs_no_page(tmp_path):
    job = run_job(["report", 50, "--prefix", tmp_path])
    assert job.returncode == 2
    assert "r0050_events.h5: no such file" in job.stderr
    assert all_files(tmp_path) == []


def test_warnings_stand_in_the_page(tmp_path):
    """Of a raw run, without a geometry."""
    mock = tiny_raw_run(tmp_path / "p007927")
    mock.paths.geometry.unlink()
    job = run_job([50, "--prefix", mock.options.prefix, "--output", tmp_path / "out"])
    assert job.returncode in (0, 3), job.stderr
    page = (tmp_path / "out/report/r0050.html").read_text()
    warnings = re.findall("^WARNING: (.*)", job.stderr, re.M)
    assert len(warnings) >= 2
    for line in warnings:
        assert f"<li>{line}</li>" in unescape(page)
    assert "raw data" in page
    assert "no geometry given: pixel positions are nominal" in page
    assert "q is unknown" in page
    with h5py.File(tmp_path / "out/events/r0050_events.h5") as file:
        assert json.loads(file.attrs["warnings"]) == warnings


CRASH = """\
import sys
import xfelmpi.report.build
def broken(experiment):
    raise ZeroDivisionError("oh dear")
xfelmpi.report.build.make_report = broken
from xfelmpi.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_failing_page_harms_nothing(tmp_path):
    """Nor does one of an earlier job stay, which would show other outputs."""
    mock = tiny_run(tmp_path / "p007927", trains=1)
    options = [50, "--prefix", mock.options.prefix, "--output", tmp_path / "out"]
    assert run_job(options).returncode == 0
    assert (tmp_path / "out/report/r0050.html").exists()
    script = tmp_path / "crash.py"
    script.write_text(CRASH)
    job = run_python([script, *options], 2)
    assert job.returncode == 0, job.stderr
    assert (
        "WARNING: the page of the run could not be made: ZeroDivisionError: oh dear" in job.stderr
    )
    assert (tmp_path / "out/events/r0050_events.h5").exists()
    assert not (tmp_path / "out/report/r0050.html").exists()


def test_no_page_if_not_wanted(tmp_path):
    mock = tiny_run(tmp_path / "p007927", trains=1)
    options = [50, "--prefix", mock.options.prefix, "--output", tmp_path / "out", "--no-report"]
    assert run_job(options).returncode == 0
    assert not (tmp_path / "out" / "report").exists()


@pytest.mark.parametrize("ranks", [0, 3])
def test_a_failed_job_shows_in_the_overview(tmp_path, ranks):
    (tmp_path / "p007927/proc/r0007").mkdir(parents=True)
    job = run_job([7, "--prefix", tmp_path / "p007927"], ranks)
    assert job.returncode == 2
    text = (tmp_path / "p007927/scratch/report/index.html").read_text()
    assert "failed" in text
    assert "no detector files" in text
    assert '<a href="r0007.html">' not in text


# the overview


def status(run, **changes):
    values = {"status": "0", "time": f"2024-05-01T10:{run:02}:00+00:00", "frames": 10 * run}
    return RunStatus(run, **{**values, "hits": run, "hit_rate": 0.1, **changes})


def test_newest_first_and_damaged_files_left_out(tmp_path):
    for run in (3, 11, 5):
        overview.record(Experiment(tmp_path, tmp_path, run), status(run))
    folder = tmp_path / "report"
    (folder / "r0099.json").write_text('{"run": 99,')
    (folder / "r0098.json").write_text('{"run": "x", "status": "0", "time": 3}')
    overview.rebuild(folder / "index.html")
    assert [s.run for s in overview.read_statuses(folder)] == [11, 5, 3]
    found = re.findall(r'<a href="r(\d+)\.html">', (folder / "index.html").read_text())
    assert found == ["0011", "0005", "0003"]


def test_failures_are_told_once_and_never_raise(tmp_path):
    experiment = Experiment(tmp_path, tmp_path / "out", 4)
    elsewhere = PeerError("rank 3: no")
    elsewhere.told_elsewhere = True
    overview.record_failure(experiment, elsewhere)
    overview.record_failure(replace(experiment, prefix=tmp_path / "nowhere"), InputError("no"))
    # a run that nobody has is a number that was mistyped
    overview.record_failure(experiment, InputError("no such run"))
    assert all_files(tmp_path) == []
    for run in (4, 5):
        (tmp_path / f"raw/r{run:04}").mkdir(parents=True)
    overview.record_failure(experiment, InputError("<b>no</b>"))
    overview.record_failure(replace(experiment, run=5), ZeroDivisionError("oh"))
    text = experiment.overview.read_text()
    assert "&lt;b&gt;no&lt;/b&gt;" in text
    assert "ZeroDivisionError: oh (a bug; see the log)" in text
    (tmp_path / "file").write_text("")
    overview.record_failure(replace(experiment, output=tmp_path / "file"), InputError("no"))


RACE = """\
import sys, time
from pathlib import Path
from xfelmpi.core.paths import Experiment
from xfelmpi.report.overview import RunStatus, record
folder, first, begin = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
time.sleep(max(0.0, begin - time.time()))
for run in range(first, first + 10):
    record(Experiment(folder, folder, run), RunStatus(run, "0", "2024-05-01T10:00:00+00:00"))
"""


def test_jobs_of_an_array_do_not_lose_each_other(tmp_path):
    import subprocess

    script = tmp_path / "race.py"
    script.write_text(RACE)
    begin = str(time.time() + 2)
    arguments = ([sys.executable, str(script), str(tmp_path), str(10 * i), begin] for i in range(8))
    processes = [subprocess.Popen(a) for a in arguments]
    assert [p.wait(60) for p in processes] == [0] * 8
    text = (tmp_path / "report/index.html").read_text()
    assert sorted(
        map(int, re.findall(r'<tr><td class="" data-name="run" data-value="(\d+)"', text))
    ) == list(range(80))
    assert not list((tmp_path / "report").glob("*.part"))


# curves


@pytest.mark.quick
def test_curves_over_trains_against_loops():
    random = np.random.default_rng(3)
    n = 4000
    train = np.sort(random.integers(0, 3000, n)).astype(np.uint64) + np.uint64(10**9)
    complete, hit = random.random(n) < 0.9, random.random(n) < 0.2
    energy = np.where(random.random(n) < 0.8, random.random(n), np.nan)
    curve = curves.over_trains(train, complete, hit & complete, energy)
    assert curve.trains_per_point == 5
    assert len(curve.train) <= curves.MOST_POINTS
    at = ((train - train[0]) // np.uint64(5)).astype(int)
    for i in (0, 7, 311, len(curve.train) - 1):
        here = at == i
        assert curve.train[i] == 5 * i + 2
        assert curve.hit_rate[i] == (hit & complete)[here].sum() / complete[here].sum()
        assert curve.pulse_energy[i] == pytest.approx(np.nanmean(energy[here]))
        near = abs(at - i) <= 7
        expected = (hit & complete)[near].sum() / complete[near].sum()
        assert curve.running[i] == pytest.approx(expected)


@pytest.mark.quick
def test_curves_of_nothing():
    none = np.empty(0)
    curve = curves.over_trains(none.astype(np.uint64), none > 0, none > 0, none)
    assert len(curve.train) == 0
    edges, logarithmic = curves.score_edges(none)
    assert len(edges) == 2
    assert not logarithmic


@pytest.mark.parametrize(
    "score",
    [
        np.full(9, 676.0),
        np.zeros(4),
        np.arange(40.0),
        np.append(np.random.default_rng(1).poisson(3000, 900), [9e4, 8e4]).astype(float),
        np.array([0.25, 0.5, 0.75, np.nan]),
        np.array([-3.0, 5.0, 100.0]),
    ],
)
@pytest.mark.quick
def test_every_score_is_in_the_histogram(score):
    edges, logarithmic = curves.score_edges(score)
    assert (np.diff(edges) > 0).all()
    assert curves.histogram(score, edges).sum() == np.isfinite(score).sum()
    assert logarithmic == (np.nanmax(score) == 9e4)
    if np.all(score == np.round(score)):
        # an even number of whole numbers in every bin: no comb
        assert np.allclose(edges % 1, 0.5)


@pytest.mark.quick
def test_radial_profile_leaves_bad_pixels_out():
    radius = np.array([0.0, 0.1, 1.0, 0.95])
    photons, frames = np.array([4, 2, 9, 7]), np.array([2, 2, 3, 0])
    middle, (mean,) = curves.radial_profile(radius, [(photons, frames)], 2)
    assert middle == pytest.approx([0.25, 0.75])
    assert mean.tolist() == [6 / 4, 16 / 3]


@pytest.mark.quick
def test_momentum_transfer():
    """Bragg: sin θ = λ q / 4π, here with 2 θ = 45°."""
    (q,) = curves.momentum_transfer(np.array([[0.0], [0.5], [0.5]]), 1e-10)
    assert q == pytest.approx(4 * np.pi * np.sin(np.pi / 8) / 1e-10)


# images


@pytest.fixture(scope="module")
def xyz():
    return load_geometry(None, AGIPD_1M, 0.5)[0].xyz.reshape(3, -1)


@pytest.mark.quick
def test_pixels_are_where_extra_geom_has_them(xyz):
    """A picture of one module has its light where extra-geom's own assembled image has it."""
    from extra_geom import AGIPD_1MGeometry

    geometry = AGIPD_1MGeometry.example()
    raster = images.make_raster(xyz, 2, 200e-6)
    for module in (0, 6, 13):
        photons = np.zeros((16, 512, 128))
        photons[module, :100, :30] = 1
        image = images.assemble(raster, photons.reshape(-1), np.ones(photons.size)).values
        theirs = np.nan_to_num(geometry.position_modules(photons)[0])
        # as it shows them: y up, x to the left
        theirs = theirs[::-1, ::-1]
        ours = np.array(np.nonzero(np.nan_to_num(image) > 0.5)).mean(axis=1) * 2
        expected = np.array(np.nonzero(theirs)).mean(axis=1)
        assert ours == pytest.approx(expected, abs=3)


@pytest.mark.quick
def test_bad_pixels_and_gaps(xyz):
    raster = images.make_raster(xyz, 2, 200e-6)
    photons = np.full((16, 512, 128), 6.0)
    frames = np.full(photons.shape, 3)
    frames[4] = 0
    photons[4] = 0
    image = images.assemble(raster, photons.reshape(-1), frames.reshape(-1))
    assert np.nanmin(image.values) == np.nanmax(image.values) == 2
    there = raster.sums(np.ones(photons.size)) > 0
    assert np.array_equal(np.isnan(image.values), ~there | image.bad)
    assert 0.03 < image.bad.sum() / there.sum() < 0.07
    numbers = images.shade(image, (1, 4), 8)
    assert set(np.unique(numbers)) == {images.GAP, images.BAD, images.LOWEST + 4}


@pytest.mark.quick
def test_far_quadrants_do_not_make_a_large_picture(xyz):
    far = xyz * np.array([[30.0], [1], [1]])
    shape = images.make_raster(far, 2, 200e-6).shape
    assert max(shape) <= images.LARGEST + 1


@pytest.mark.quick
def test_png_is_what_was_drawn():
    table = images.palette(16)
    numbers = np.random.default_rng(0).integers(0, 18, (37, 23)).astype(np.uint8)
    image = Image.open(io.BytesIO(images.png(numbers, table)))
    assert np.array_equal(np.asarray(image.convert("RGBA")), table[numbers])


@pytest.mark.quick
def test_images_of_noise_fit_the_page(xyz):
    """The largest images there can be: no two points alike."""
    random = np.random.default_rng(0)
    sizes = []
    for pixels, shades in ((2, 48), (3, 32)):
        shape = images.make_raster(xyz, pixels, 200e-6).shape
        numbers = random.integers(2, 2 + shades, shape).astype(np.uint8)
        sizes.append(len(images.data_uri(images.png(numbers, images.palette(shades)))))
    assert 3 * sizes[0] + 24 * sizes[1] < 4.8e6


# charts


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (Axis("", 0, 10), [0, 2, 4, 6, 8, 10]),
        (Axis("", -0.5, 2.5, whole=True), [0, 1, 2]),
        (Axis("", 0.5, 1200, True), [1, 10, 100, 1000]),
        (Axis("", 400, 9000, True), [500, 1000, 2000, 5000]),
        (Axis("", 1, 1.5, True), [1, 1.1, 1.2, 1.3, 1.4, 1.5]),
    ],
)
@pytest.mark.quick
def test_ticks_are_round(axis, expected):
    assert ticks(axis, 6) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234.56, "1,235"), (0.00025, "2.5·10⁻⁴"), (1e6, "10⁶"), (-3, "-3")],
)
@pytest.mark.quick
def test_short_numbers(value, text):
    assert charts.number(value) == text


@pytest.mark.quick
def test_nothing_to_draw():
    none = np.empty(0)
    axis = charts.axis_around("y", np.array([np.nan]), log=True)
    text = chart("empty", Axis("x", 0, 1), axis, [Series("a", none, none)])
    assert 'd=""' in text
    assert "nan" not in text


@pytest.mark.quick
def test_names_cannot_leave_their_place():
    x = np.arange(3.0)
    text = chart("<b>", Axis("x&", 0, 2), Axis("y", 0, 2), [Series("</script><i>", x, x)])
    assert "<b><b>" not in text
    assert "<i>" not in text
    data = json.loads(re.search(r"json\">(.*)</script></figure>", text)[1])
    assert data["series"] == [["</script><i>", [0, 1, 2], [0, 1, 2]]]


@pytest.mark.quick
def test_a_gap_breaks_the_line_and_a_lone_point_is_a_dot():
    y = np.array([1, 1, np.nan, 1, np.nan, 1, 1])
    text = chart("t", Axis("x", 0, 6), Axis("y", 0, 2), [Series("s", np.arange(7.0), y)])
    path = re.search(r' d="(.*?)"', text)[1]
    assert path.count("M") == 3
    assert path.count("h0") == 1


def test_importing_the_program_does_not_import_the_page():
    code = "import sys, xfelmpi.workflows.process;"
    code += " print([m for m in sys.modules if 'xfelmpi.report' in m])"
    assert run_python(["-c", code]).stdout.strip() == "[]"
    assert Path(charts.__file__).with_name("page.css").exists()
