"""Simulated raw and dark runs: the photon formula, applied to the files, gives their truth."""

import json
import shutil

import h5py
import numpy as np
import pytest
from checks import equal
from compare import same_files
from extra_data.components import AGIPD1M
from extradata import RunDirectory, complaints
from launch import limit, run_xfelmpi
from mockrun import NEAR, tiny_dark_runs, tiny_raw_run, tiny_run
from reference import gain_stage, of_stage

from xfelmpi.cli import simulate as command
from xfelmpi.core.errors import UsageError
from xfelmpi.simulate import PixelConstants, SimulationOptions
from xfelmpi.simulate import constants as pixels

pytestmark = pytest.mark.slow

SOURCE = "INSTRUMENT/SPB_DET_AGIPD1M-1/DET/{}CH0:xtdf/image"
BRIGHT = {"adu_per_photon": 1000.0, "hit_photons": (3e5, 1e6), "hit_rate": 0.5}
"""With so much signal from a photon, few photons are enough for every gain stage."""
ONE_FRAME = {"trains": 1, "cells": (0,)}


@pytest.fixture(scope="module")
def raw_run(tmp_path_factory):
    return tiny_raw_run(tmp_path_factory.mktemp("raw") / "p007927")


@pytest.fixture(scope="module")
def dark_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dark") / "p007927"
    absent = tuple(module for module in range(16) if module not in (6, 9))
    return tiny_dark_runs(folder, trains=16, cells=(1,), absent_modules=absent)


def raw_frames(mock, module):
    """Yield (row, cell, analogue and digital image) of all frames in a module's files."""
    for path in sorted(mock.paths.raw.glob(f"RAW-*-AGIPD{module:02d}-S*.h5")):
        with h5py.File(path) as file:
            group = file[SOURCE.format(module)]
            trains, cells = group["trainId"][:, 0], group["cellId"][:, 0]
            for train, cell, image in zip(trains, cells, group["data"], strict=True):
                yield mock.row(train, cell), cell, image


def signal_and_stage(image, constants, cell):
    """Return what the documented formula makes of a raw frame, in ADU of the high stage."""
    analogue, digital = image.astype(np.float32)
    stage = gain_stage(digital, constants["DigitalGainLevel"][:, cell])
    offset = of_stage(constants["AnalogOffset"][:, cell], stage).astype(np.float32)
    return (analogue - offset) * of_stage(constants["RelativeGain"][:, cell], stage), stage


def photons_of(signal, adu_per_photon):
    counts = np.floor(signal / np.float32(adu_per_photon) + np.float32(1 - 0.7))
    return np.maximum(counts, 0).astype(np.uint64)


def asics(image):
    """Return a view of a module's image, (ASIC row, ASIC column, ss, fs)."""
    return image.reshape(8, 64, 2, 64).swapaxes(1, 2)


def medians(signal, good):
    """Return the median of the good pixels of every ASIC, in the shape of the module."""
    masked = asics(np.where(good, signal, np.nan))
    middle = np.nanmedian(masked.reshape(8, 2, -1), axis=-1).astype(np.float32)
    return np.repeat(np.repeat(middle, 64, axis=0), 64, axis=1)


def check_against_truth(mock, modules=range(16), *, common_mode=False):
    """Compare all frames of some modules with the truth, and with all modules its sums too."""
    truth = mock.truth
    sums = {name: np.zeros_like(truth[name]) for name in ("litpixels", "photons")}
    switched = np.zeros((len(mock), 3), np.uint32)
    frames = [mock.frame(row) for row in range(len(mock))]
    for module in modules:
        constants = mock.constants(module)
        powder = np.zeros_like(truth["powder"][module])
        rows = []
        for row, cell, image in raw_frames(mock, module):
            good = mock.good(row)[module]
            signal, stage = signal_and_stage(image, constants, cell)
            if common_mode:
                signal -= medians(signal, good)
            photons = np.where(good, photons_of(signal, mock.options.signal_per_photon), 0)
            equal(photons, frames[row][module])
            equal(constants["Badpixel"][:, cell] == 0, np.array([good] * 3))
            powder += photons
            sums["litpixels"][row] += np.count_nonzero(photons)
            sums["photons"][row] += photons.sum()
            switched[row] += np.bincount(stage[good], minlength=3).astype(np.uint32)
            rows.append(row)
        np.testing.assert_array_equal(np.sort(rows), np.flatnonzero(mock.has(module)))
        equal(powder, truth["powder"][module])
    if len(modules) == 16:
        sums |= {"medium_pixels": switched[:, 1], "low_pixels": switched[:, 2]}
        for name, values in sums.items():
            np.testing.assert_array_equal(values, truth[name])


