"""What Python programs read of a processed run is what its files hold."""

import io
import json
import re
from dataclasses import replace

import h5py
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from docpages import ROOT
from launch import call_xfelmpi
from mockrun import tiny_run

import xfelmpi
from xfelmpi.api.hits import Hits, HitSource
from xfelmpi.core.errors import InputError, UsageError

mpl.use("agg")
mpl.rcParams["figure.max_open_warning"] = 0

pytestmark = pytest.mark.slow

DETECTOR = "entry_1/instrument_1/detector_1"


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """A processed run with masks, and its hits merged."""
    folder = tmp_path_factory.mktemp("api") / "p007927"
    options = {"with_mask": True, "masked_pixels": 0.02, "hit_rate": 0.4, "missing": ((3, 1),)}
    mock = tiny_run(folder, trains=4, cells=tuple(range(8)), **options)
    geometry = ["--geometry", mock.paths.geometry]
    for args in (
        [50, *geometry, "--no-report", "--analyse", "radius"],
        ["merge", 50, "--where", "hit_sigma > 6"],
    ):
        done = call_xfelmpi([*args, "--prefix", folder])
        assert done.returncode in (0, 3), done.stderr
    return folder


@pytest.fixture(scope="module")
def run(prefix):
    with xfelmpi.open_run(50, prefix=prefix) as run:
        yield run


@pytest.fixture(scope="module")
def cxi(prefix):
    with h5py.File(prefix / "scratch/saved_hits/r0050_hits.cxi") as file:
        yield file


def test_events_are_those_of_the_file(prefix, run):
    with h5py.File(prefix / "scratch/events/r0050_events.h5") as file:
        names = [name for name, item in file.items() if getattr(item, "ndim", 0) == 1]
        names.remove("problems")
        assert set(run.events.columns) == set(names)
        for name in names:
            np.testing.assert_array_equal(run.events[name], file[name][()], name)
    assert isinstance(run.events, pd.DataFrame)
    assert run.events.index.name == "vds_index"
    assert run.events.attrs["units"]["pulse_energy"] == "J"


def test_columns_are_read_when_they_are_used(run):
    values = run.events["hitscore"].to_numpy()
    while values.base is not None and not isinstance(values, np.memmap):
        values = values.base
    assert isinstance(values, np.memmap)


def test_both_spellings_of_the_events(run):
    events = run.events
    np.testing.assert_array_equal(events["hit_score"], events["hitscore"])
    np.testing.assert_array_equal(events.lit_pixels, events.litpixels)
    assert list(events[["train_id", "photons"]].columns) == ["trainId", "photons"]
    assert isinstance(events[events.hit_score > 0], pd.DataFrame)
    with pytest.raises(AttributeError):
        events.no_such_column  # noqa: B018
    with pytest.raises(KeyError):
        events["no_such_column"]


def test_xarray(run):
    found = run.to_xarray()
    assert dict(found.sizes) == {"frame": len(run.events)}
    assert set(found.coords) == {"trainId", "pulseId", "cellId"}
    assert found["pulse_energy"].attrs == {"units": "J"}
    np.testing.assert_array_equal(found["photons"], run.events["photons"])
    assert found.attrs["run"] == 50


def test_hit_is_that_of_the_file(run, cxi):
    assert len(run.hits) == len(cxi[f"{DETECTOR}/data"]) > 5
    for number in (0, 3, -1):
        hit = run.hits[number]
        data, mask = (cxi[f"{DETECTOR}/{name}"][number] for name in ("data", "mask"))
        np.testing.assert_array_equal(hit.data, data)
        assert hit.mask.dtype == bool
        np.testing.assert_array_equal(hit.mask, mask == 0)
        assert 0 < (~hit.mask).sum() < hit.mask.size / 10
        image = hit.image()
        assert image.dtype == np.float32
        np.testing.assert_array_equal(np.isnan(image), mask != 0)
        np.testing.assert_array_equal(image[hit.mask], data[mask == 0])
        coords, counts, shape = hit.coo()
        dense = np.zeros(shape, data.dtype)
        dense[tuple(coords)] = counts
        np.testing.assert_array_equal(dense, np.where(mask == 0, data, 0))
        assert hit.photons == hit.photon_counts == counts.sum()
        assert hit.train_id == hit.trainId == cxi["entry_1/trainId"][number]
        assert hit.photon_radius == cxi["entry_1/instrument_1/photon_radius"][number]


def test_assembled_is_what_extra_geom_makes(prefix, run):
    from extra_geom import AGIPD_1MGeometry

    geometry = AGIPD_1MGeometry.from_crystfel_geom(prefix / "scratch/det/agipd.geom")
    for hit in (run.hits[0], run.hits[2]):
        expected, _ = geometry.position_modules(hit.image())
        found = hit.assembled()
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    powder = run.powder("hits")
    expected, _ = geometry.position_modules(powder.image())
    np.testing.assert_array_equal(powder.assembled(), expected)


