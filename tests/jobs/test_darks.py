"""Constants from dark runs: the statistics, the command, and the way from darks to hits."""

import json
import shutil
from dataclasses import replace
from math import erfc, exp, pi, sqrt

import h5py
import numpy as np
import pytest
from compare import assert_same_hdf5
from extra_data.tests.make_examples import make_spb_run
from launch import all_files, call_xfelmpi, run_job, run_xfelmpi
from mockrun import read_truth, tiny_dark_runs, tiny_raw_run
from reference import FS, PIXELS, SS
from runnames import constants_name

from xfelmpi.calibration import dark_statistics
from xfelmpi.calibration.dark_statistics import (
    ALWAYS_HIGH,
    CLIP,
    DarkFrames,
    StageStatistics,
    combine_stages,
    outliers,
    stage_statistics,
)
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.run.frames.file_pool import FilePool
from xfelmpi.run.index.run_index import index_run

GAINS = AGIPD_1M.nominal_gains
SOURCE = "INSTRUMENT/SPB_DET_AGIPD1M-1/DET/{}CH0:xtdf/image"
GOOD, DEAD, HOT, NOISY = range(4)


@pytest.fixture
def rng():
    return np.random.default_rng(51)


def as_u2(values):
    return np.clip(np.rint(values), 0, 65535).astype(np.uint16)


def dark_frames(rng, n=50, pixels=500, offset=6000, noise=5.0):
    return as_u2(rng.normal(offset, noise, (n, pixels)))


# statistics of a stage


def numpy_clipped(values):
    """Return number, mean and deviation of each pixel's values after clipping twice at 5 sigma."""
    results = []
    for pixel in values.astype(np.float64).T:
        kept = pixel
        for _ in range(2):
            reach = max(5 * kept.std(), 1) if len(kept) else 1
            kept = pixel[np.abs(pixel - kept.mean()) <= reach]
        results.append((len(kept), kept.mean(), kept.std()))
    return np.array(results).T


