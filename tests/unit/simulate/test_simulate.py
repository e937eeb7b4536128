"""The simulator: its files are read back with EXtra-data and h5py and compared with its truth."""

import json
import zlib

import h5py
import numpy as np
import pytest
from checks import equal
from compare import same_files
from extra_data.components import AGIPD1M
from extra_geom import AGIPD_1MGeometry
from extradata import RunDirectory, complaints
from launch import limit, run_xfelmpi
from mockrun import NEAR, read_truth, tiny_run

from xfelmpi._kernels._deflate import Deflater, zlib_compress
from xfelmpi.cli import simulate as command
from xfelmpi.core.errors import UsageError
from xfelmpi.simulate import SimulationOptions, model, parse_cells, plan, run

MODERN = "INSTRUMENT/SPB_DET_AGIPD1M-1/CORR/{}CH0:output/image"
LEGACY = "INSTRUMENT/SPB_DET_AGIPD1M-1/DET/{}CH0:xtdf/image"


MODULES = [3, 4, 8, 15]
"""Those of `NEAR`."""


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("plain") / "p007927")


@pytest.fixture(scope="module")
def near_run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("near") / "p007927", **NEAR)


def module_frames(mock, module, layout=MODERN):
    """Yield (trainId, cellId, pulseId, image) of all frames in a module's files, in file order."""
    for path in sorted(mock.paths.proc.glob(f"*AGIPD{module:02d}-S*.h5")):
        with h5py.File(path) as file:
            group = file[layout.format(module)]
            names = ("trainId", "cellId", "pulseId", "data")
            yield from zip(*(group[name][:] for name in names), strict=True)


def check_against_truth(mock, layout=MODERN, photons=lambda image: image):
    """Compare every module frame in the files with the truth, and the truth with itself."""
    powder = np.zeros_like(mock.truth["powder"])
    litpixels = np.zeros_like(mock.truth["litpixels"])
    totals = np.zeros_like(mock.truth["photons"])
    frames = [mock.frame(row) for row in range(len(mock))]
    for module in range(16):
        rows = []
        for train_id, cell, pulse, image in module_frames(mock, module, layout):
            row = mock.row(train_id, cell)
            assert mock.truth["pulseId"][row] == pulse
            found = photons(image)
            equal(found, frames[row][module])
            powder[module] += found
            litpixels[row] += np.count_nonzero(found)
            totals[row] += found.sum(dtype=np.uint64)
            rows.append(row)
        np.testing.assert_array_equal(np.sort(rows), np.flatnonzero(mock.has(module)))
    equal(powder, mock.truth["powder"])
    np.testing.assert_array_equal(litpixels, mock.truth["litpixels"])
    np.testing.assert_array_equal(totals, mock.truth["photons"])


def check_valid(mock):
    for folder in (mock.paths.proc, mock.paths.raw):
        assert complaints(folder) == []


@pytest.mark.slow
def test_plain_run_is_valid_and_true(plain_run):
    check_valid(plain_run)
    check_against_truth(plain_run)
    truth = plain_run.truth
    assert len(plain_run) == 18
    order = np.lexsort((truth["cellId"], truth["trainId"]))
    np.testing.assert_array_equal(order, np.arange(18))
    assert (truth["modules"] == 0xFFFF).all()
    assert truth["is_particle"].sum() == plain_run.paths.particles > 0
    assert truth["litpixels"][truth["is_particle"]].min() > truth["litpixels"].min()
    dtypes = {name: array.dtype.str.lstrip("<|") for name, array in truth.items()}
    assert dtypes == {
        **{"trainId": "u8", "cellId": "u2", "pulseId": "u8", "modules": "u2"},
        **{"litpixels": "u4", "photons": "u8", "is_particle": "b1", "frames": "i8"},
        **{"pulse_energy": "f8", "n_pulses": "u1", "wavelength": "f8", "powder": "u8"},
        **{"particle_kind": "u1", "theta_z": "f8", "fluence": "f8"},
        **dict.fromkeys(("diameter", "short_axis_diameter", "long_axis_diameter"), "f8"),
        **{"indptr": "i8", "pixel": "i4", "count": "u2"},
    }


