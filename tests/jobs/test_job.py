"""The main job as a whole, started as users start it, on runs with known ground truth."""

import re
from dataclasses import dataclass, field, replace
from itertools import product

import h5py
import numpy as np
import pytest
from checks import check_outputs, problems, without_energies, without_unwritten
from compare import assert_same_outputs
from expected import FRAME_SHAPE, Expected
from extra_data.components import AGIPD1M
from extra_data.tests.make_examples import (
    make_modern_spb_proc_run,
    make_reduced_spb_run,
    make_spb_run,
)
from extradata import RunDirectory
from launch import all_files, call_xfelmpi, process, run_xfelmpi
from mockrun import allocate_frames, tiny_run, write_mask
from runnames import images_of

from xfelmpi.core.paths import Experiment

RANKS = (1, 2, 3, 5)
PROPOSAL = "p007927"
"""Name of the experiment folder, with a proposal number."""


@dataclass(frozen=True)
class Case:
    """A run to simulate, options to process it with, and what to expect.

    Without a `page` if another case has the same kind of outputs: only of these it is made. On
    several `ranks` if more than the run's files is odd: `masked` has all that is odd in those.
    """

    simulate: dict = field(default_factory=dict)
    options: tuple = ()
    expect: dict = field(default_factory=dict)
    ranks: int = 0
    status: int = 0
    named: tuple[str, ...] = ()
    hits: bool = True
    page: bool = True


def modules_region(*modules):
    """Return the pixels of some modules, bool (16, 512, 128)."""
    region = np.zeros(FRAME_SHAPE, bool)
    region[list(modules)] = True
    return region