@pytest.mark.parametrize("n", [1, 2, 3, 27, 50, 301])
@pytest.mark.parametrize("noise", [0.0, 0.2, 5.0, 300.0])
def test_statistics_are_those_of_numpy(rng, n, noise):
    analogue = dark_frames(rng, n, noise=noise)
    analogue[:, :50] += rng.choice([0, 0, 0, 0, 400], (n, 50)).astype("u2")
    analogue[rng.integers(0, n), 50:100] += 5000
    digital = rng.integers(0, 65536, analogue.shape, np.uint16)
    found = stage_statistics(analogue, digital)
    frames, mean, deviation = numpy_clipped(analogue)
    np.testing.assert_array_equal(found.frames, frames)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(found.noise, deviation, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(found.digital, digital.mean(axis=0), rtol=1e-12)


def test_largest_numbers(rng):
    """Sums of squares need more than 32 bits, and nothing wraps around at the ends."""
    analogue = np.repeat(np.array([[0, 65535, 65534]], np.uint16), 100_000, axis=0)
    analogue[::2, 2] = 65535
    found = stage_statistics(analogue, analogue)
    np.testing.assert_allclose(found.mean, [0, 65535, 65534.5])
    np.testing.assert_allclose(found.noise, [0, 0, 0.5], atol=1e-3)
    assert (found.frames == 100_000).all()


def test_no_frames():
    empty = np.empty((0, 7), np.uint16)
    found = stage_statistics(empty, empty)
    assert not found.frames.any()
    for name in ("mean", "noise", "digital"):
        assert np.isnan(getattr(found, name)).all()


@pytest.mark.parametrize("light", [60, 600, 6000])
def test_stray_photons_do_not_move_the_offset(rng, light):
    """One of 50 frames: the plain mean moves by light / 50, the clipped one stays."""
    dark = dark_frames(rng)
    stray = dark.copy()
    stray[rng.integers(0, 50, 500), np.arange(500)] += np.uint16(light)
    without, found = stage_statistics(dark, dark), stage_statistics(stray, dark)
    np.testing.assert_allclose(stray.mean(axis=0) - dark.mean(axis=0), light / 50)
    moved = found.mean - without.mean
    # at 60 ADU and 5 ADU of noise some stay within 5 standard deviations of the first round
    clipped = found.frames == 49
    assert clipped.mean() > (0.7 if light == 60 else 0.999)
    # what is missed is the frame itself: its noise / 49
    assert np.abs(moved[clipped]).max() < 5 * 5.0 / 49
    assert moved[clipped].std() == pytest.approx(5.0 / 49, rel=0.2)
    np.testing.assert_allclose(found.noise[clipped], without.noise[clipped], rtol=0.2)


def test_clean_darks_are_hardly_clipped(rng):
    """5 standard deviations: one value in two million."""
    found = stage_statistics(*[dark_frames(rng, 200, 2000)] * 2)
    assert CLIP == 5
    assert (found.frames < 200).sum() <= 3
    assert (found.mean - 6000).std() == pytest.approx(5 / sqrt(200), rel=0.1)


# bad pixels


def asic_image(rng, middle=6000.0, width=300.0):
    return rng.normal(middle, width, PIXELS)


def test_outliers_against_their_asic(rng):
    values = asic_image(rng)
    by_asic = values.reshape(8, 64, 2, 64)
    by_asic[3, :, 1] += 90_000  # an ASIC of its own
    values[5] = 6000 + 8.5 * 300
    values[6] = 6000 - 8.5 * 300
    values[7] = 6000 + 7.5 * 300
    by_asic[3, 0, 1, 9] = 6000
    usable = np.ones(PIXELS, bool)
    found = np.flatnonzero(outliers(values, usable, 8, AGIPD_1M))
    assert found.tolist() == [5, 6, (3 * 64) * FS + 64 + 9]


def test_outliers_do_not_count_in_the_median(rng):
    """Pixels without a value are not judged, and not in the way, even if most are."""
    values = asic_image(rng)
    usable = rng.random(PIXELS) < 0.1
    values[~usable] = 1e9
    values[~usable & (rng.random(PIXELS) < 0.5)] = np.nan
    assert not outliers(values, usable, 8, AGIPD_1M).any()
    values[np.flatnonzero(usable)[3]] = 9000
    assert np.flatnonzero(outliers(values, usable, 8, AGIPD_1M)).tolist() == [
        np.flatnonzero(usable)[3]
    ]


def test_asic_without_any_usable_pixel(rng):
    usable = np.ones((8, 64, 2, 64), bool)
    usable[2, :, 0] = False
    assert not outliers(asic_image(rng), usable.reshape(-1), 8, AGIPD_1M).any()
    assert not outliers(asic_image(rng), np.zeros(PIXELS, bool), 8, AGIPD_1M).any()


# stages together


def statistics_of(rng, offset=6000.0, digital=4000.0, noise=5.0, frames=50, **changes):
    made = StageStatistics(
        np.full(PIXELS, frames, np.uint32),
        asic_image(rng, offset, 300),
        rng.normal(noise, noise / 10, PIXELS),
        rng.normal(digital, 50, PIXELS),
    )
    return replace(made, **changes)


@pytest.fixture
def stages(rng):
    means = ((6000, 4000), (5200, 6001), (5600, 8000))
    return [statistics_of(rng, *mean) for mean in means]


def test_three_stages(stages):
    found = combine_stages(stages, GAINS, 8, 8, AGIPD_1M)
    for s, stage in enumerate(stages):
        np.testing.assert_array_equal(found.offset[s].reshape(-1), stage.mean.astype(np.float32))
        np.testing.assert_array_equal(found.noise[s].reshape(-1), stage.noise.astype(np.float32))
        assert (found.gain[s] == (1, 38, 180)[s]).all()
    assert not found.level[0].any()
    for s in (1, 2):
        middle = (stages[s - 1].digital + stages[s].digital) / 2
        np.testing.assert_array_equal(found.level[s].reshape(-1), np.rint(middle))
    assert found.bad.sum() < 10
    for name, dtype in (("offset", "f4"), ("gain", "f4"), ("level", "i4"), ("bad", "u1")):
        values = getattr(found, name)
        assert (values.shape, values.dtype) == ((3, SS, FS), dtype)


@pytest.mark.parametrize("which", [(0,), (0, 1), (0, 2), (1,), ()])
def test_stages_without_a_run(stages, which):
    """They are never reached, and bad; what is there is not touched by it."""
    some = [stage if s in which else None for s, stage in enumerate(stages)]
    found, whole = (
        combine_stages(some, GAINS, 8, 8, AGIPD_1M),
        combine_stages(stages, GAINS, 8, 8, AGIPD_1M),
    )
    for s in range(3):
        if s in which:
            np.testing.assert_array_equal(found.offset[s], whole.offset[s])
            np.testing.assert_array_equal(found.bad[s], whole.bad[s])
        else:
            assert not found.offset[s].any()
            assert (found.bad[s] == 1).all()
    np.testing.assert_array_equal(found.gain, whole.gain)
    for s in (1, 2):
        known = s in which and s - 1 in which
        assert (
            np.array_equal(found.level[s], whole.level[s])
            if known
            else (found.level[s] == ALWAYS_HIGH).all()
        )


def test_gains_as_given(stages):
    found = combine_stages(stages, (0.5, 30, 99), 8, 8, AGIPD_1M)
    assert [np.unique(g).tolist() for g in found.gain] == [[0.5], [30], [99]]


def test_bad_pixels_of_a_stage(rng, stages):
    """Offset or noise apart from the others, no noise at all, too few frames; by stage."""
    high, medium, low = stages
    high.mean[10] += 3000
    medium.mean[11] -= 3000
    low.noise[12] = 40
    high.noise[13] = 0
    medium.frames[14] = 1
    high.noise[15] = high.mean[15] = np.nan
    high.frames[15] = 0
    high.noise[16] = 0.1
    found = combine_stages(stages, GAINS, 8, 8, AGIPD_1M).bad.reshape(3, -1)
    for s, pixels in enumerate([(10, 13, 15, 16), (11, 14), (12,)]):
        np.testing.assert_array_equal(np.flatnonzero(found[s, 10:17]) + 10, pixels)
    # beyond what there is, nothing is bad but the pixels that cannot be judged
    loose = combine_stages(stages, GAINS, 1e3, 1e3, AGIPD_1M).bad.reshape(3, -1)
    assert [np.flatnonzero(b).tolist() for b in loose] == [[13, 15], [14], []]
    strict = combine_stages(stages, GAINS, 1, 8, AGIPD_1M).bad.mean(axis=(1, 2))
    np.testing.assert_allclose(strict, erfc(1 / sqrt(2)), rtol=0.05)


def test_stage_whose_frames_cannot_be_read(rng, stages):
    """NaN all over: bad, never reached, and no number that looks like a threshold."""
    empty = np.empty((0, PIXELS), np.uint16)
    found = combine_stages(
        [stages[0], stage_statistics(empty, empty), stages[2]], GAINS, 8, 8, AGIPD_1M
    )
    assert (found.bad[1] == 1).all()
    assert (found.level[1:] == ALWAYS_HIGH).all()
    assert np.isfinite(found.offset).all()
    assert np.isfinite(found.noise).all()
    assert found.bad[0].mean() < 0.01


@pytest.mark.parametrize("frames", [1, 2])
def test_few_frames(rng, frames):
    """One frame says nothing of the noise; of two the offset stands."""
    analogue = as_u2(rng.normal(6000, 300, PIXELS) + rng.normal(0, 5, (frames, PIXELS)))
    found = combine_stages(
        [stage_statistics(analogue, analogue), None, None], GAINS, 8, 8, AGIPD_1M
    )
    np.testing.assert_allclose(found.offset[0].reshape(-1), analogue.mean(axis=0), rtol=1e-6)
    # of two frames one pixel in 18 gives the same number twice
    assert found.bad[0].mean() == (
        1 if frames == 1 else pytest.approx(1 / (10 * sqrt(pi)), rel=0.1)
    )


# the command

DARK = {"trains": 50, "cells": (0, 2), "clip_noise": 0.0, "noise": 0.12, "gain_spread": 0.0}
ABSENT = tuple(module for module in range(16) if module not in (3, 4))
ADU, NOISE, FRAMES = 60.0, 0.12 * 60, 50
RUNS = (10, 11, 12)


@pytest.fixture(scope="module")
def dark_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("darks") / "p007927"
    return tiny_dark_runs(folder, **DARK, absent_modules=ABSENT)


def make(prefix, out, *options, runs=RUNS, ranks=0, status=3):
    """Run the command; the modules that are absent are problems."""
    where = ["--prefix", prefix, "--out", out]
    done = run_job(["darks", *runs, *where, *options], ranks)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def made(dark_runs, tmp_path_factory):
    """The constants of these runs, and what was said."""
    out = tmp_path_factory.mktemp("made") / "constants"
    return out, make(dark_runs[0].options.prefix, out)


def constants_of(folder, module=3):
    return read_truth(folder / constants_name(module))


def test_layout_of_cheetah(made, dark_runs):
    folder, done = made
    assert all_files(folder) == [f"Cheetah-AGIPD{m:02}-calib.h5" for m in (3, 4)]
    assert "2 cells of 2 modules" in done.stdout
    for name in all_files(folder):
        assert name in done.stdout
        assert (folder / name).stat().st_mode & 0o444 == 0o444
        with h5py.File(folder / name) as file:
            assert {n: (d.shape, d.dtype.str, d.attrs["units"]) for n, d in file.items()} == {
                "AnalogOffset": ((3, 3, SS, FS), "<f4", "ADU"),
                "RelativeGain": ((3, 3, SS, FS), "<f4", "1"),
                "DigitalGainLevel": ((3, 3, SS, FS), "<i4", "ADU"),
                "Badpixel": ((3, 3, SS, FS), "|u1", "1"),
                "Noise": ((3, 3, SS, FS), "<f4", "ADU"),
            }
            assert (file.attrs["run"], file.attrs["proposal"]) == (10, "p007927")
            settings = json.loads(file.attrs["configuration"])
            assert settings["runs"] == list(RUNS)
            assert settings["gains"] == [1, 38, 180]
            inputs = json.loads(file.attrs["input_files"])
            assert {file["path"].split("/")[-2] for file in inputs} == {"r0010", "r0011", "r0012"}
    del dark_runs


def test_cell_that_no_run_has(made):
    """Cells between those in use are bad in the file, for whoever reads it."""
    found = constants_of(made[0])
    assert (found["Badpixel"][:, 1] == 1).all()
    assert (found["DigitalGainLevel"][1:, 1] == ALWAYS_HIGH).all()
    assert not found["AnalogOffset"][:, 1].any()


@pytest.mark.parametrize(
    ("ranks", "memory"), [(1, "4M"), (2, "400M"), (3, "20M"), (5, "4M"), (0, "20M")]
)
def test_same_for_all_ranks_and_limits(made, dark_runs, tmp_path, ranks, memory):
    """A module at a time, 24576 pixels, or as few as 4096."""
    prefix = dark_runs[0].options.prefix
    make(prefix, tmp_path, "--memory-per-rank", memory, ranks=ranks)
    for name in all_files(made[0]):
        assert_same_hdf5(made[0] / name, tmp_path / name)


@pytest.mark.parametrize("limit", [1, 1 << 20, 5 << 20, 1 << 30])
def test_memory_at_a_time(dark_runs, monkeypatch, limit):
    index = index_run(dark_runs[0].paths.raw, "raw")
    frames = DarkFrames(
        FilePool(index.files),
        index.frames.cell_id,
        index.frames.file,
        index.frames.row,
        limit,
        PIXELS,
    )
    taken = []
    monkeypatch.setattr(
        dark_statistics,
        "stage_statistics",
        lambda *planes: (taken.append(sum(p.nbytes for p in planes)), stage_statistics(*planes))[1],
    )
    found = frames.statistics(3, 2)
    assert sum(taken) == 4 * PIXELS * FRAMES
    assert max(taken) <= max(limit, 4 * 4096 * FRAMES)
    with h5py.File(dark_runs[0].paths.raw / "RAW-R0010-AGIPD03-S00000.h5") as file:
        image = file[SOURCE.format(3)]
        data = image["data"][image["cellId"][:, 0] == 2]
    right = stage_statistics(*(data[:, i].reshape(FRAMES, -1) for i in range(2)))
    for name in StageStatistics.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(found, name), getattr(right, name))
    assert frames.statistics(3, 1) is None
    assert frames.statistics(5, 2) is None


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_constants_agree_with_the_true_ones(made, dark_runs, stage):
    """Offsets by noise / √frames; whole ADU add 1/12 ADU² to the variance."""
    mock = dark_runs[stage]
    noise = sqrt((NOISE, 2, 2)[stage] ** 2 + 1 / 12)
    for module in (3, 4):
        found, true = constants_of(made[0], module), mock.constants(module)
        for cell in DARK["cells"]:
            good = mock.truth["bad_kind"][module, cell] == GOOD
            error = (found["AnalogOffset"] - true["AnalogOffset"])[stage, cell][good]
            assert error.std() == pytest.approx(noise / sqrt(FRAMES), rel=0.03)
            assert abs(error.mean()) < 5 * noise / sqrt(FRAMES * good.sum())
            measured = found["Noise"][stage, cell][good]
            assert sqrt((measured**2).mean()) == pytest.approx(
                noise * sqrt(1 - 1 / FRAMES), rel=0.01
            )
            assert (found["RelativeGain"][stage, cell] == GAINS[stage]).all()
            level = (found["DigitalGainLevel"] - true["DigitalGainLevel"])[:, cell]
            # half the sum of the means of two stages, each of 20 ADU of noise
            expected = 20 / sqrt(2 * FRAMES)
            assert level[1][good].std() == pytest.approx(expected, rel=0.05)
            # simulated runs in medium and low gain have the same digital noise
            assert np.abs(level[1:][:, good]).max() < 7 * 2**0.5 * expected + 1