def check_valid(mock):
    assert complaints(mock.paths.raw) == []


def test_the_formula_gives_the_truth(raw_run):
    check_valid(raw_run)
    check_against_truth(raw_run)
    assert raw_run.truth["photons"].min() > 100
    assert raw_run.paths.particles > 0
    assert not raw_run.paths.proc.exists()
    truth = raw_run.truth
    for name in ("medium_pixels", "low_pixels"):
        assert truth[name].dtype == np.uint32
        assert truth[name].max() < 10


def test_extra_data_reads_the_detector(raw_run):
    run = RunDirectory(raw_run.paths.raw)
    images = AGIPD1M(run, raw=True).get_array("image.data", unstack_pulses=False)
    assert images.shape == (16, 6, 2, 512, 128)
    assert images.dtype == np.uint16
    for row, _, image in raw_frames(raw_run, 7):
        np.testing.assert_array_equal(images[7, row], image)
    counts = run["SPB_DET_AGIPD1M-1/DET/5CH0:xtdf", "header.pulseCount"].ndarray()
    np.testing.assert_array_equal(counts, [3, 3])
    assert "SPB_XTD9_XGM/DOOCS/MAIN:output" in run.instrument_sources


def test_data_set_layout(raw_run):
    with h5py.File(raw_run.paths.raw / "RAW-R0050-AGIPD04-S00000.h5") as file:
        images = file[SOURCE.format(4)]
        data = images["data"]
        assert (data.shape, data.dtype) == ((6, 2, 512, 128), np.uint16)
        assert (data.chunks, data.maxshape[0]) == ((1, 2, 512, 128), None)
        assert (data.compression, data.shuffle) == (None, False)
        for name, dtype in {"trainId": "u8", "cellId": "u2", "pulseId": "u8"}.items():
            assert (images[name].shape, images[name].dtype) == ((6, 1), dtype)
            assert images[name].maxshape == (None, 1)


def test_numbers_are_realistic(raw_run):
    analogue, digital = np.array([image for _, _, image in raw_frames(raw_run, 2)]).swapaxes(0, 1)
    good = np.array([raw_run.good(row)[2] for row in range(6)])
    assert np.median(analogue) == pytest.approx(6000, abs=20)
    assert analogue[good].std() == pytest.approx(300, rel=0.1)
    assert np.median(digital) == pytest.approx(4000, abs=10)
    assert digital[good].std() == pytest.approx(np.hypot(50, 20), rel=0.1)
    # the same cell in two trains: what differs is noise (and a few photons)
    difference = (analogue[0].astype(float) - analogue[3])[good[0]]
    assert 1.4826 * np.median(np.abs(difference)) == pytest.approx(0.08 * 60 * 2**0.5, rel=0.1)
    level = digital[0].astype(float) - digital[3]
    assert level[good[0]].std() == pytest.approx(20 * 2**0.5, rel=0.1)


@pytest.mark.parametrize("dtype", ["i2", "i4", "f4"])
def test_bright_pixels_change_the_stage(dtype, tmp_path):
    mock = tiny_raw_run(tmp_path, **BRIGHT, **NEAR, constants_dtype=dtype)
    check_valid(mock)
    check_against_truth(mock)
    hits = mock.truth["is_particle"]
    assert mock.truth["medium_pixels"][hits].min() > 1000
    assert mock.truth["low_pixels"].max() > 10
    assert mock.truth["count"].max() > 300


