"""The page of a run and the overview: what is in them, and that a job makes them in peace."""

import base64
import io
import json
import re
import sys
import time
import tracemalloc
import zlib
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
from xfelmpi.output.cxi.hit_file import read_hit
from xfelmpi.report import (
    axes,
    charts,
    curves,
    detector_images,
    hit_browser,
    images,
    layout,
    overview,
    powder_plots,
    template,
)
from xfelmpi.report.axes import Axis, ticks
from xfelmpi.report.build import make_report
from xfelmpi.report.charts import Charts, Mark, Series
from xfelmpi.report.detector_images import _MOST_BYTES
from xfelmpi.report.overview import RunStatus
from xfelmpi.report.run_files import read_run_files
from xfelmpi.report.run_page import run_page


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A processed run in which a module lacks a train, and the output of the job."""
    folder = tmp_path_factory.mktemp("page") / "p007927"
    sample = "<i>MS2</i> & 5 µm"
    mock = tiny_run(folder, trains=4, cells=tuple(range(8)), missing=((3, 1),), sample=sample)
    geometry = ["--geometry", mock.paths.geometry]
    job = run_xfelmpi([50, "--prefix", folder, *geometry], 3)
    assert job.returncode == 3, job.stderr
    return mock, job


@pytest.fixture(scope="module")
def page(done):
    return (done[0].options.prefix / "scratch/report/r0050.html").read_text()


def without_scripts(page: str) -> str:
    return re.sub("<script>.*?</script>", "", page, flags=re.S)


def drawn(page: str) -> dict:
    """What the page gives to Bokeh."""
    return json.loads(re.search(r'id="charts">(.*?)</script>', page)[1])


def headline_numbers(page: str) -> dict[str, str]:
    return {unescape(k): unescape(v) for k, v in re.findall(r'data-name="(.*?)">(.*?)</dd>', page)}


# a job


def test_job_makes_page_and_overview(done):
    mock, job = done
    report = mock.options.prefix / "scratch" / "report"
    assert all_files(report) == ["index.html", "r0050.html", "r0050.json", "r0050_hits.html"]
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
    elsewhere = r"(?:src|href)=\"(?!data:|index\.html|r0050_hits\.html)"
    assert not re.findall(elsewhere, without_scripts(page))
    assert "module lacks 1 train" in page
    for title in ("Hit rate against train", "Radial profile", "Modules", "resolution 2π/q in nm"):
        assert title in page
    assert page.count('aria-label="powder of') == 3
    assert page.count('aria-label="centre of the powder of') == 3


def test_page_is_made_from_the_files_alone(done, page, tmp_path):
    """The run's own folder is not needed."""
    output = tmp_path / "out"
    for part in ("events", "powder", "saved_hits"):
        (output / part).mkdir(parents=True)
        for path in (done[0].options.prefix / "scratch" / part).iterdir():
            (output / part / path.name).symlink_to(path)
    job = run_job(["report", 50, "--prefix", tmp_path / "nowhere", "--output", output])
    assert job.returncode == 0, job.stderr
    again = (output / "report" / "r0050.html").read_text()
    assert headline_numbers(again) == headline_numbers(page)
    # in the job, another rank draws the hits
    assert 'alt="hit ' in page
    assert re.findall("<img.*?>", again) == re.findall("<img.*?>", page)
    assert drawn(again) == drawn(page)
    (output / "saved_hits" / "r0050_hits.cxi").unlink()
    job = run_job(["report", 50, "--prefix", tmp_path / "nowhere", "--output", output])
    assert job.returncode == 0, job.stderr
    assert "no pictures without it" in (output / "report" / "r0050.html").read_text()


def test_the_page_is_the_same_every_time(done):
    experiment = Experiment(done[0].options.prefix, done[0].options.prefix / "scratch", 50)
    written = []
    for _ in range(2):
        hit_browser.write_hit_browser(make_report(experiment))
        written.append([p.read_bytes() for p in (experiment.page, experiment.hit_browser)])
    assert written[0] == written[1]


def unpacked(text: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)