def test_photons_in_a_bad_pixel_are_not_shown(run):
    hit = run.hits[0]
    number = run.hits._source.frames.mask_number(hit.number)
    photons = np.where(hit.mask, 0, 7).astype(np.uint8)
    image = run.hits._source.assembler.photons(photons, hit.mask, number)
    assert np.nansum(image) == 0


def test_sequence_of_hits(run):
    hits = run.hits
    assert [hit.number for hit in hits[2:5]] == [2, 3, 4]
    chosen = hits[hits.photons > np.median(hits.photons)]
    assert 0 < len(chosen) < len(hits)
    assert [hit.number for hit in chosen[[1, 0]]] == [chosen[1].number, chosen[0].number]
    with pytest.raises(IndexError):
        hits[len(hits)]
    table = hits.table
    assert list(table.index) == list(range(len(hits)))
    for name in ("hit_score", "hitscore", "photons", "photon_counts", "train_id"):
        np.testing.assert_array_equal(table[name], getattr(hits, name), name)
    assert len(list(hits[:3].assembled())) == 3


def test_conditions(run):
    hits = run.hits
    median = float(np.median(hits.photons))
    for name in ("photons", "photon_counts"):
        found = hits.where(f"{name} > {median} and hit_sigma > 1")
        assert [hit.number for hit in found] == list(np.flatnonzero(hits.photons > median))
    assert len(hits.where("pulse_energy > 1 uJ")) == len(hits)
    assert len(hits.where("photon_energy > 100 keV")) == 0
    assert len(hits.where("photons > 0").where("photon_radius < 1 nm")) == 0
    with pytest.raises(UsageError, match=r"^where 'photos > 1': .*did you mean photons"):
        hits.where("photos > 1")
    with pytest.raises(UsageError, match="pulse_energy is in J, 5 nm is not"):
        hits.where("pulse_energy > 5 nm")


def test_whole_numbers_in_conditions_do_not_wrap():
    """An unknown pulseId is 2⁶⁴-1: no small number, and none below 0."""
    pulse = np.array([3, 2**64 - 1, 40, 4], np.uint64)
    columns = {"trainId": np.arange(4, dtype=np.uint64), "pulseId": pulse}
    hits = Hits(HitSource(None, columns, {}, None, "run 50"), np.arange(4))

    def found(condition):
        return [hit.number for hit in hits.where(condition)]

    assert found("pulseId < 10") == [0, 3]
    assert found(f"pulseId == {2**64 - 1}") == [1]
    assert found("pulseId - 5 < 0 and trainId - 1 < 0") == [0]


def test_no_hits_of_a_list(run):
    assert len(run.hits[[]]) == 0


def ten_hits():
    columns = {"trainId": np.arange(20, dtype=np.uint64)}
    return Hits(HitSource(None, columns, {}, None, "run 50"), np.arange(10, 20))


@pytest.mark.parametrize(
    ("which", "right"),
    [
        (3, 13),
        (-1, 19),
        (-10, 10),
        (np.uint8(9), 19),
        (np.int64(-2), 18),
        (np.array(4), 14),
        (slice(None, None, 4), [10, 14, 18]),
        (slice(None, None, -4), [19, 15, 11]),
        (slice(-2, None), [18, 19]),
        (slice(5, 100), [15, 16, 17, 18, 19]),
        (slice(100, 5), []),
        ([0, -1, 0], [10, 19, 10]),
        ((2, 1), [12, 11]),
        (range(2), [10, 11]),
        (np.array([9, 0], np.uint64), [19, 10]),
        (np.zeros(0), []),
        ([False] * 9 + [True], [19]),
        (pd.Series([True] * 2 + [False] * 8), [10, 11]),
    ],
)
def test_places_of_hits(which, right):
    found = ten_hits()[which]
    numbers = [hit.number for hit in found] if isinstance(right, list) else found.number
    assert numbers == right


@pytest.mark.parametrize(
    "which",
    [
        *(True, False, np.True_, 1.5, np.float64(2), "photons", b"x", None, ..., {1, 2}, 10**30),
        *([True], np.ones((10, 1), bool), [[0, 1]], [[0], [1, 2]], [1.0], [1, "x"], iter([1])),
        ten_hits(),
    ],
)
def test_what_are_no_places(which):
    """hits[True] ended with a TypeError of numpy's, and hits[np.True_] was all hits."""
    with pytest.raises(UsageError, match=r"hits\[...\]: found .* bool for each of 10 hits"):
        ten_hits()[which]