@pytest.mark.parametrize(("spread", "adu_per_photon"), [(0, 60.0), (0.1, 15.0)])
def test_where_one_adu_is_several_photons(spread, adu_per_photon, tmp_path):
    mock = tiny_raw_run(
        tmp_path,
        **{"trains": 1, "cells": (0, 1), "hit_rate": 1, "hit_photons": (3e6, 3e6)},
        **{"gain_spread": spread, "adu_per_photon": adu_per_photon, "size_nm": (30, 30), **NEAR},
    )
    check_against_truth(mock)
    assert mock.truth["medium_pixels"].min() > 100
    gain = mock.constants(0)["RelativeGain"]
    if spread == 0:
        assert all(np.unique(gain[stage]) == nominal for stage, nominal in enumerate((1, 38, 180)))
    else:
        assert gain[1].std() == pytest.approx(3.8, rel=0.1)


def test_proc_of_the_same_seed_has_the_same_truth(tmp_path):
    same = {"trains": 2, "cells": (0, 2, 3), "hit_photons": (3e3, 8e3), **NEAR}
    proc = tiny_run(tmp_path / "proc", **same)
    perfect = tiny_raw_run(tmp_path / "raw", **same, bad_pixels=0)
    assert not perfect.truth["bad_kind"].any()
    assert not perfect.truth["medium_pixels"].any()
    for name, values in proc.truth.items():
        np.testing.assert_array_equal(values, perfect.truth[name], err_msg=name)


def test_bad_pixels_and_gain_stages_are_all_that_differs_from_proc(raw_run, tmp_path):
    proc = tiny_run(tmp_path, trains=2, cells=(0, 2, 3), hit_photons=raw_run.options.hit_photons)
    for name in ("trainId", "cellId", "pulseId", "modules", "is_particle", "pulse_energy"):
        np.testing.assert_array_equal(proc.truth[name], raw_run.truth[name])
    for row in range(len(proc)):
        expected = np.where(raw_run.good(row), proc.frame(row), 0)
        found = raw_run.frame(row)
        differ = expected != found
        switched = raw_run.truth["medium_pixels"][row] + raw_run.truth["low_pixels"][row]
        assert np.count_nonzero(differ) <= switched
        assert (expected[differ] > 70).all()
        # the noise of medium gain, 2 ADU of 38 each, is 1.3 photons
        assert (np.abs(found[differ].astype(int) - expected[differ]) < 7).all()


def test_common_mode(tmp_path):
    mock = tiny_raw_run(tmp_path, common_mode=50.0, absent_modules=tuple(range(8, 16)))
    check_against_truth(mock, modules=range(3), common_mode=True)
    found = []
    for module in range(8):
        constants = mock.constants(module)
        for row, cell, image in raw_frames(mock, module):
            signal, _ = signal_and_stage(image, constants, cell)
            found.append(asics(medians(signal, mock.good(row)[module]))[:, :, 0, 0])
    # 16 ASICs × 8 modules × 6 frames, so 3 % of standard error
    assert np.std(found) == pytest.approx(50, rel=0.1)
    assert np.mean(found) == pytest.approx(0, abs=5)
    each = np.array(found).reshape(8, 6, 16)
    assert np.abs(np.corrcoef(each.reshape(-1, 16), rowvar=False) - np.eye(16)).max() < 0.5


def test_common_mode_in_other_stages(tmp_path):
    # two photons leave high gain here; with 3 % of lit pixels the median is the common mode
    mock = tiny_raw_run(
        tmp_path,
        **{"common_mode": 50.0, "adu_per_photon": 5000.0, "background": 2000.0, "hit_rate": 0},
        **NEAR,
    )
    assert mock.truth["medium_pixels"].min() > 100
    check_against_truth(mock, common_mode=True)