def test_bad_pixels_are_found(made, dark_runs):
    """At least 99 % of what is bad, and less than 0.5 % of what is not, in every stage."""
    for module in (3, 4):
        found = constants_of(made[0], module)["Badpixel"]
        for cell in DARK["cells"]:
            kind = dark_runs[0].truth["bad_kind"][module, cell]
            for stage in range(3):
                bad = found[stage, cell] != 0
                for what in (DEAD, HOT, NOISY):
                    assert bad[kind == what].mean() >= 0.99, (what, stage)
                assert bad[kind == GOOD].mean() < 0.005


def test_options(dark_runs, tmp_path):
    prefix = dark_runs[0].options.prefix
    done = make(prefix, tmp_path / "a", "--gains", 2, 40, 200, "--offset-sigma", 1, runs=[10])
    found = constants_of(tmp_path / "a")
    assert [np.unique(g[0]).tolist() for g in found["RelativeGain"]] == [[2], [40], [200]]
    assert found["Badpixel"][0, 0].mean() == pytest.approx(erfc(1 / sqrt(2)), rel=0.05)
    assert "module 0: module has no frames in the whole run" in done.stdout
    make(prefix, tmp_path / "b", "--noise-sigma", 0.5, runs=[10])
    assert constants_of(tmp_path / "b")["Badpixel"][0, 0].mean() > 0.5