CASES = {
    "u2": Case({"dtype": "u2", "hit_photons": (2e6, 4e6), "seed": 3}),
    "with misses, their own type": Case(
        {"dtype": "u2", "hit_photons": (2e6, 4e6), "seed": 3, "cells": (0, 5, 9)},
        ("--with-misses", "--miss-fraction", "3"),
        {"with_misses": True, "miss_fraction": 3},
        ranks=2,
    ),
    "u2 faint": Case({"dtype": "u2", "hit_rate": 0.2}, page=False),
    "u1 cut at 255": Case({"hit_photons": (2e6, 4e6), "seed": 3}),
    "f4": Case({"dtype": "f4", "compression": "none"}, page=False),
    "f4 in ADU, gzip": Case(
        {"dtype": "f4", "adu_per_photon": 55.0, "chunk_frames": 4, "trains": 2},
        ("--adu-per-photon", "55"),
    ),
    "plain": Case({"compression": "none"}),
    "chunks of 4": Case({"chunk_frames": 4, "veto": 0.2, "seed": 12}, page=False),
    "contiguous": Case({"compression": "none", "chunk_frames": 0}, page=False),
    "contiguous u2": Case({"compression": "none", "chunk_frames": 0, "dtype": "u2"}, page=False),
    "legacy, with mask": Case({"layout": "legacy", "with_mask": True}),
    "veto and reordered cells": Case(
        {"veto": 0.4, "reorder_cells": True, "cells": tuple(range(1, 24, 2)), "pulse_step": 4}
    ),
    "ragged files": Case(
        {"trains": 7, "cells": (3, 4, 8), "sequence_length": 3, "ragged_sequences": True}
    ),
    "missing trains": Case(
        {"trains": 5, "missing": ((3, 0), (3, 1), (15, 4)), "missing_style": "gone"},
        status=3,
        named=("module 3 train 1500000000: module lacks 2 trains: 1500000000 … 1500000001",
               "module 15 train 1500000004: module lacks 1 train: 1500000004"),
    ),
    "missing trains, listed": Case(
        {"trains": 3, "missing": ((0, 1),), "missing_style": "empty"},
        status=3,
        named=("module 0 train 1500000001: module lacks 1 train: 1500000001",),
        page=False,
    ),
    "absent module": Case(
        {"absent_modules": (15,), "dtype": "u2", "hit_photons": (2e6, 4e6), "seed": 3},
        status=3,
        named=("module 15: module has no frames in the whole run",),
    ),
    "score photons": Case({}, ("--score", "photons"), {"score": "photons"}),
    "statistics of the run": Case(
        {"trains": 4, "cells": tuple(range(20)), "background": 30.0, "hit_photons": (50.0, 3e3)},
        ("--decide", "run", "--sigma", "1.5", "--miss-fraction", "2.5"),
        {"decide": "run", "sigma": 1.5, "miss_fraction": 2.5},
        ranks=3,
    ),
    "statistics of a window": Case(
        {"trains": 7, "cells": tuple(range(6)), "hit_photons": (50.0, 3e3), "missing": ((4, 2),)},
        ("--decide", "window", "--min-scores", "19", "--sigma-floor", "none", "--sigma", "1.5"),
        {"decide": "window", "min_scores": 19, "sigma_floor": "none", "sigma": 1.5},
        ranks=3,
        status=3,
        named=("module 4 train 1500000002: module lacks 1 train: 1500000002",),
    ),
    "scores by pulse energy": Case(
        {"trains": 6, "cells": tuple(range(5)), "pulse_jitter": 0.2},
        ("--normalise", "pulse-energy", "--min-pulse-energy", "1.6mJ", "--min-scores", "14",
         "--decide", "window", "--width", "iqr", "--sigma", "1", "--exclude-cells", "3"),
        {"normalise": "pulse-energy", "min_pulse_energy": 1.6e-3, "min_scores": 14,
         "decide": "window", "width": "iqr", "sigma": 1, "excluded": (3,)},
        ranks=2,
    ),
    "range of scores, cells, misses of misses": Case(
        {"trains": 4, "cells": tuple(range(12))},
        ("--max-score", "9000", "--min-score", "300", "--first-cell", "2", "--exclude-cells",
         "4,7-8", "--miss-base", "misses", "--miss-fraction", "0.3", "--sigma", "1"),
        {"max_score": 9000, "min_score": 300, "excluded": (0, 1, 4, 7, 8), "sigma": 1,
         "miss_base": "misses", "miss_fraction": 0.3},
    ),
    "sigma": Case({}, ("--sigma", "-0.5"), {"sigma": -0.5}),
    "fixed threshold": Case(
        {},
        ("--decide", "fixed", "--fixed-threshold", "2500.5"),
        {"decide": "fixed", "fixed_threshold": 2500.5},
    ),
    "no misses": Case({}, ("--miss-fraction", "0"), {"miss_fraction": 0.0}),
    "only hits": Case(
        {"trains": 2, "cells": (0, 1)},
        ("--decide", "fixed", "--fixed-threshold", "0"),
        {"decide": "fixed", "fixed_threshold": 0.0},
    ),
    "no hits": Case({"hit_rate": 0.0}, ("--with-misses",), {"with_misses": True}, hits=False),
    "one frame": Case({"trains": 1, "cells": (7,)}, hits=False, ranks=2),
    "trains by position": Case(
        {"trains": 5}, ("--trains", "1:3"), {"rows": (6, 18)}
    ),
    "hit modules": Case(
        {},
        ("--hit-modules", "3", "4", "8", "15"),
        {"region": modules_region(3, 4, 8, 15)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_the_truth(name, tmp_path):
    case = CASES[name]
    mock = tiny_run(tmp_path / PROPOSAL, **case.simulate)
    output = tmp_path / "out"
    # a page of every kind of outputs
    how = {"ranks": case.ranks, "status": case.status, "page": case.page}
    done = process(mock, output, *case.options, **how)
    expected = Expected(mock, **case.expect)
    assert expected.is_hit.any() == case.hits, "the case does not test what it should"
    check_outputs(output, expected)
    found = [
        " ".join(filter(None, [f"module {m}" * (m >= 0), f"train {t}" * (t > 0)])) + f": {what}"
        for what, _, m, t, _ in problems(output)
    ]
    assert sorted(found) == sorted(case.named)
    for line in case.named:
        assert line in done.stdout
    trains = np.unique(expected.column("trainId"))
    assert re.search(rf"^frames +{len(expected)} +in {len(trains)} trains$", done.stdout, re.M)


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """A run with everything at once, masks of all kinds, and its answer."""
    folder = tmp_path_factory.mktemp("masked")
    mock = tiny_run(
        folder / PROPOSAL,
        trains=5,
        veto=0.1,
        reorder_cells=True,
        sequence_length=3,
        ragged_sequences=True,
        missing=((2, 3),),
        absent_modules=(9,),
        chunk_frames=2,
        hit_rate=0.4,
    )
    rng = np.random.default_rng(5)
    cells = np.array([4, 0, 1, 3, 2])  # cell 5 has no mask of its own
    per_cell = rng.random((5, *FRAME_SHAPE), np.float32) < 0.8
    per_cell[:, 0, :, :64] = False
    overall = rng.random(FRAME_SHAPE, np.float32) < 0.9
    region = rng.random(FRAME_SHAPE, np.float32) < 0.3
    region[8:] = False
    options = (
        ("--cell-mask", write_mask(folder / "cells.h5", per_cell, cells)),
        ("--global-mask", write_mask(folder / "all.h5", overall.astype(np.uint8))),
        ("--hit-mask", write_mask(folder / "region.h5", region)),
    )
    good = {int(c): overall & m for c, m in zip(cells, per_cell, strict=True)} | {5: overall}
    expected = Expected(mock, good=good, region=region, with_misses=True)
    assert expected.is_hit.any()
    return mock, (*sum(options, ()), "--with-misses"), expected


@pytest.fixture(scope="module")
def masked_outputs(masked, tmp_path_factory):
    """The outputs of that run, by number of ranks; 0 is without mpirun."""
    mock, options, _ = masked
    folder = tmp_path_factory.mktemp("ranks")
    for ranks in (0, *RANKS):
        process(mock, folder / str(ranks), *options, ranks=ranks, status=3)
    return folder


def test_masks_of_all_kinds(masked, masked_outputs):
    check_outputs(masked_outputs / "0", masked[2])
    named = [(what, module, train) for what, _, module, train, _ in problems(masked_outputs / "0")]
    assert named == [
        ("mask lacks 1 of the run's cells, e.g. cell 5", -1, 0),
        ("module has no frames in the whole run", 9, 0),
        ("module lacks 1 train: 1500000003", 2, 1500000003),
    ]


def test_scores_by_unmasked_pixels(masked, tmp_path):
    """Cells with more masked pixels in the region do not score less for it."""
    mock, options, plain = masked
    unmasked = ("--normalise", "unmasked", "--decide", "run", "--sigma-floor", "none")
    process(mock, tmp_path, *options, *unmasked, status=3)
    settings = {"normalise": "unmasked", "decide": "run", "sigma_floor": "none"}
    expected = replace(plain, **settings, _frames=plain._frames)
    assert (expected.sums["score"] > plain.sums["score"]).any()
    check_outputs(tmp_path, expected)


@pytest.mark.parametrize("ranks", RANKS)
def test_any_number_of_ranks_gives_the_same(masked_outputs, ranks):
    assert_same_outputs(masked_outputs / "0", masked_outputs / str(ranks))


def test_outputs_are_readable_for_everybody(masked_outputs):
    for name in all_files(masked_outputs / "2"):
        assert (masked_outputs / "2" / name).stat().st_mode & 0o444 == 0o444, name


def test_more_ranks_than_trains(tmp_path):
    mock = tiny_run(tmp_path / PROPOSAL, trains=1, cells=(0, 1, 2, 3))
    process(mock, tmp_path / "out", ranks=2)
    check_outputs(tmp_path / "out", Expected(mock))


def test_hits_that_do_not_fit_are_read_again(tmp_path):
    """Too little memory for the hits, and for the lists of a train's frames."""
    mock = tiny_run(tmp_path / PROPOSAL, trains=2, cells=tuple(range(9)), background=30000.0)
    always = ("--decide", "fixed", "--fixed-threshold", "0")
    process(mock, tmp_path / "small", *always, "--memory-per-rank", "256M", ranks=1)
    process(mock, tmp_path / "large", *always, "--memory-per-rank", "2G")
    expected = Expected(mock, decide="fixed", fixed_threshold=0.0)
    entries = int(expected.sums["lit"].sum())
    assert entries * 6 > 28 << 20, "the hits would fit"
    assert expected.sums["lit"][:9].sum() * 6 > 14 << 20, "the frames of a train would fit"
    check_outputs(tmp_path / "small", expected)
    assert_same_outputs(tmp_path / "small", tmp_path / "large")


def test_without_hits_an_old_emc_file_goes(tmp_path):
    mock = tiny_run(tmp_path / PROPOSAL, trains=1)
    output = tmp_path / "out"
    process(mock, output)
    assert (output / "emc" / "r0050.emc").exists()
    done = process(mock, output, "--decide", "fixed", "--fixed-threshold", "1e9")
    assert "r0050.emc" not in done.stdout.partition("files written")[2]
    check_outputs(output, Expected(mock, decide="fixed", fixed_threshold=1e9))
    with h5py.File(output / "saved_hits" / "r0050_hits.cxi") as file:
        assert file["entry_1/data_1/data"].shape == (0, *FRAME_SHAPE)


def test_a_second_run_replaces_the_first(tmp_path):
    mock = tiny_run(tmp_path / PROPOSAL, trains=1)
    process(mock, tmp_path / "out", "--sigma", "-3")
    process(mock, tmp_path / "out")
    check_outputs(tmp_path / "out", Expected(mock))


def test_leftovers_of_a_killed_job_do_no_harm(tmp_path):
    mock = tiny_run(tmp_path / PROPOSAL, trains=1)
    here = Experiment(mock.options.prefix, tmp_path / "out", 50)
    for path in (here.events, here.powder, here.cxi, here.emc, here.dragonfly_detector):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name + ".part").write_bytes(bytes(8 << 20))
    process(mock, tmp_path / "out", ranks=2)
    check_outputs(tmp_path / "out", Expected(mock))


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_values_that_are_no_photons(tmp_path, compression):
    """NaN, infinities and numbers too large are bad pixels of their frame; below 0 is no photon."""
    mock = tiny_run(tmp_path / PROPOSAL, trains=2, dtype="f4", compression=compression, seed=12)
    rng = np.random.default_rng(8)
    good = dict.fromkeys(range(6), rng.random(FRAME_SHAPE, np.float32) < 0.8)
    values = np.array([np.nan, np.inf, -np.inf, 65536.0, 3e38, -3e38, -7.0], np.float32)
    bad = {}
    for module in (0, 9, 15):
        (path,) = mock.paths.proc.glob(f"*AGIPD{module:02d}*")
        with h5py.File(path, "r+") as file:
            images = file[f"{images_of(module)}/data"]
            for row in range(0, len(mock), 2):
                image = images[row]
                where = rng.integers(0, 4, image.shape) == 0
                chosen = rng.choice(values, image.shape)
                mock.truth["count"][pixels_of(mock, row, module, where & (chosen < 0))] = 0
                images[row] = np.where(where, chosen, image)
                bad.setdefault(row, np.zeros(FRAME_SHAPE, bool))[module] = where & ~(
                    (chosen < 0) & (chosen > -np.inf)
                )
    mask = write_mask(tmp_path / "m.h5", good[0])
    process(mock, tmp_path / "out", "--global-mask", mask, status=3, page=True)
    expected = Expected(mock, good=good, bad=bad)
    found = problems(tmp_path / "out")
    for module, train in product((0, 9, 15), (0, 1)):
        rows = [row for row in bad if row // 6 == train]
        pixels = sum(int((bad[row][module] & good[0][module]).sum()) for row in rows)
        (what,) = (p[0] for p in found if p[2:4] == (module, mock.truth["trainId"][6 * train]))
        assert what.startswith(f"{len(rows)} frames: {pixels} pixels are not valid photon counts")
    assert len(found) == 6
    assert expected.is_hit[::2].any()
    check_outputs(tmp_path / "out", expected)


def pixels_of(mock, row, module, where):
    """Return which entries of the truth are pixels of one module's frame, bool (entry,)."""
    kept = int(np.flatnonzero(mock.truth["frames"] == row)[0])
    start, stop = mock.truth["indptr"][kept : kept + 2]
    pixel = mock.truth["pixel"]
    entries = np.zeros(pixel.size, bool)
    entries[start:stop] = pixel[start:stop] // 65536 == module
    entries[entries] = where.reshape(-1)[pixel[entries] % 65536]
    return entries


def test_usual_places(tmp_path):
    """No option but the prefix: outputs, masks and geometry where they belong."""
    mock = tiny_run(tmp_path / PROPOSAL, trains=2)
    det = mock.options.prefix / "scratch" / "det"
    rng = np.random.default_rng(6)
    cells = np.arange(6)
    per_cell = rng.random((6, *FRAME_SHAPE), np.float32) < 0.9
    per_cell[:, 3, :100] = False  # good in no cell
    overall, region = rng.random((2, *FRAME_SHAPE), np.float32) < 0.8
    write_mask(det / "r0050_mask.h5", per_cell, cells)
    write_mask(det / "mask.h5", overall)
    write_mask(det / "hit_finding_mask.h5", region)
    done = run_xfelmpi([50], 2, EXP_PREFIX=mock.options.prefix)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("r0050_mask.h5", "mask.h5", "hit_finding_mask.h5", "agipd.geom"):
        assert str(det / name) in done.stdout
    good = {int(c): overall & per_cell[c] for c in cells}
    check_outputs(mock.options.prefix / "scratch", Expected(mock, good=good, region=region))


def test_options_from_a_file(tmp_path):
    mock = tiny_run(tmp_path / PROPOSAL, trains=2)
    config = tmp_path / "options.toml"
    config.write_text(
        f'prefix = "{mock.options.prefix}"\nscore = "photons"\nsigma = 9\nhit-modules = [1, 2]\n'
    )
    where = ["--output", tmp_path / "out", "--geometry", mock.paths.geometry]
    done = call_xfelmpi(["process", 50, "--config", config, "--sigma", "2", *where])
    assert done.returncode == 0, done.stdout + done.stderr
    region = modules_region(1, 2)
    check_outputs(tmp_path / "out", Expected(mock, score="photons", sigma=2.0, region=region))


def test_misses_are_drawn_the_same_way_every_time(tmp_path):
    """More misses are those of before and some more; another program run draws the same."""
    mock = tiny_run(tmp_path / PROPOSAL, trains=3)
    drawn = []
    for name, fraction, ranks in (("a", 1, 0), ("b", 1, 2), ("c", 0.5, 0), ("d", 100, 0)):
        options = ("--decide", "fixed", "--fixed-threshold", "4000", "--miss-fraction", fraction)
        process(mock, tmp_path / name, *options, ranks=ranks)
        with h5py.File(tmp_path / name / "events" / "r0050_events.h5") as events:
            drawn.append(events["is_miss"][:])
    expected = Expected(mock, decide="fixed", fixed_threshold=4000.0)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    n_hits = int(expected.is_hit.sum())
    assert [d.sum() for d in drawn] == [n_hits, n_hits, round(n_hits / 2), 18 - n_hits]
    assert (drawn[2] <= drawn[0]).all()
    assert 0 < np.flatnonzero(drawn[0] != ~expected.is_hit)[0] < 18, "not simply the first ones"


def test_without_beamline_data_and_geometry(tmp_path):
    """What is not known is NaN, and the log says so."""
    mock = tiny_run(tmp_path / PROPOSAL, trains=2, absent_modules=())
    for folder in (mock.paths.raw, mock.paths.proc):
        for path in folder.glob("*DA*"):
            path.unlink()
    mock.paths.geometry.unlink()
    done = call_xfelmpi([50, "--prefix", mock.options.prefix, "--output", tmp_path / "out"])
    assert done.returncode == 3, done.stdout + done.stderr
    assert problems(tmp_path / "out") == without_energies(12)
    assert "nominal" in done.stderr
    with h5py.File(tmp_path / "out" / "events" / "r0050_events.h5") as file:
        assert np.isnan(file["pulse_energy"][:]).all()
        assert np.isnan(file["wavelength"][:]).all()
    expected = Expected(mock)
    with h5py.File(tmp_path / "out" / "saved_hits" / "r0050_hits.cxi") as file:
        source = file["entry_1/instrument_1/source_1"]
        for name in ("photon_energy", "photon_wavelength", "pulse_energy"):
            assert np.isnan(source[name][:]).all()
        detector = file["entry_1/instrument_1/detector_1"]
        assert np.isnan(detector["distance"][()])
        weighting = detector["background_weighting"][:]
    mock.truth["pulse_energy"][:] = 1.0
    right = expected.weighting(np.flatnonzero(expected.is_hit))
    np.testing.assert_allclose(weighting, right, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (make_modern_spb_proc_run, {}),
        (make_reduced_spb_run, {"raw": False, "rng": np.random.RandomState(7)}),
        (make_spb_run, {"raw": False}),
    ],
    ids=["modern", "reduced", "legacy"],
)
def test_runs_of_extra_data(make, options, tmp_path):
    """What EXtra-data's own tests run on; its frames are all zeros."""
    run = 142 if make is make_modern_spb_proc_run else 238
    folder = tmp_path / "proc" / f"r{run:04d}"
    folder.mkdir(parents=True)
    make(str(folder), **options)
    allocate_frames(folder)
    # of thousands of frames, those of the first trains
    some = [] if make is make_reduced_spb_run else ["--trains", "0:8"]
    done = call_xfelmpi([run, "--prefix", tmp_path, "--output", tmp_path / "out", *some])
    assert done.returncode == 3, done.stdout + done.stderr
    files = AGIPD1M(RunDirectory(folder)).get_array("image.trainId", unstack_pulses=False)
    trains = files.values[0]
    cells = AGIPD1M(RunDirectory(folder)).get_array("image.cellId", unstack_pulses=False).values[0]
    if some:
        kept = np.isin(trains, np.unique(trains)[:8])
        trains, cells = trains[kept], cells[kept]
    assert len(trains) > 100
    found = without_unwritten(problems(tmp_path / "out", run))
    assert found == without_energies(len(trains))
    with h5py.File(tmp_path / "out" / "events" / f"r{run:04d}_events.h5") as file:
        np.testing.assert_array_equal(file["trainId"][:], trains)
        np.testing.assert_array_equal(file["cellId"][:], cells)
        np.testing.assert_array_equal(file["modules"][:], np.full(len(trains), 0xFFFF))
        assert not file["litpixels"][:].any()
        assert not file["is_hit"][:].any()
    with h5py.File(tmp_path / "out" / "powder" / f"r{run:04d}_powder.h5") as file:
        assert not file["powder"][:].any()
        assert (file["good_frames"][:] == len(trains)).all()
    assert all_files(tmp_path / "out" / "emc") == []