@pytest.mark.parametrize("chunk_frames", [4, 16, 0])
def test_other_chunks(chunk_frames, raw_run, tmp_path):
    mock = tiny_raw_run(tmp_path, chunk_frames=chunk_frames, absent_modules=tuple(range(1, 15)))
    check_valid(mock)
    for module in (0, 15):
        pairs = zip(raw_frames(mock, module), raw_frames(raw_run, module), strict=True)
        assert all((a[2] == b[2]).all() for a, b in pairs)
    with h5py.File(mock.paths.raw / "RAW-R0050-AGIPD15-S00000.h5") as file:
        chunks = file[SOURCE.format(15) + "/data"].chunks
        assert chunks == ((min(chunk_frames, 6), 2, 512, 128) if chunk_frames else None)


def test_everything_that_can_be_odd_at_once(tmp_path):
    mock = tiny_raw_run(
        tmp_path,
        **{"trains": 5, "cells": (1, 2, 6), "veto": 0.3, "reorder_cells": True, "pulse_step": 4},
        **{"sequence_length": 2, "ragged_sequences": True, "chunk_frames": 2},
        **{"missing": ((3, 0), (3, 4), (7, 1)), "missing_style": "gone"},
        absent_modules=(5, *range(8, 16)),
    )
    check_valid(mock)
    check_against_truth(mock)
    assert len(list(mock.paths.constants.iterdir())) == 16


def test_run_without_any_frame(tmp_path):
    mock = tiny_raw_run(tmp_path, veto=1, cells=(0, 1), **NEAR)
    assert len(mock) == 0
    check_valid(mock)


def test_noise_without_limit(tmp_path):
    options = {"noise": 0.15, "clip_noise": 0, "hit_rate": 0, **ONE_FRAME, **NEAR}
    mock = tiny_raw_run(tmp_path, **options)
    constants = mock.constants(3)
    ((row, cell, image),) = raw_frames(mock, 3)
    good, photons = mock.good(row)[3], mock.frame(row)[3]
    signal, _ = signal_and_stage(image, constants, cell)
    noise = (signal / np.float32(60) - photons)[good]
    assert noise.std() == pytest.approx(0.15, rel=0.02)
    assert np.abs(noise).max() > 0.5
    # normal distribution: 2.3 % are below -2 σ, that is -0.3
    lost = photons_of(signal, 60)[good] < photons[good]
    assert 0 < np.count_nonzero(lost) < 0.1 * photons[good].sum()


def test_no_noise_at_all(tmp_path):
    mock = tiny_raw_run(tmp_path, noise=0, bad_pixels=0, **ONE_FRAME, **NEAR)
    ((_, _, image),) = raw_frames(mock, 3)
    constants = mock.constants(3)
    signal, _ = signal_and_stage(image, constants, 0)
    assert np.abs(signal / 60 - mock.frame(0)[3]).max() < 0.01


def test_constants_layout(raw_run, tmp_path):
    with h5py.File(raw_run.paths.constants / "Cheetah-AGIPD09-calib.h5") as file:
        assert json.loads(file.attrs["simulation"])["seed"] == 11
        dtypes = {"AnalogOffset": "i2", "RelativeGain": "f4", "DigitalGainLevel": "i2"}
        for name, dtype in {**dtypes, "Badpixel": "u1"}.items():
            assert (file[name].shape, file[name].dtype) == ((3, 4, 512, 128), dtype)
            assert file[name].chunks == (1, 1, 512, 128)
            assert file[name].compression == ("gzip" if name == "Badpixel" else None)
        assert not file["DigitalGainLevel"][0].any()
        levels = file["DigitalGainLevel"][1:].mean(axis=(1, 2, 3))
        np.testing.assert_allclose(levels, [5000, 7000], atol=20)
    few = {"trains": 1, "cells": (1,), "constants_dtype": "f4", **NEAR}
    other = tiny_raw_run(tmp_path, **few).constants(9)
    assert other["AnalogOffset"].dtype == np.float32
    assert (other["AnalogOffset"] % 1 != 0).any()
    assert other["DigitalGainLevel"].dtype == np.int16
    np.testing.assert_allclose(
        other["AnalogOffset"], raw_run.constants(9)["AnalogOffset"][:, :2], atol=1.01
    )