@pytest.mark.parametrize("which", [10, -11, [3, 10], np.uint64(2**64 - 1)])
def test_places_past_the_end(which):
    with pytest.raises(IndexError, match=r"no hit (10|-11|1844\d+): expected -10 … 9"):
        ten_hits()[which]
    with pytest.raises(IndexError, match="there are none"):
        ten_hits()[:0][which]


@pytest.mark.parametrize("condition", [5, None, b"photons > 5", np.ones(10, bool)])
def test_what_is_no_condition(condition):
    with pytest.raises(UsageError, match=r"expected a text, e\.g\. 'hit_sigma > 8'"):
        ten_hits().where(condition)


def test_names_that_are_not_there(run):
    with pytest.raises(AttributeError, match="did you mean photons"):
        run.hits[0].photos  # noqa: B018
    assert "train_id" in dir(run.hits[0])
    assert not hasattr(run.hits, "diameters")


def test_powder_and_profile(prefix, run):
    with h5py.File(prefix / "scratch/powder/r0050_powder.h5") as file:
        for which, end in (("all", ""), ("hits", "_hits"), ("misses", "_misses")):
            powder = run.powder(which)
            np.testing.assert_array_equal(powder.data, file[f"powder{end}"][()])
            np.testing.assert_array_equal(powder.frames, file[f"good_frames{end}"][()])
    image = powder.image()
    np.testing.assert_array_equal(np.isnan(image), ~powder.mask)
    profile = run.radial_profile("hits", bins=50)
    assert list(profile.columns) == ["radius", "q", "photons"]
    assert (np.diff(profile["q"]) > 0).all()
    # particles scatter forward
    assert profile["photons"][:5].mean() > 5 * profile["photons"][-20:].mean()
    with pytest.raises(UsageError, match="there are all, hits"):
        run.powder("hit")
    for bins in (0, 2.5, "x", None, True):
        with pytest.raises(UsageError, match=f"bins is {bins!r}, expected a whole number, 1 or mo"):
            run.radial_profile(bins=bins)
    with pytest.raises(UsageError, match="there are all, hits"):
        run.powder(["hits"])


def test_rethreshold_writes_nothing(prefix, run):
    before = sorted((p, p.stat().st_mtime_ns) for p in prefix.rglob("*"))
    same = run.rethreshold()
    np.testing.assert_array_equal(same.is_hit, run.events["is_hit"])
    fewer = run.rethreshold(sigma=20, decide="window")
    assert 0 <= fewer.n_hits <= same.n_hits
    assert fewer.threshold > same.threshold
    fixed = run.rethreshold(decide="fixed", fixed_threshold=float(np.median(run.hits.hit_score)))
    assert 0 < fixed.n_hits < same.n_hits
    assert fixed.hit_rate == fixed.n_hits / fixed.n_complete
    assert sorted((p, p.stat().st_mtime_ns) for p in prefix.rglob("*")) == before