def test_the_browser_has_every_hit_with_all_its_photons(done, monkeypatch):
    prefix = done[0].options.prefix
    found = read_run_files(Experiment(prefix, prefix / "scratch", 50))
    page = "".join(hit_browser.hit_browser(found))
    assert "<i>MS2" not in without_scripts(page)
    data = json.loads(re.search(r'id="hits">(.*?)</script>', page)[1])
    rows = found.hit_file.rows
    assert data["columns"]["hit"] == list(range(len(rows)))
    for name in ("trainId", "cellId", "photons"):
        assert data["columns"][name] == getattr(found.run.events, name)[rows].tolist()
    detector = Image.open(io.BytesIO(base64.b64decode(data["detector"].partition(",")[2])))
    assert detector.size == (data["width"], data["height"])
    steps = unpacked(data["points"]).reshape(4, -1)
    point = np.cumsum(sum(steps[k].astype(np.uint32) << 8 * k for k in range(4)), dtype=np.uint32)
    assert len(np.unique(point)) == len(point) == found.run.detector_type.frame_pixels
    assert point.max() < data["width"] * data["height"]
    for hit, packed in enumerate(data["photons"]):
        photons, good = read_hit(found.hit_file.path, hit)
        low, *high = unpacked(packed).reshape(-1, len(point))
        counts = low + (np.uint16(256) * high[0] if high else 0)
        np.testing.assert_array_equal(counts, np.where(good, photons, 0))
    # the strongest ones, where there are too many
    score = found.run.events.hitscore[rows]
    monkeypatch.setattr(hit_browser, "MOST_HITS", 3)
    monkeypatch.setattr(hit_browser, "MOST_BYTES", len(data["photons"][int(np.argmax(score))]) + 1)
    page = "".join(hit_browser.hit_browser(found))
    few = json.loads(re.search(r'id="hits">(.*?)</script>', page)[1])
    assert few["columns"]["hit"] == sorted(np.argsort(-score, kind="stable")[:3].tolist())
    assert [bool(packed) for packed in few["photons"]].count(True) == 1
    assert f"The 3 strongest of {len(rows)} hits. Images of the 1 strongest." in page


def test_the_browser_is_not_held_twice(done, monkeypatch):
    """Its photons are written piece by piece."""
    prefix = done[0].options.prefix
    found = read_run_files(Experiment(prefix, prefix / "scratch", 50))
    packed = dict.fromkeys(range(len(found.hit_file.rows)), b"A" * 3_000_000)
    monkeypatch.setattr(hit_browser, "pack_hits", lambda *_: packed)
    pieces = hit_browser.hit_browser(found)
    length = len(next(pieces))
    tracemalloc.start()
    try:
        length += sum(map(len, pieces))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(packed) > 3
    assert length > 4_000_000 * len(packed) > 1.4 * peak


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
def broken(*_):
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
    assert "WARNING: the run report could not be made: ZeroDivisionError: oh dear" in job.stderr
    assert (tmp_path / "out/events/r0050_events.h5").exists()
    assert not (tmp_path / "out/report/r0050.html").exists()


NO_HIT_BROWSER = """\
import sys
from xfelmpi import mpi
if mpi.all_ranks().rank == 0:
    sys.modules["xfelmpi.report.hit_browser"] = None
from xfelmpi.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_hit_browser_that_cannot_be_imported_harms_nothing(tmp_path):
    mock = tiny_run(tmp_path / "p007927", trains=1)
    script = tmp_path / "crash.py"
    script.write_text(NO_HIT_BROWSER)
    output = tmp_path / "out"
    job = run_python([script, 50, "--prefix", mock.options.prefix, "--output", output], 2)
    assert job.returncode == 0, job.stderr
    assert "WARNING: no hit browser of the run: ModuleNotFoundError: " in job.stderr
    assert (output / "report/r0050.html").exists()
    assert not (output / "report/r0050_hits.html").exists()


FAILING_PARTS = """\
import sys
from xfelmpi import mpi
from xfelmpi.report.page_parts import PARTS
if mpi.all_ranks().rank == 0:
    PARTS.update(dict.fromkeys(sys.argv[1].split(",")))