@pytest.mark.slow
def test_extra_data_reads_the_detector(plain_run):
    detector = AGIPD1M(RunDirectory(plain_run.paths.proc))
    images = detector.get_array("image.data", unstack_pulses=False)
    assert images.shape == (16, 18, 512, 128)
    assert images.dtype == np.uint8
    for row in range(18):
        equal(images[:, row], plain_run.frame(row))


def test_extra_data_reads_the_beamline_data(plain_run):
    raw = RunDirectory(plain_run.paths.raw)
    truth = plain_run.truth
    energy = raw["SPB_XTD9_XGM/DOOCS/MAIN:output", "data.intensityTD"]
    assert energy.units == "μJ"
    assert energy.shape == (3, 1000)
    in_joule = energy.ndarray().astype(np.float64)[:, :6] * 1e-6
    np.testing.assert_array_equal(in_joule.reshape(-1), truth["pulse_energy"])
    assert (energy.ndarray()[:, 6:] == 1).all()
    wavelength = raw["SPB_XTD9_XGM/DOOCS/MAIN", "pulseEnergy.wavelengthUsed"]
    assert wavelength.units == "nm"
    assert wavelength.as_single_value() * 1e-9 == pytest.approx(truth["wavelength"][0])
    assert truth["wavelength"] == pytest.approx(np.full(18, 2.0664e-10), rel=1e-4)
    assert raw["SPB_XTD9_XGM/DOOCS/MAIN"].run_value("classId") == "DoocsXGM"


@pytest.mark.slow
def test_bunch_pattern_says_which_pulse_is_which(tmp_path):
    mock = tiny_run(tmp_path, trains=2, cells=(1, 3), pulse_step=4, **NEAR)
    raw = RunDirectory(mock.paths.raw)
    source = "SPB_RR_UTC/TSYS/TIMESERVER:outputBunchPattern"
    pattern = raw[source, "data.bunchPatternTable"].ndarray()
    slots = np.flatnonzero(pattern[0] >> 18 & 0xF == 4)
    np.testing.assert_array_equal(slots, [0, 4, 8, 12])
    energy = raw["SPB_XTD9_XGM/DOOCS/MAIN:output", "data.intensityTD"].ndarray()
    np.testing.assert_array_equal(mock.truth["pulseId"], [4, 12, 4, 12])
    which = np.searchsorted(slots, mock.truth["pulseId"])
    expected = energy[[0, 0, 1, 1], which].astype(np.float64) * 1e-6
    np.testing.assert_array_equal(mock.truth["pulse_energy"], expected)


def test_metadata(plain_run):
    for folder in (plain_run.paths.proc, plain_run.paths.raw):
        metadata = RunDirectory(folder).run_metadata()
        assert metadata["sample"] == "Simulated spheres"
        assert metadata["proposalNumber"] == 7927
        assert metadata["runNumber"] == 50
        assert metadata["dataFormatVersion"] == "1.2"
    with h5py.File(plain_run.paths.truth) as file:
        assert json.loads(file.attrs["options"])["seed"] == plain_run.options.seed


def test_geometry_is_readable(plain_run):
    geometry = AGIPD_1MGeometry.from_crystfel_geom(plain_run.paths.geometry)
    nominal = AGIPD_1MGeometry.example()
    np.testing.assert_allclose(
        geometry.get_pixel_positions(), nominal.get_pixel_positions(), atol=1e-6
    )
    text = plain_run.paths.geometry.read_text()
    assert "clen = 0.7" in text
    assert "photon_energy = 6000" in text


def test_data_set_layout(plain_run):
    with h5py.File(plain_run.paths.proc / "CORR-R0050-AGIPD04-S00000.h5") as file:
        data = file[MODERN.format(4) + "/data"]
        assert data.chunks == (1, 512, 128)
        assert (data.shuffle, data.compression, data.compression_opts) == (True, "gzip", 1)
        assert data.id.get_num_chunks() == 18
        link = file.get(LEGACY.format(4).removesuffix("/image"), getlink=True)
        assert isinstance(link, h5py.SoftLink)
        np.testing.assert_array_equal(file[LEGACY.format(4) + "/data"][:], data[:])
        assert "mask" not in data.parent


@pytest.mark.slow
def test_truth_of_hits_is_the_full_truth_without_the_rest(plain_run, tmp_path):
    mock = tiny_run(tmp_path, truth="hits")
    np.testing.assert_array_equal(
        mock.truth["frames"], np.flatnonzero(plain_run.truth["is_particle"])
    )
    for row in mock.truth["frames"]:
        equal(mock.frame(row), plain_run.frame(row))
    for name in ("litpixels", "photons", "powder", "pulse_energy"):
        np.testing.assert_array_equal(mock.truth[name], plain_run.truth[name])