def test_usual_place(dark_runs, tmp_path):
    """Without --out the constants go where the main job looks for them."""
    prefix = tmp_path / "p007927"
    (prefix / "raw").mkdir(parents=True)
    (prefix / "raw" / "r0010").symlink_to(dark_runs[0].paths.raw)
    done = run_xfelmpi(["darks", 10], EXP_PREFIX=prefix)
    assert done.returncode == 3
    assert all_files(prefix / "scratch") == [
        f"det/constants/Cheetah-AGIPD{m:02}-calib.h5" for m in (3, 4)
    ]


# from darks to hits


@pytest.fixture(scope="module")
def raw_run(dark_runs):
    """A run of the same detector, with more background than noise could make."""
    mock = tiny_raw_run(
        dark_runs[0].options.prefix,
        **{"trains": 3, "background": 10_000.0, "hit_rate": 0.5, "hit_photons": (1e4, 4e4)},
        **{name: DARK[name] for name in ("cells", "clip_noise", "noise", "gain_spread")},
        absent_modules=ABSENT,
    )
    # the runs of the darks are still there
    assert mock.options.prefix.joinpath("raw", "r0012").exists()
    return mock


def hits(mock, constants, output, ranks=0):
    """Return images and masks of all frames of modules 3 and 4, and the events."""
    where = ["--prefix", mock.options.prefix, "--output", output, "--constants", constants]
    options = [
        "--adu-per-photon",
        60,
        "--no-vds",
        "--no-report",
        "--decide",
        "fixed",
        "--fixed-threshold",
        -1,
    ]
    done = run_job([50, *where, *options], ranks)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "WARNING: Cheetah" not in done.stderr
    with h5py.File(output / "saved_hits" / "r0050_hits.cxi") as file:
        detector = file["entry_1/instrument_1/detector_1"]
        images, masks = (detector[name][:, 3:5] for name in ("data", "mask"))
    with h5py.File(output / "events" / "r0050_events.h5") as file:
        return images.astype(int), masks, file["gain_switched"][:]