def test_hit_rate_is_of_frames_with_light(prefix):
    """As in the run report and the table of --dry-run: a frame without a pulse cannot be a hit."""
    run = xfelmpi.open_run(50, prefix=prefix)
    events = run._finished.events
    n_pulses = np.where(events.is_hit | (events.cellId % 2 == 1), 1, 0).astype(np.uint8)
    finished = replace(run._finished, events=replace(events, n_pulses=n_pulses))
    run.__dict__["_finished"] = finished
    searched = finished.complete & (n_pulses > 0)
    assert 0 < searched.sum() < finished.complete.sum()
    found = run.rethreshold()
    assert found.n_complete == searched.sum()
    assert found.hit_rate == found.n_hits / searched.sum()
    drawn = run.plot_hit_rate().lines[0].get_ydata()
    for train, shown in zip(np.unique(events.trainId), drawn, strict=True):
        of_train = searched & (events.trainId == train)
        if of_train.any():
            assert shown == pytest.approx(100 * events.is_hit[of_train].mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigam": 5}, "no setting sigam; did you mean sigma?"),
        ({"decide": "windw"}, "did you mean window?"),
        ({"photon_threshold": 0.5}, "would change the scores"),
        ({"sigma": "many"}, "sigma"),
        ({"trains": "x"}, "trains"),
        ({"sigma": [5]}, "sigma: found [5], expected float"),
        ({"sigma": None}, "sigma: found None, expected float"),
        ({"sigma": True}, "sigma: found True, expected float"),
        ({"sigma": np.array([5, 6])}, "sigma: found array([5, 6]), expected float"),
        ({"trains": (5,)}, "trains: found (5,), expected tuple[int | None, int | None]"),
        ({"min_scores": 1.5}, "min_scores: found 1.5, expected int"),
        ({"decide": []}, "decide: found [], expected str"),
        ({"with_misses": "no"}, "with_misses: found 'no', expected bool"),
        ({"max_score": np.True_}, "max_score: found np.True_, expected float | None"),
        ({"exclude_cells": -1}, "exclude_cells: '-1' names no cells"),
        # these cells were not excluded, without a word
        ({"exclude_cells": {1}}, "exclude_cells: found {1}, expected tuple[int, ...]"),
        ({"exclude_cells": [1.5]}, "exclude_cells: found [1.5], expected tuple[int, ...]"),
    ],
)
def test_settings_that_are_refused(run, options, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        run.rethreshold(**options)


@pytest.mark.parametrize("cells", [5, "5", (5,), [5], np.int64(5), np.array([5]), range(5, 6)])
def test_a_single_cell(run, cells):
    assert run.rethreshold(exclude_cells=cells).settings.exclude_cells == (5,)


@pytest.mark.parametrize("which", [[], None, 50.0, [50, "x"], "", b"50", True, np.array(50)])
def test_what_is_no_run(prefix, which):
    with pytest.raises(UsageError, match=r"expected (a run number|e\.g\. 50)"):
        xfelmpi.open_run(which, prefix=prefix)


@pytest.mark.parametrize("name", ["prefix", "output"])
def test_what_is_no_folder(name):
    with pytest.raises(UsageError, match=f"{name}: found 5, expected a folder"):
        xfelmpi.open_run(50, **{name: 5})


def test_hit_of_a_closed_run(prefix):
    with xfelmpi.open_run(50, prefix=prefix) as run:
        hit = run.hits[0]
    with pytest.raises(InputError, match="the file has been closed; open the run again"):
        hit.data  # noqa: B018


def test_settings_problems_verdicts(run):
    assert run.settings["run"] == 50
    assert run.settings["analyse"] == ("radius",)
    assert any(problem.module == 3 for problem in run.problems)
    assert set(run.verdicts) >= {"beam", "sample", "hits", "detector"}
    assert run.verdicts["beam"].state == "good"


def test_plots(run):
    for axes in (run.plot_scores(), run.plot_hit_rate(), run.powder().plot()):
        assert axes.has_data()
    figure = run.hits.plot(range(3))
    assert sum(ax.has_data() for ax in figure.axes) == 3
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")
    assert run.hits[:0].plot().axes
    assert len(run.hits.plot(0).axes) == 1
    for which in ([1.5], None):
        with pytest.raises(UsageError, match=r"found array\(.*\), expected a place"):
            run.hits.plot(which)


def test_what_a_notebook_shows(run):
    for shown in (run, run.hits, run.hits[0], run.powder(), run.verdicts):
        text = shown._repr_html_()
        assert text.startswith("<")
        assert text.count("<table") == text.count("</table>")
    assert "data:image/png;base64," in run.hits[0]._repr_html_()
    assert "Is the beam on?" in run._repr_html_()
    assert repr(run).startswith("<run 50: 32 frames")


def test_merged_runs(prefix):
    for which in ("r0050-r0050", [50]):
        with xfelmpi.open_run(which, prefix=prefix) as merged:
            assert merged.runs == (50,)
            assert merged.where == "hit_sigma > 6"
            assert (merged.hits.hit_sigma > 6).all()
            assert set(merged.hits.run) == {50}
            hit = merged.hits[0]
            assert hit.assembled().ndim == 2
            assert len(merged.hits.where("run == 50 and train_id > 0")) == len(merged.hits)
            assert "hits of the runs 50" in repr(merged)
            assert merged._repr_html_().startswith("<")


def test_experiment_folder(prefix, monkeypatch):
    monkeypatch.setenv("EXP_PREFIX", str(prefix))
    for name in (50, "50", "r0050"):
        assert xfelmpi.open_run(name).number == 50
    assert xfelmpi.open_run(50, output=prefix / "scratch").number == 50
    monkeypatch.delenv("EXP_PREFIX")
    with pytest.raises(UsageError, match="EXP_PREFIX"):
        xfelmpi.open_run(50)
    with pytest.raises(InputError, match="process the run first"):
        xfelmpi.open_run(51, prefix=prefix)
    with pytest.raises(InputError, match="no such file"):
        xfelmpi.open_run("r0050-r0052", prefix=prefix)


def test_notebook_runs(prefix, monkeypatch):
    """Every cell in order, in a namespace of its own."""
    monkeypatch.setenv("EXP_PREFIX", str(prefix))
    notebook = json.loads((ROOT / "docs/notebooks/open_run.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert len(cells) > 8
    namespace = {}
    for number, source in enumerate(cells):
        exec(compile(source, f"cell {number}", "exec"), namespace)
    assert len(namespace["strong"]) > 0