@pytest.mark.slow
def test_vetoed_frames_are_missing_everywhere_and_change_nothing_else(plain_run, tmp_path):
    mock = tiny_run(tmp_path, veto=0.4, pulse_step=2, **NEAR)
    check_valid(mock)
    check_against_truth(mock)
    assert 0 < len(mock) < 18
    counts = np.unique(mock.truth["trainId"], return_counts=True)[1]
    assert len(set(counts)) > 1
    np.testing.assert_array_equal(mock.truth["pulseId"], mock.truth["cellId"] * 2)
    for row, (train, cell) in enumerate(
        zip(mock.truth["trainId"], mock.truth["cellId"], strict=True)
    ):
        same = plain_run.row(train, cell)
        for name in ("pulse_energy", "is_particle"):
            assert mock.truth[name][row] == plain_run.truth[name][same]


@pytest.mark.slow
def test_trains_without_any_frame(tmp_path):
    mock = tiny_run(tmp_path, cells=(2, 5), veto=0.75, trains=4, seed=3, **NEAR)
    assert 0 < len(set(mock.truth["trainId"])) < 4
    check_valid(mock)
    check_against_truth(mock)


@pytest.mark.slow
def test_run_without_any_frame(tmp_path):
    mock = tiny_run(tmp_path, veto=1, **NEAR)
    assert len(mock) == 0
    check_valid(mock)


@pytest.mark.slow
def test_reordered_cells(near_run, tmp_path):
    mock = tiny_run(tmp_path, reorder_cells=True, **NEAR)
    check_valid(mock)
    check_against_truth(mock)
    orders = np.array([cell for _, cell, *_ in module_frames(mock, 8)]).reshape(3, 6)
    assert (np.diff(orders.astype(int)) < 0).any()
    assert (orders[0] != orders[1]).any()
    np.testing.assert_array_equal(mock.truth["pixel"], near_run.truth["pixel"])


@pytest.mark.parametrize("style", ["empty", "gone"])
@pytest.mark.slow
def test_missing_trains(style, plain_run, tmp_path):
    missing = ((3, 0), (3, 2), (7, 1))
    others = (1, 2, *range(8, 16))
    mock = tiny_run(tmp_path, missing=missing, missing_style=style, absent_modules=others)
    check_valid(mock)
    check_against_truth(mock)
    assert len(mock) == 18
    for module, position in missing:
        present = mock.has(module).reshape(3, 6)[position]
        assert not present.any()
    np.testing.assert_array_equal(mock.has(0), True)
    with h5py.File(mock.paths.proc / "CORR-R0050-AGIPD03-S00000.h5") as file:
        assert len(file["INDEX/trainId"]) == (3 if style == "empty" else 1)
    np.testing.assert_array_equal(mock.truth["powder"][0], plain_run.truth["powder"][0])


@pytest.mark.slow
def test_train_that_every_module_lost_has_no_rows(tmp_path):
    mock = tiny_run(tmp_path, missing=tuple((m, 1) for m in MODULES), **NEAR)
    check_valid(mock)
    check_against_truth(mock)
    first = mock.options.first_train
    assert set(mock.truth["trainId"]) == {first, first + 2}


@pytest.mark.parametrize("style", ["empty", "gone"])
@pytest.mark.slow
def test_module_that_lost_every_train(style, tmp_path):
    missing = tuple((4, t) for t in range(3))
    mock = tiny_run(tmp_path, missing=missing, missing_style=style, **NEAR)
    check_valid(mock)
    check_against_truth(mock)
    RunDirectory(mock.paths.proc)