def density(x):
    return exp(-(x**2) / 2) / sqrt(2 * pi)


def test_photons_agree_with_those_from_the_true_constants(raw_run, made, tmp_path):
    """A pixel differs if its signal lies between the edge of a photon and that edge moved.

    The offset's error has the standard deviation e = noise / √frames; so a fraction
    e √(2/π) p(edge) of the pixels differs, with the density p of the noise at 0.3 photons below
    or 0.7 above each number of photons.
    """
    true, true_mask, _ = hits(raw_run, raw_run.paths.constants, tmp_path / "true")
    found, found_mask, switched = hits(raw_run, made[0], tmp_path / "made")
    assert not switched.any()
    good = (true_mask == 0) & (found_mask == 0)
    assert good.mean() > 0.99
    assert (np.abs(true - found)[good] <= 1).all()
    error = sqrt(NOISE**2 + 1 / 12) / ADU / sqrt(FRAMES)
    spread = sqrt(0.12**2 + 1 / 12 / ADU**2)
    edges = density(0.7 / spread) + (true[good] > 0) * density(0.3 / spread)
    expected = float((edges / spread * error * sqrt(2 / pi)).sum())
    differ = np.count_nonzero((true != found)[good])
    assert expected > 100
    assert abs(differ - expected) < 5 * sqrt(expected)