from xfelmpi.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("failing", ["sigmas", "hits", "sigmas,hits"])
def test_what_the_first_rank_cannot_make_the_page_makes_itself(tmp_path, failing):
    mock = tiny_run(tmp_path / "p007927", trains=2)
    script = tmp_path / "crash.py"
    script.write_text(FAILING_PARTS)
    output = tmp_path / "out"
    job = run_python([script, failing, 50, "--prefix", mock.options.prefix, "--output", output], 2)
    assert job.returncode == 0, job.stderr
    page = (output / "report/r0050.html").read_text()
    assert "<th>σ</th><th>hits</th>" in page
    assert "strongest hits</h2>" in page
    assert (output / "report/r0050_hits.html").exists()


def test_parts_that_another_rank_has_made_are_shown(done):
    prefix = done[0].options.prefix
    found = read_run_files(Experiment(prefix, prefix / "scratch", 50))
    parts = {"sigmas": [(4.5, 1234567, 89.0)], "hits": "<p>drawn elsewhere</p>"}
    page = run_page(found, parts.get)
    assert "<td>4.5</td><td>1,234,567</td>" in page
    assert "<p>drawn elsewhere</p>" in page
    assert "strongest hits</h2>" not in page


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
    assert [p.wait(300) for p in processes] == [0] * 8
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