@pytest.mark.slow
def test_absent_modules(plain_run, tmp_path):
    mock = tiny_run(tmp_path, absent_modules=(0, 15))
    check_valid(mock)
    check_against_truth(mock)
    assert len(list(mock.paths.proc.iterdir())) == 14
    assert (mock.truth["modules"] == 0x7FFE).all()
    assert not mock.truth["powder"][[0, 15]].any()
    np.testing.assert_array_equal(mock.truth["powder"][7], plain_run.truth["powder"][7])


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.slow
def test_sequences(ragged, near_run, tmp_path):
    mock = tiny_run(tmp_path, sequence_length=2, ragged_sequences=ragged, **NEAR)
    check_valid(mock)
    check_against_truth(mock)
    lengths = {}
    for module in (3, 4):
        lengths[module] = []
        for path in sorted(mock.paths.proc.glob(f"*AGIPD{module:02d}*")):
            with h5py.File(path) as file:
                lengths[module].append(len(file["INDEX/trainId"]))
    assert lengths == {4: [2, 1], 3: [1, 2] if ragged else [2, 1]}
    assert len(RunDirectory(mock.paths.proc).train_ids) == 3
    np.testing.assert_array_equal(mock.truth["count"], near_run.truth["count"])


@pytest.mark.parametrize("compression", ["gzip", "none"])
@pytest.mark.slow
def test_two_byte_photons(compression, tmp_path):
    mock = tiny_run(tmp_path, dtype="u2", hit_photons=(1e6, 3e6), compression=compression, **NEAR)
    check_valid(mock)
    check_against_truth(mock)
    assert mock.truth["count"].max() > 255
    with h5py.File(mock.paths.proc / "CORR-R0050-AGIPD03-S00000.h5") as file:
        data = file[MODERN.format(3) + "/data"]
        assert data.dtype == np.uint16
        assert data.compression == (None if compression == "none" else "gzip")


@pytest.mark.slow
def test_one_byte_photons_are_cut_before_the_truth_is_taken(tmp_path):
    mock = tiny_run(tmp_path, hit_photons=(1e6, 3e6), **NEAR)
    check_against_truth(mock)
    assert mock.truth["count"].max() == 255


@pytest.mark.parametrize("noise", [0.08, 1.0])
@pytest.mark.parametrize("compression", ["gzip", "none"])
@pytest.mark.slow
def test_float_signal_gives_back_the_photons(noise, compression, tmp_path):
    mock = tiny_run(
        tmp_path,
        **{"trains": 1, "dtype": "f4", "adu_per_photon": 7.3, "noise": noise},
        **{"compression": compression, **NEAR},
    )
    check_valid(mock)

    def photons(signal):
        assert signal.dtype == np.float32
        spread = signal.std()
        assert spread > 0.07 * 7.3
        counts = np.floor(signal / np.float32(7.3) + np.float32(1 - 0.7))
        return np.maximum(counts, 0).astype(np.uint16)

    check_against_truth(mock, photons=photons)


@pytest.mark.parametrize(
    ("chunk_frames", "compression"), [(4, "gzip"), (5, "none"), (0, "none"), (64, "gzip")]
)
@pytest.mark.slow
def test_other_chunks(chunk_frames, compression, tmp_path):
    mock = tiny_run(tmp_path, chunk_frames=chunk_frames, compression=compression, **NEAR)
    check_valid(mock)
    check_against_truth(mock)
    with h5py.File(mock.paths.proc / "CORR-R0050-AGIPD03-S00000.h5") as file:
        chunks = file[MODERN.format(3) + "/data"].chunks
        assert chunks == ((min(chunk_frames, 18), 512, 128) if chunk_frames else None)


@pytest.mark.slow
def test_legacy_layout(tmp_path):
    mock = tiny_run(tmp_path, layout="legacy", **NEAR)
    check_valid(mock)
    check_against_truth(mock, LEGACY)
    data = RunDirectory(mock.paths.proc)
    assert "SPB_DET_AGIPD1M-1/DET/4CH0:xtdf" in data.instrument_sources
    assert not any("CORR" in source for source in data.all_sources)
    assert data.run_metadata()["dataFormatVersion"] == "1.0"
    counts = data["SPB_DET_AGIPD1M-1/DET/4CH0:xtdf", "header.pulseCount"].ndarray()
    np.testing.assert_array_equal(counts, [6, 6, 6])


@pytest.mark.slow
def test_mask(tmp_path):
    mock = tiny_run(tmp_path, with_mask=True, **NEAR)
    check_valid(mock)
    with h5py.File(mock.paths.proc / "CORR-R0050-AGIPD03-S00000.h5") as file:
        mask = file[MODERN.format(3) + "/mask"]
        assert mask.shape == (18, 512, 128)
        assert mask.dtype == np.uint32
        assert mask.id.get_storage_size() == 0
        assert not mask[5].any()