def test_fixed_high_gain(raw_run, made, dark_runs, tmp_path):
    """Constants from one run alone, for a detector that never leaves the high stage."""
    make(dark_runs[0].options.prefix, tmp_path / "high", runs=[10])
    one = constants_of(tmp_path / "high")
    assert (one["DigitalGainLevel"][1:] == ALWAYS_HIGH).all()
    assert (one["Badpixel"][1:] == 1).all()
    three = hits(raw_run, made[0], tmp_path / "out3")
    alone = hits(raw_run, tmp_path / "high", tmp_path / "out1")
    for a, b in zip(three, alone, strict=True):
        np.testing.assert_array_equal(a, b)


def test_two_stages(made, dark_runs, tmp_path):
    done = make(dark_runs[0].options.prefix, tmp_path, runs=["10-11"])
    assert "WARNING: 2 dark runs: calibration constants of high and medium gain" in done.stderr
    two, three = constants_of(tmp_path), constants_of(made[0])
    for name in ("AnalogOffset", "Badpixel", "DigitalGainLevel", "Noise"):
        np.testing.assert_array_equal(two[name][:2], three[name][:2])
    assert (two["DigitalGainLevel"][2] == ALWAYS_HIGH).all()
    assert (two["Badpixel"][2] == 1).all()


# what goes wrong


@pytest.fixture
def copied(dark_runs, tmp_path):
    """Two dark runs that can be damaged, with the path of module 4 in the second."""
    prefix = tmp_path / "p007927"
    for run in ("r0010", "r0011"):
        shutil.copytree(dark_runs[0].options.prefix / "raw" / run, prefix / "raw" / run)
    return prefix, prefix / "raw" / "r0011" / "RAW-R0011-AGIPD04-S00000.h5"


def cut(path, frame, within):
    """Cut a file off within a frame, but let HDF5 open it, as after a crash of the disk."""
    with h5py.File(path, "r") as file:
        data = file[SOURCE.format(4) + "/data"]
        place = data.id.get_chunk_info_by_coord((frame, 0, 0, 0)).byte_offset
    content = bytearray(path.read_bytes()[: place + within])
    with open(path, "wb") as file:
        file.write(content)