@pytest.mark.parametrize(("trains", "expected"), [(1, 1), (50, 1), (51, 2), (3000, 100)])
@pytest.mark.quick
def test_binned_rate_against_loops(trains, expected):
    random = np.random.default_rng(trains)
    train = np.repeat(np.arange(trains, dtype=np.uint64), 7) + np.uint64(10**9)
    complete = random.random(len(train)) < 0.8
    complete[:3] = True
    hit = complete & (random.random(len(train)) < 0.2)
    found = curves.binned_rate(train, complete, hit)
    assert found.trains_per_bin == expected
    assert found.edges[[0, -1]].tolist() == [-0.5, trains - 0.5]
    number = (train - train[0]).astype(int)
    for i in {0, len(found.rate) // 2, len(found.rate) - 1}:
        here = (number > found.edges[i]) & (number < found.edges[i + 1])
        n, rate = complete[here].sum(), hit[here].sum() / complete[here].sum()
        assert found.rate[i] == rate
        # Wilson: the limits are the rates from which ours is one standard deviation away
        for limit in (found.low[i], found.high[i]):
            assert (rate - limit) ** 2 == pytest.approx(limit * (1 - limit) / n)
        assert 0 <= found.low[i] <= rate <= found.high[i] <= 1


@pytest.mark.quick
def test_curves_of_nothing():
    none = np.empty(0)
    curve = curves.over_trains(none.astype(np.uint64), none > 0, none > 0, none)
    assert len(curve.train) == 0
    binned = curves.binned_rate(none.astype(np.uint64), none > 0, none > 0)
    assert len(binned.rate) == 0
    assert len(binned.edges) == 2
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
def test_tiles_are_where_extra_geom_has_them():
    from extra_geom import AGIPD_1MGeometry

    quadrants = [(-525, 625), (-550, -10), (520, -160), (542.5, 475)]
    geometry = AGIPD_1MGeometry.from_quad_positions(quadrants)
    xyz = np.moveaxis(geometry.get_pixel_positions(), -1, 0).reshape(3, -1)
    numbers = np.arange(xyz.shape[1], dtype=float)
    theirs, centre = geometry.position_modules(numbers.reshape(AGIPD_1M.frame_shape))
    fine, beam = layout.lay_out(xyz, AGIPD_1M, 200e-6, 1)[0]
    ours = images.assemble(fine, numbers, np.ones(len(numbers))).values
    # as they show them: y up, x to the left
    np.testing.assert_array_equal(ours, theirs[::-1, ::-1])
    assert beam == (theirs.shape[0] - centre[0], theirs.shape[1] - centre[1])
    # two by two: no point is partly a gap, and all gaps of a module are alike
    coarse, beam = layout.lay_out(xyz, AGIPD_1M, 200e-6, 2)[0]
    assert set(np.unique(coarse.pixels)) == {0, 4}
    place = coarse.point.reshape(AGIPD_1M.frame_shape)
    for module in range(16):
        columns = np.unique(place[module] % coarse.shape[1])
        rows = np.unique(place[module] // coarse.shape[1])
        steps = np.diff(columns if len(columns) > len(rows) else rows)
        assert sorted(set(steps)) == [1, 2]
        assert (steps == 2).sum() == 7
    x = coarse.shape[1] - 0.5 - place % coarse.shape[1] - (coarse.shape[1] - beam[1])
    assert abs(x.reshape(-1) * coarse.size - xyz[0]).max() < coarse.size


@pytest.mark.quick
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_hits_are_shown_around_the_beam(xyz, shift):
    """As the enlarged powder is; all of them, if the beam misses the detector."""
    fine, beam = layout.lay_out(xyz, AGIPD_1M, 200e-6, 1)[0]
    raster, pixels, _ = detector_images._centre(fine, (beam[0] + shift * 5000, beam[1]))
    photons = np.arange(xyz.shape[1]) % 7
    good = np.ones(len(photons), bool)
    found = images.assemble_counts(raster, photons[pixels], good[pixels])
    expected = images.assemble_counts(fine, photons, good)
    if not shift:
        expected = powder_plots._around(expected, beam)
        assert found.values.shape == (256, 256)
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.bad, expected.bad)


@pytest.mark.parametrize("factor", [(30.0, 1), (1, 1.6)])
@pytest.mark.quick
def test_geometries_that_are_no_whole_tiles_are_binned_by_position(xyz, factor):
    strange = xyz * np.array([[factor[0]], [factor[1]], [1]])
    raster, beam = layout.lay_out(strange, AGIPD_1M, 200e-6, 2)[0]
    np.testing.assert_array_equal(raster.point, images.make_raster(strange, 2, 200e-6).point)
    assert raster.pixels.sum() == strange.shape[1]
    assert 0 < beam[1] < raster.shape[1]


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
    raster, _ = layout.lay_out(xyz, AGIPD_1M, 200e-6, 2)[0]
    sizes = []
    for shape in (raster.shape, (2 * powder_plots.CENTRE,) * 2):
        numbers = random.integers(0, 256, shape).astype(np.uint8)
        sizes.append(len(images.data_uri(images.grey_png(numbers))))
    assert 3 * sum(sizes) + _MOST_BYTES + len(template._bokeh()) < 4.8e6


@pytest.mark.quick
def test_values_come_back_from_the_levels():
    values = np.array([[np.nan, np.nan, 0.0], [1e-5, 0.3, 20.0]])
    bad = np.zeros(values.shape, bool)
    bad[0, 1] = True
    numbers, low, high = images.levels(images.Assembled(values, bad))
    assert numbers[0].tolist() == [images.GAP, images.BAD, images.LOWEST]
    # as `page.js` does
    again = low * (high / low) ** ((numbers[1] - 3.0) / 252)
    assert again == pytest.approx(values[1], rel=0.03)
    picture = Image.open(io.BytesIO(images.grey_png(numbers))).convert("RGBA")
    assert np.array_equal(np.asarray(picture)[..., 0], numbers)
    nothing = images.levels(images.Assembled(np.full((2, 2), np.nan), np.zeros((2, 2), bool)))
    assert nothing[0].tolist() == [[0, 0], [0, 0]]


# charts


@pytest.mark.parametrize(
    ("axis", "expected"),
    [(Axis("", 0, 10), [0, 2, 4, 6, 8, 10]), (Axis("", -0.5, 2.5, whole=True), [0, 1, 2])],
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
    assert axes.number(value) == text


def chart_of(series, y=None, **more) -> dict:
    """The document of a chart."""
    drawing = Charts()
    drawing.chart("t", Axis("x", 0, 6), y or Axis("y", 0, 2), series, **more)
    return json.loads(drawing.document().removesuffix("</script>").partition(">")[2])


def models(document: dict, kind: str) -> list[dict]:
    """All objects of a kind in a document of Bokeh."""
    found = []

    def look(value):
        if isinstance(value, dict):
            if value.get("type") == "object" and value.get("name") == kind:
                found.append(value)
            value = list(value.values())
        if isinstance(value, list):
            for inner in value:
                look(inner)

    look(document)
    return found


@pytest.mark.quick
def test_nothing_to_draw():
    none = np.empty(0)
    axis = axes.axis_around("y", np.array([np.nan]), log=True)
    found = chart_of([Series("a", none, none)], y=axis)
    assert len(models(found["document"], "Line")) == 1


@pytest.mark.quick
def test_bins_without_a_value_are_not_drawn_and_hide_no_others():
    """Every bin stands by itself, also one between bins of trains without complete frames."""
    rate = np.array([np.nan, 0.25, np.nan])
    steps = Series("r", np.arange(4.0), rate, "steps", "hit", rate - 0.1, rate + 0.1)
    document = chart_of([steps])["document"]
    assert len(models(document, "Segment")) == len(models(document, "Quad")) == 1
    assert not models(document, "VArea")


@pytest.mark.quick
def test_names_cannot_leave_their_place():
    x = np.arange(3.0)
    drawing = Charts()
    series = [Series("</script><i>", x, x)]
    text = drawing.chart("<b>", Axis("x&", 0, 2), Axis("y", 0, 2), series, caption="<s>")
    text += drawing.document()
    assert text.count("<script") == text.count("</script>") == 1
    assert "<b><b>" not in text
    assert "<i>" not in text
    assert "<s>" not in text


@pytest.mark.quick
def test_series_and_thresholds_can_be_switched_off_and_are_named_with_numbers():
    x = np.arange(3.0)
    found = chart_of(
        [Series("one", x, x), Series("bars", np.arange(4.0), x, "area")],
        marks=(Mark(1.25, "σ 3"), Mark(1.5, "σ 4")),
    )
    (legend,) = models(found["document"], "Legend")
    assert legend["attributes"]["click_policy"] == "hide"
    labels = [item["attributes"]["label"]["value"] for item in models(legend, "LegendItem")]
    assert labels == ["one", "bars", "σ 3: 1.25", "σ 4: 1.5"]


@pytest.mark.quick
def test_charts_with_the_same_link_move_together():
    x = np.arange(3.0)
    drawing = Charts()
    for link in ("train", "train", "", ""):
        drawing.chart("t", Axis("x", 0, 2), Axis("y", 0, 2), [Series("s", x, x)], link=link)
    found = json.loads(drawing.document().removesuffix("</script>").partition(">")[2])
    ranges = [root["attributes"]["x_range"]["id"] for root in found["document"]["roots"]]
    assert ranges[0] == ranges[1]
    assert len(set(ranges)) == 3


def test_importing_the_program_does_not_import_the_page():
    code = "import sys, xfelmpi.workflows.process;"
    code += " print([m for m in sys.modules if 'xfelmpi.report' in m]);"
    code += " print('bokeh' in sys.modules)"
    assert run_python(["-c", code]).stdout.split() == ["[]", "False"]
    assert Path(charts.__file__).with_name("page.css").exists()


def test_bokeh_itself_reads_the_charts_of_a_page(done):
    """It checks the names and values of all properties; the page is made without it."""
    from bokeh.document import Document
    from bokeh.models import BoxZoomTool, ColumnDataSource, HoverTool

    html = (done[0].options.prefix / "scratch/report/r0050.html").read_text()
    text = re.search('<script type="application/json" id="charts">(.*?)</script>', html, re.S)[1]
    found = json.loads(text)
    document = Document.from_json(found["document"])
    assert {root.id for root in document.roots} == set(found["roots"])
    for plot in document.roots:
        assert isinstance(plot.toolbar.active_drag, BoxZoomTool)
        hovers = list(plot.select({"type": HoverTool}))
        assert hovers
        assert all(hover.renderers[0] in plot.renderers for hover in hovers)
    assert all(
        len({len(column) for column in data.data.values()}) == 1
        for data in document.select({"type": ColumnDataSource})
    )


def test_making_a_page_does_not_import_bokeh(done):
    """Its classes take 0.4 s to import, and a second to draw the charts."""
    prefix = str(done[0].options.prefix)
    code = "import sys, pathlib; from xfelmpi.core.paths import Experiment;"
    code += "from xfelmpi.report import run_files, run_page; p = pathlib.Path(sys.argv[1]);"
    code += "found = run_files.read_run_files(Experiment(p, p / 'scratch', 50));"
    code += "print(len(run_page.run_page(found)) > 1e6, 'bokeh.models' in sys.modules)"
    assert run_python(["-c", code, prefix]).stdout.split() == ["True", "False"]