def test_constants_vary_by_seed_module_stage_cell_and_pixel():
    options = SimulationOptions("", kind="raw")
    one = PixelConstants(options, 3)
    again = PixelConstants(SimulationOptions("", kind="dark", run=7, cells=(5,)), 3)
    np.testing.assert_array_equal(one.offset(1, 351), again.offset(1, 351))
    np.testing.assert_array_equal(one.bad_kind(9), again.bad_kind(9))
    offset = one.offset(0, 5).astype(float)
    others = [
        PixelConstants(SimulationOptions("", kind="raw", seed=2), 3).offset(0, 5),
        PixelConstants(options, 4).offset(0, 5),
        one.offset(1, 5),
    ]
    for other in others:
        assert (offset - other).std() == pytest.approx(300 * 2**0.5, rel=0.1)
    assert (offset - one.offset(0, 6)).std() == pytest.approx(30 * 2**0.5, rel=0.1)


def test_bad_pixels(raw_run):
    kinds = raw_run.truth["bad_kind"]
    assert (kinds.shape, kinds.dtype) == ((16, 4, 512, 128), np.uint8)
    bad = kinds > 0
    assert bad.mean() == pytest.approx(0.005, rel=0.05)
    always = bad.all(axis=1)
    assert always.mean() == pytest.approx(0.0025, rel=0.1)
    for kind in range(1, 4):
        assert (kinds == kind).mean() == pytest.approx(0.005 / 3, rel=0.1)
    with h5py.File(raw_run.paths.truth) as file:
        assert list(file["bad_kind"].attrs["kinds"]) == ["good", "dead", "hot", "noisy"]


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_dark_runs(stage, dark_runs):
    mock = dark_runs[stage]
    check_valid(mock)
    assert mock.options.run == 10 + stage
    constants = mock.constants(6)
    images = np.array([image for _, _, image in raw_frames(mock, 6)]).astype(np.float64)
    good = mock.good(0)[6]
    level = constants["DigitalGainLevel"][:, 1]
    assert all((gain_stage(digital, level)[good] == stage).all() for _, digital in images)
    mean, spread = images[:, 0].mean(axis=0), images[:, 0].std(axis=0, ddof=1)
    noise = (0.08 * 60, 2, 2)[stage]
    # 65 000 pixels, 16 frames
    assert np.sqrt((spread[good] ** 2).mean()) == pytest.approx(noise, rel=0.03)
    assert np.abs(mean - constants["AnalogOffset"][stage, 1])[good].max() < 6 * noise / 4
    truth = mock.truth
    assert not truth["photons"].any()
    assert not truth["is_particle"].any()
    assert len(truth["pixel"]) == 0
    expected = [0, 0, 0]
    expected[stage] = np.count_nonzero(truth["bad_kind"][[6, 9], 1] == 0)
    assert (truth["medium_pixels"] == expected[1]).all()
    assert (truth["low_pixels"] == expected[2]).all()


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_bad_kinds_can_be_told_apart(stage, dark_runs):
    mock = dark_runs[stage]
    offset = mock.constants(6)["AnalogOffset"][stage, 1]
    analogue = np.array([image[0] for _, _, image in raw_frames(mock, 6)]).astype(np.float64)
    mean, spread = analogue.mean(axis=0) - offset, analogue.std(axis=0, ddof=1)
    kind = mock.truth["bad_kind"][6, 1]
    typical = np.median(spread[kind == pixels.GOOD])
    assert (spread[kind == pixels.DEAD] == 0).all()
    assert spread[kind != pixels.DEAD].min() > 0
    assert (np.abs(mean)[kind == pixels.HOT] > 2900).all()
    assert (np.abs(mean)[kind == pixels.NOISY] < 200).all()
    assert (spread[kind == pixels.NOISY] > 4 * typical).all()
    assert (spread[(kind == pixels.GOOD) | (kind == pixels.HOT)] < 3 * typical).all()