def test_file_that_is_cut_short(copied, made, tmp_path):
    """Not even its index can be read: its module has no such stage, and that is said."""
    prefix, path = copied
    cut(path, 60, 70_000)
    done = make(prefix, tmp_path / "out", runs=[10, 11])
    assert "RAW-R0011-AGIPD04-S00000.h5 module 4: file cannot be opened" in done.stdout
    found, right = constants_of(tmp_path / "out", 4), constants_of(made[0], 4)
    np.testing.assert_array_equal(found["Badpixel"][0], right["Badpixel"][0])
    assert (found["Badpixel"][1] == 1).all()
    assert (found["DigitalGainLevel"][1] == ALWAYS_HIGH).all()


def test_suspect_trains(copied, made, tmp_path):
    """Used as in the main job, or left out; named in both cases."""
    prefix, _ = copied
    path = prefix / "raw/r0010/RAW-R0010-AGIPD04-S00000.h5"
    with h5py.File(path, "r+") as file:
        file["INDEX/flag"][::2] = 0
        images = file[SOURCE.format(4)]
        suspect = file["INDEX/trainId"][::2]
        for row in np.flatnonzero(np.isin(images["trainId"][:].ravel(), suspect)):
            images["data"][row, 0] = 15000
    right, offsets = constants_of(made[0], 4)["AnalogOffset"][0], {}
    for choice in ("include", "exclude"):
        out = tmp_path / choice
        done = make(prefix, out, "--suspect-trains", choice, runs=[10])
        assert "flagged suspect (INDEX/flag)" in done.stdout
        offsets[choice] = np.median(np.abs(constants_of(out, 4)["AnalogOffset"][0] - right))
    assert offsets["exclude"] < 3
    assert offsets["include"] > 100


def test_frames_that_cannot_be_read(copied, made, tmp_path):
    """They are left out and named once, whatever the memory limit; the others make the offset."""
    prefix, path = copied
    with h5py.File(path, "r+") as file:
        image = file[SOURCE.format(4)]
        data, cells = image["data"][:], image["cellId"][:, 0]
        del image["data"]
        new = image.create_dataset("data", data.shape, "u2", chunks=(1, 2, SS, FS))
        for row in set(range(len(data))) - {0, 7}:
            new[row] = data[row]
    done = make(prefix, tmp_path / "out", "--memory-per-rank", "4M", runs=[10, 11], ranks=2)
    named = [line for line in done.stdout.splitlines() if "dark frame in row" in line]
    assert [line.split("row ")[1].split()[0] for line in sorted(named)] == ["0", "7"]
    assert all("RAW-R0011-AGIPD04-S00000.h5 module 4" in line for line in named)
    assert all("frame left out" in line for line in named)
    found, right = constants_of(tmp_path / "out", 4), constants_of(made[0], 4)
    np.testing.assert_array_equal(found["AnalogOffset"][0], right["AnalogOffset"][0])
    for cell in (0, 2):
        these = (cells == cell) & ~np.isin(np.arange(len(cells)), (0, 7))
        analogue = data[these, 0].reshape(these.sum(), -1)
        mean = stage_statistics(analogue, analogue).mean.astype(np.float32)
        np.testing.assert_array_equal(found["AnalogOffset"][1, cell].reshape(-1), mean)


def test_no_frame_of_a_stage_can_be_read(copied, made, tmp_path):
    """The other stages are not touched by it, and the numbers in the file are numbers."""
    prefix, path = copied
    with h5py.File(path, "r+") as file:
        image = file[SOURCE.format(4)]
        shape = image["data"].shape
        del image["data"]
        new = image.create_dataset("data", shape, "u2", chunks=(1, 2, SS, FS))
        for row in np.flatnonzero(image["cellId"][:, 0] == 2):
            new[row] = 5
    make(prefix, tmp_path / "out", runs=[10, 11])
    found, right = constants_of(tmp_path / "out", 4), constants_of(made[0], 4)
    np.testing.assert_array_equal(found["AnalogOffset"][0], right["AnalogOffset"][0])
    np.testing.assert_array_equal(found["Badpixel"][0], right["Badpixel"][0])
    assert (found["Badpixel"][1, 0] == 1).all()
    assert (found["DigitalGainLevel"][1, 0] == ALWAYS_HIGH).all()