@pytest.mark.slow
def test_bad_cells(near_run, tmp_path):
    """Dead, hot and flickering pixels as the truth tells them, all else as without them."""
    mock = tiny_run(tmp_path, bad_cells=0.03, **NEAR)
    check_valid(mock)
    check_against_truth(mock)
    kinds = mock.truth["bad_kind"]
    assert kinds.shape == (16, 6, 512, 128)
    assert "bad_kind" not in near_run.truth
    counts = np.bincount(kinds.ravel(), minlength=4) / kinds.size
    np.testing.assert_allclose(counts, [0.97, 0.01, 0.01, 0.01], atol=5e-4)
    assert 0.014 < (kinds > 0).all(axis=1).mean() < 0.016
    found, before = (
        np.array([run.frame(i)[MODULES] for i in range(len(run))], np.int32)
        for run in (mock, near_run)
    )
    false = found - before
    of_frame = kinds[MODULES][:, mock.truth["cellId"]].swapaxes(0, 1)
    assert not false[of_frame == 0].any()
    assert not found[of_frame == 1].any()
    assert false[of_frame == 2].min() >= 0
    assert 5 < false[of_frame == 2].mean() < 8
    flickers = false[of_frame == 3]
    assert (flickers > 0).mean() == pytest.approx(0.2, abs=0.02)
    assert (flickers.min(), flickers.max()) == (0, 20)


@pytest.mark.parametrize("options", [{"dtype": "u2"}, {"chunk_frames": 4, "layout": "legacy"}])
@pytest.mark.slow
def test_masks_of_frames(tmp_path, options):
    """Some pixels of a cell always, others at times; the truth says what is left."""
    options |= NEAR
    mock = tiny_run(
        tmp_path, masked_pixels=0.1, masked_at_times=20.0, reorder_cells=True, **options
    )
    check_valid(mock)
    detector = AGIPD1M(RunDirectory(mock.paths.proc))
    bits, images = (detector[f"image.{name}"].ndarray() for name in ("mask", "data"))
    trains, cells = (detector[f"image.{n}"].ndarray()[3] for n in ("trainId", "cellId"))
    assert bits.dtype == np.uint32
    # EXtra's names: 0 … 23, and two for users
    assert not np.bitwise_or.reduce(bits, axis=None) & ~np.uint32((1 << 24) - 1 | 3 << 30)
    for cell in range(6):
        always = np.bitwise_and.reduce(bits[:, cells == cell], axis=1)
        assert 0.095 < (always != 0).mean() < 0.105
        rest = (bits[:, cells == cell] != 0) & (always == 0)[:, None]
        assert 5 < rest.sum(axis=(2, 3)).mean() < 30
    for i in range(len(mock)):
        row = mock.row(trains[i], cells[i])
        equal(images[:, i], mock.frame(row)[MODULES])
        left = np.where(bits[:, i], 0, images[:, i])
        assert mock.truth["unmasked_photons"][row] == left.sum()
        assert mock.truth["unmasked_litpixels"][row] == (left > 0).sum()


@pytest.mark.slow
def test_again_and_with_another_seed(tmp_path):
    few = {"trains": 2, "cells": (0, 1), **NEAR}
    tiny_run(tmp_path / "a", **few)
    tiny_run(tmp_path / "b", **few, sequence_length=1)
    # what was there before must not be mixed with what is there now
    tiny_run(tmp_path / "b", **few)
    assert len(same_files(tmp_path / "a", tmp_path / "b")) == 7
    other = tiny_run(tmp_path / "b", **few, seed=12)
    assert (other.truth["photons"] != read_truth_of(tmp_path / "a")["photons"]).all()


def read_truth_of(prefix):
    return read_truth(prefix / "scratch" / "truth" / "r0050_truth.h5")