def test_darks_and_raw_run_agree(dark_runs, raw_run, tmp_path):
    shutil.copytree(dark_runs[0].paths.experiment.prefix, tmp_path / "p007927")
    folder = tmp_path / "p007927"
    mock = tiny_raw_run(folder, **NEAR)
    np.testing.assert_array_equal(mock.truth["bad_kind"], raw_run.truth["bad_kind"])
    np.testing.assert_array_equal(dark_runs[2].truth["bad_kind"], raw_run.truth["bad_kind"][:, :2])
    small, large = dark_runs[1].constants(3), raw_run.constants(3)
    for name, values in small.items():
        np.testing.assert_array_equal(values, large[name][:, :2])


def test_constants_are_written_when_they_change(tmp_path):
    few = {"trains": 1, "absent_modules": tuple(range(1, 16))}
    small = tiny_raw_run(tmp_path, cells=(1,), **few).constants(0)
    large = tiny_raw_run(tmp_path, cells=(2,), **few).constants(0)
    assert large["AnalogOffset"].shape[1] == 3
    # fewer cells are there already, and an earlier run may need the others
    kept = tiny_dark_runs(tmp_path, ("low",), cells=(1,), **few)[0].constants(0)
    assert kept["AnalogOffset"].shape[1] == 3
    other = tiny_raw_run(tmp_path, cells=(1,), seed=12, **few).constants(0)
    assert other["AnalogOffset"].shape == small["AnalogOffset"].shape
    assert (other["AnalogOffset"] != small["AnalogOffset"]).any()


def test_constants_of_others_are_not_touched(tmp_path):
    folder = tmp_path / "scratch" / "det" / "constants"
    folder.mkdir(parents=True)
    path = folder / "Cheetah-AGIPD03-calib.h5"
    with h5py.File(path, "w") as file:
        file["AnalogOffset"] = np.zeros(3)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="not simulated"):
        tiny_raw_run(tmp_path)
    assert path.read_bytes() == before
    path.write_bytes(b"precious")
    with pytest.raises(UsageError, match="not simulated"):
        tiny_raw_run(tmp_path)
    assert list(tmp_path.rglob("*.h5")) == [path]
    tiny_run(tmp_path, **ONE_FRAME, **NEAR)


def test_raw_replaces_proc_and_back(tmp_path):
    few = {**ONE_FRAME, **NEAR}
    tiny_run(tmp_path, **few)
    mock = tiny_raw_run(tmp_path, **few)
    assert not mock.paths.proc.exists()
    assert len(list(mock.paths.raw.iterdir())) == 4 + 1
    again = tiny_run(tmp_path, **few)
    assert [path.name for path in again.paths.raw.iterdir()] == ["RAW-R0050-DA01-S00000.h5"]
    assert len(list(again.paths.proc.iterdir())) == 4
    assert again.paths.constants is None


@pytest.mark.parametrize("kind", ["raw", "dark --gain-stage low"])
def test_several_ranks_write_the_same(kind, tmp_path):
    arguments = f"50 --kind {kind} --trains 3 --cells 1,2 --hit-rate 0.3 --sequence-length 2"
    arguments += " --hit-photons 1e6 1e6 --common-mode 9 --absent-modules 0 6 7 8 9 10 11 12 13 14"
    assert command.main([*arguments.split(), "--prefix", str(tmp_path / "one")]) == 0
    words = ["simulate", *arguments.split(), "--prefix", tmp_path / "three"]
    done = run_xfelmpi(words, 3, seconds=limit(60))
    assert done.returncode == 0, done.stderr
    assert len(same_files(tmp_path / "one", tmp_path / "three")) == 12 + 2 + 16 + 2