@pytest.mark.parametrize("chunks", [None, (7, 2, SS, FS), "gzip"])
def test_other_layouts_of_dark_frames(copied, made, tmp_path, chunks):
    """Contiguous, several frames in a chunk, compressed: read in parts all the same."""
    prefix, path = copied
    layout = {"chunks": chunks}
    if chunks == "gzip":
        layout = {"chunks": (4, 2, SS, FS), "compression": "gzip", "compression_opts": 1}
    with h5py.File(path, "r+") as file:
        image = file[SOURCE.format(4)]
        data = image["data"][:]
        del image["data"]
        image.create_dataset("data", data=data, **layout)
    make(prefix, tmp_path / "out", "--memory-per-rank", "20M", runs=[10, 11])
    found, right = constants_of(tmp_path / "out", 4), constants_of(made[0], 4)
    for name in ("AnalogOffset", "Badpixel", "Noise"):
        np.testing.assert_array_equal(found[name][:2], right[name][:2])


def test_dark_run_that_was_never_written(tmp_path):
    """EXtra-data's mock run: nothing was measured, so that every frame is left out, by name."""
    folder = tmp_path / "raw" / "r0238"
    folder.mkdir(parents=True)
    make_spb_run(str(folder), raw=True)
    for path in folder.glob("*AGIPD*"):
        if "AGIPD05" not in path.name:
            path.unlink()
    index = index_run(folder, "raw")
    frames = DarkFrames(
        FilePool(index.files),
        index.frames.cell_id,
        index.frames.file,
        index.frames.row,
        1 << 22,
        PIXELS,
    )
    cell = int(index.frames.cell_id[0])
    found = frames.statistics(5, cell)
    assert len(frames.problems) == (index.frames.cell_id == cell).sum() > 0
    assert {"never written" in problem.what for problem in frames.problems} == {True}
    assert not found.frames.any()
    assert np.isnan([found.mean, found.noise, found.digital]).all()


REFUSED = {
    "wrong order": ((12, 11, 10), (), "by their levels: 10 11 12"),
    "medium before high": ((11, 10), (), "by their levels: 10 11"),
    "one run twice": ((10, 10), (), "all different"),
    "four runs": ((10, 11, 12, 10), (), "found 4 runs"),
    "no such run": ((10, 99), (), "r0099"),
    "gain of zero": ((10,), ("--gains", "1", "0", "3"), "--gains"),
    "no memory": ((10,), ("--memory-per-rank", "much"), "--memory-per-rank"),
    "other detector": ((10,), ("--detector", "MID_DET_AGIPD1M-1"), "MID_DET_AGIPD1M-1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(dark_runs, tmp_path, name):
    runs, options, text = REFUSED[name]
    where = ["--prefix", dark_runs[0].options.prefix, "--out", tmp_path / "out"]
    args = ["darks", *runs, *where, *options]
    done = run_xfelmpi(args, 2) if name == "no such run" else call_xfelmpi(args)
    assert done.returncode == 2, done.stdout + done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert all_files(tmp_path) == []


def test_folder_that_cannot_be_written(dark_runs, tmp_path):
    (tmp_path / "out").write_text("a file")
    where = ["--prefix", dark_runs[0].options.prefix, "--out", tmp_path / "out"]
    done = run_xfelmpi(["darks", 10, *where], 2)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_prefix():
    done = call_xfelmpi(["darks", 10])
    assert done.returncode == 2
    assert "EXP_PREFIX" in done.stderr


def test_help():
    done = call_xfelmpi(["darks", "--help"])
    assert done.returncode == 0
    words = " ".join(done.stdout.split())
    for text in ("--out", "--gains", "--offset-sigma", "--noise-sigma", "fixed high gain"):
        assert text in words


def test_proposal_is_that_of_the_data(tmp_path):
    """Not that of the folders, which somebody may have copied elsewhere."""
    few = {"trains": 1, "cells": (0,), "absent_modules": tuple(range(1, 16))}
    (dark,) = tiny_dark_runs(tmp_path / "p007927", ("high",), **few)
    prefix = dark.options.prefix.rename(tmp_path / "p000001")
    out = tmp_path / "constants"
    done = call_xfelmpi(["darks", dark.options.run, "--prefix", prefix, "--out", out])
    assert done.returncode == 3, done.stderr
    with h5py.File(out / "Cheetah-AGIPD00-calib.h5") as file:
        assert file.attrs["proposal"] == "p007927"