@pytest.mark.slow
def test_foreign_runs_are_not_touched(tmp_path):
    folder = tmp_path / "proc" / "r0050"
    folder.mkdir(parents=True)
    (folder / "CORR-R0050-AGIPD00-S00000.h5").write_bytes(b"precious")
    with pytest.raises(UsageError, match="not simulated"):
        tiny_run(tmp_path)
    assert [path.read_bytes() for path in folder.iterdir()] == [b"precious"]


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 70])
@pytest.mark.slow
def test_every_file_is_written_by_one_rank(size, ragged, tmp_path):
    options = SimulationOptions(
        tmp_path, trains=150, sequence_length=64, ragged_sequences=ragged, absent_modules=(2,)
    )
    shares = [run.share(options, rank, size) for rank in range(size)]
    files = [file for part in shares for file in part]
    assert len(files) == len(set(files)) == 15 * 3 + 3
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.slow
def test_several_ranks_write_the_same(tmp_path):
    arguments = "50 --trains 3 --cells 0:6:2 --hit-rate 0.3 --sequence-length 2 --veto 0.2"
    arguments += " --absent-modules 0 6 7 8 9 10 11 12 13 14"
    assert command.main([*arguments.split(), "--prefix", str(tmp_path / "one")]) == 0
    words = ["simulate", *arguments.split(), "--prefix", tmp_path / "three"]
    done = run_xfelmpi(words, 3, seconds=limit(60))
    assert done.returncode == 0, done.stderr
    assert len(same_files(tmp_path / "one", tmp_path / "three")) == 12 + 2 + 2


@pytest.mark.slow
def test_command_passes_every_option_on(tmp_path, monkeypatch):
    monkeypatch.setenv("EXP_PREFIX", str(tmp_path))
    text = (
        "7 --kind raw --trains 9 --cells 1,5 --pulse-step 2 --veto 0.1 --reorder-cells "
        "--first-train 12 --missing 3:0 4:1 --missing-style gone --absent-modules 2 1 "
        "--hit-rate 0.2 --size-nm 10 20 --hit-photons 30 40 --background 5 --pulse-energy-mj 0.5 "
        "--pulse-jitter 0.01 --photon-energy-kev 9 --distance 1.5 --sample virus --seed 8 "
        "--layout legacy --dtype f4 --compression none --chunk-frames 0 --adu-per-photon 20 "
        "--clip-noise 0 --gain-spread 0 --common-mode 9 --bad-pixels 0.1 --bad-cells 0.2 "
        "--gain-stage low --constants-dtype f4 --noise 0.1 --with-mask "
        "--sequence-length 3 --ragged-sequences --truth full "
        "--masked-pixels 0.02 --masked-at-times 4.5"
    )
    options = command.options_from(command.parser().parse_args(text.split()))
    assert options == SimulationOptions(
        **{"prefix": tmp_path, "run": 7, "trains": 9, "cells": (1, 5), "pulse_step": 2},
        **{"veto": 0.1, "reorder_cells": True, "first_train": 12, "missing": ((3, 0), (4, 1))},
        **{"missing_style": "gone", "absent_modules": (2, 1), "hit_rate": 0.2},
        **{"size_nm": (10, 20), "hit_photons": (30, 40), "background": 5},
        **{"pulse_energy_mj": 0.5, "pulse_jitter": 0.01, "photon_energy_kev": 9},
        **{"distance": 1.5, "sample": "virus", "seed": 8, "layout": "legacy", "dtype": "f4"},
        **{"compression": "none", "chunk_frames": 0, "adu_per_photon": 20, "noise": 0.1},
        **{"kind": "raw", "clip_noise": 0, "gain_spread": 0, "common_mode": 9},
        **{"bad_pixels": 0.1, "bad_cells": 0.2, "gain_stage": "low", "constants_dtype": "f4"},
        **{"with_mask": True, "sequence_length": 3, "ragged_sequences": True, "truth": "full"},
        **{"masked_pixels": 0.02, "masked_at_times": 4.5},
    )
    defaults = command.options_from(command.parser().parse_args(["50"]))
    assert defaults == SimulationOptions(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "50 --trains 0",
        "50 --trains many",
        "50 --cells 353",
        "50 --cells 5:1",
        "50 --cells 1:2:3:4",
        "50 --cells some",
        "50 --pulse-step 8",
        "50 --veto 1.5",
        "50 --missing 3",
        "50 --missing 16:0",
        "50 --missing 3:16",
        "50 --absent-modules 16",
        "50 --size-nm 20 10",
        "50 --size-nm 20 inf",
        "50 --hit-photons 1 1e12",
        "50 --particle spheroid --axis-ratio 1 inf",
        "50 --chunk-frames 0",
        "50 --dtype u4",
        "50 --unknown",
        "50 --cells 0:99999999999999999999",
        "50 --sample \udcff",
        "50 --sample a\0b",
        "50 --first-train 1000000000000",
        "50 --kind corrected",
        "50 --kind raw --adu-per-photon 14",
        "50 --kind dark --gain-stage lowest",
        "50 --kind raw --constants-dtype u2",
        "50 --kind raw --bad-pixels 0.6",
        "50 --bad-cells 0.6",
        "50 --absent-modules " + " ".join(map(str, range(16))),
    ],
)
@pytest.mark.slow
def test_wrong_use(arguments, tmp_path):
    with pytest.raises(UsageError):
        command.main([*arguments.split(), "--prefix", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_no_prefix(monkeypatch):
    monkeypatch.delenv("EXP_PREFIX", raising=False)
    with pytest.raises(UsageError, match="EXP_PREFIX"):
        command.main(["50"])


def test_cells_in_words():
    assert parse_cells("3") == (0, 1, 2)
    assert parse_cells("0:7:3") == (0, 3, 6)
    assert parse_cells("4:6") == (4, 5)
    assert parse_cells("9,1,5") == (1, 5, 9)
    assert parse_cells("5,") == (5,)


def test_sphere_has_its_minima_where_tan_x_is_x():
    radius = 30e-9
    for zero in (4.493409, 7.725252, 10.904122):
        assert model.sphere_intensity(np.array([zero / radius]), radius)[0] < 1e-12
    near = model.sphere_intensity(np.array([0, 0.02, 0.1]) / radius, radius)
    np.testing.assert_allclose(near, [1, 1 - 0.02**2 / 5, 1 - 0.1**2 / 5], atol=3e-5)


def test_photons_follow_the_model():
    """Means over many frames agree with what was asked for, within five standard errors."""
    options = SimulationOptions("", cells=tuple(range(352)), hit_rate=0, background=100)
    geometry = AGIPD_1MGeometry.example()
    scene = model.make_scene(geometry.get_pixel_positions(), options)
    train = plan.plan_train(options, 0)
    drawn = [model.ModuleModel(scene, options, m).draw(train) for m in range(16)]
    total = sum(int(photons.count.sum()) for photons in drawn)
    expected = 16 * train.background.sum()
    assert abs(total - expected) < 5 * expected**0.5
    assert expected == pytest.approx(16 * 352 * 100, rel=0.05)
    # brighter in the middle: modules 0 and 3 are the outer and the inner one of a quadrant
    assert drawn[3].count.sum() > 1.1 * drawn[0].count.sum()
    mean = model.ring_photons(scene, 60e-9, 5000)
    assert mean @ scene.ring_pixels == pytest.approx(5000)


@pytest.mark.parametrize("level", [0, 1, 6, 12])
@pytest.mark.parametrize("size", [0, 1, 65536, 100_001])
def test_deflate_makes_zlib_streams(level, size):
    rng = np.random.default_rng(size)
    data = rng.poisson(0.01, size).astype(np.uint8)
    data.flags.writeable = False
    assert zlib.decompress(zlib_compress(data, level)) == data.tobytes()
    deflater = Deflater(level)
    for part in (data, data[: size // 2], data):
        assert zlib.decompress(deflater.compress(part)) == part.tobytes()


def test_deflate_refuses_unknown_levels():
    with pytest.raises(ValueError, match="13"):
        zlib_compress(b"abc", 13)


def test_simulate_returns_where_everything_is(plain_run):
    paths = plain_run.paths
    assert paths.frames == len(plain_run)
    for path in (paths.proc, paths.raw, paths.geometry, paths.truth):
        assert path.exists()
    assert not list(paths.experiment.output.rglob("*.part"))
    assert [path.name for path in paths.truth.parent.iterdir()] == ["r0050_truth.h5"]


def test_file_without_frames_of_a_detector_whose_rows_are_trains(tmp_path):
    """All trains of the file are among the missing ones."""
    options = {"detector": "JUNGFRAU-4M", "trains": 1, "cells": (0,), "hit_photons": (500.0, 1e3)}
    run = tiny_run(tmp_path, **options, missing=((2, 0),), missing_style="empty")
    (path,) = run.paths.proc.glob("*JNGFR03-S00000.h5")
    with h5py.File(path) as file:
        images = file["INSTRUMENT/SPB_IRDA_JF4M/CORR/JNGFR03:output/data"]
        assert {len(images[name]) for name in ("adc", "trainId", "memoryCell")} == {0}
