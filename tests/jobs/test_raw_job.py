"""The main job on raw runs, started as users start it, against the truth and against numpy."""

import json
import re
import shutil
from math import erfc, sqrt
from pathlib import Path

import h5py
import launch
import numpy as np
import pytest
import yaml
from checks import check_outputs, problems, without_energies, without_unwritten
from compare import assert_same_outputs
from expected import FRAME_SHAPE, Expected
from extra_data.components import AGIPD1M
from extra_data.tests.make_examples import make_reduced_spb_run, make_spb_run
from extradata import RunDirectory
from launch import call_xfelmpi, output_files, run_job, run_xfelmpi
from mockrun import MockRun, allocate_frames, tiny_raw_run, tiny_run
from reference import raw_photons
from runnames import constants_name

from xfelmpi.core.config.parts import MemorySettings
from xfelmpi.core.errors import InputError
from xfelmpi.core.frame_table import FrameTable
from xfelmpi.core.paths import Experiment
from xfelmpi.core.sparse_frames import FrameSums
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.reduction.frame_loop import FEWEST_BLOCKS, MOST_TRAINS, train_blocks
from xfelmpi.reduction.memory_budget import spare_memory
from xfelmpi.run.data_choice import choose_data

PROPOSAL = "p007927"
SOURCE = "INSTRUMENT/SPB_DET_AGIPD1M-1/DET/{}CH0:xtdf/image"
ALL_HITS = ("--decide", "fixed", "--fixed-threshold", "-1")
ONE_MODULE = {"absent_modules": tuple(range(1, 16))}
FEW_MODULES = {"absent_modules": tuple(range(4, 16))}


def process(mock: MockRun, output, *options, **how):
    """Run the main job on a simulated raw run."""
    words = ["--adu-per-photon", 60]
    if "--constants" not in options:
        words += ["--constants", mock.paths.constants]
    return launch.process(mock, output, *words, *options, **how)


def good_of(mock, without=()):
    """Return the good pixels of every cell by the constants, and without some modules."""
    good = {c: mock.truth["bad_kind"][:, c] == 0 for c in mock.options.cells}
    for pixels in good.values():
        # of modules that the run lacks, nobody reads the constants
        pixels[list(mock.options.absent_modules)] = True
        pixels[list(without)] = False
    return good


def raw_image(mock, row, module) -> np.ndarray:
    """Return the analogue and digital image of one frame, from the files."""
    train, cell = mock.truth["trainId"][row], mock.truth["cellId"][row]
    for path in mock.paths.raw.glob(f"RAW-*-AGIPD{module:02d}-S*.h5"):
        with h5py.File(path) as file:
            image = file[SOURCE.format(module)]
            here = (image["trainId"][:, 0] == train) & (image["cellId"][:, 0] == cell)
            if here.any():
                return image["data"][np.flatnonzero(here)[0]]
    raise AssertionError("no such frame")


def numpy_photons(mock, row, module, common_mode) -> tuple[np.ndarray, np.ndarray]:
    """Return photons of a frame of a module, and its pixels that are bad, by the formula."""
    cell = mock.truth["cellId"][row]
    constants = mock.constants(module)
    names = ("AnalogOffset", "RelativeGain", "DigitalGainLevel", "Badpixel")
    photons, bad_in_frame, _ = raw_photons(
        *raw_image(mock, row, module),
        *(constants[name][:, cell] for name in names),
        np.ones((512, 128), bool),
        60.0,
        common_mode=common_mode,
    )
    return photons, bad_in_frame


def hits_of(output, run=50):
    """Return (rows, images, masks) of the CXI file."""
    with h5py.File(output / "saved_hits" / f"r{run:04d}_hits.cxi") as file:
        detector = file["entry_1/instrument_1/detector_1"]
        return file["entry_1/vds_index"][:], detector["data"][:], detector["mask"][:]


def warnings_in(done) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("WARNING")]


# every kind of run equals its truth


def test_outputs_equal_the_truth(tmp_path):
    """All as users have it: constants where they are looked for, the data chosen by the program."""
    mock = tiny_raw_run(tmp_path / PROPOSAL)
    assert mock.paths.constants == mock.options.prefix / "scratch" / "det" / "constants"
    done = run_xfelmpi([50, "--adu-per-photon", 60], 2, EXP_PREFIX=mock.options.prefix)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"using raw data: \S*proc/r0050 has no detector files", done.stdout)
    assert f"constants: {mock.paths.constants}, 16 modules, 3 cells" in done.stdout
    assert (mock.options.prefix / "scratch" / "vds" / "r0050_vds_raw.h5").exists()
    assert warnings_in(done) == []
    check_outputs(mock.options.prefix / "scratch", Expected(mock, good=good_of(mock)))


CASES = {
    "i4, chunks of 16": {"constants_dtype": "i4", "chunk_frames": 16, "trains": 6},
    "f4, contiguous, nominal gains": {
        **{"constants_dtype": "f4", "chunk_frames": 0, "gain_spread": 0.0},
    },
    "everything odd": {
        **{"trains": 5, "cells": (1, 2, 6), "veto": 0.3, "reorder_cells": True},
        **{"sequence_length": 2, "ragged_sequences": True, "chunk_frames": 2},
        **{"missing": ((3, 0), (3, 4), (2, 1)), "missing_style": "gone", "hit_rate": 0.6},
    },
}


@pytest.mark.parametrize("name", CASES)
def test_other_runs_equal_their_truth(name, tmp_path):
    mock = tiny_raw_run(tmp_path / PROPOSAL, **FEW_MODULES, **CASES[name])
    options = ("--data", "raw", "--no-vds", "--decide", "fixed", "--fixed-threshold", "250")
    process(mock, tmp_path / "out", *options, status=3, page=True)
    expected = Expected(mock, good=good_of(mock), decide="fixed", fixed_threshold=250.0)
    assert expected.is_hit.any()
    assert expected.n_misses > 0
    check_outputs(tmp_path / "out", expected)


def test_masks_and_bad_pixels_of_the_constants(tmp_path):
    """A pixel is good if the masks and the constants say so."""
    mock = tiny_raw_run(tmp_path / PROPOSAL, **FEW_MODULES)
    rng = np.random.default_rng(41)
    overall, region = rng.random((2, *FRAME_SHAPE)) < 0.8
    per_cell = rng.random((2, *FRAME_SHAPE)) < 0.8
    for name, pixels in (("all", overall), ("region", region), ("cells", per_cell)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["entry_1/good_pixels"] = pixels
            file["entry_1/cellIds"] = [3, 0]  # cell 2 has no mask of its own
    options = ["--global-mask", tmp_path / "all.h5", "--hit-mask", tmp_path / "region.h5"]
    options += ["--cell-mask", tmp_path / "cells.h5", "--no-vds"]
    process(mock, tmp_path / "out", *options, status=3)
    good = {cell: pixels & overall for cell, pixels in good_of(mock).items()}
    good[3] &= per_cell[0]
    good[0] &= per_cell[1]
    check_outputs(tmp_path / "out", Expected(mock, good=good, region=region))


# the same for any number of ranks and any block size

BLOCKS = [(0, "256M"), (2, "324M"), (3, "1G")]


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    """A run with so many photons that the memory limit decides how many trains are a block."""
    folder = tmp_path_factory.mktemp("bright") / PROPOSAL
    mock = tiny_raw_run(
        folder, trains=5, background=30000.0, hit_photons=(3e6, 6e6), constants_dtype="f4"
    )
    assert mock.truth["medium_pixels"].max() > 1000
    assert mock.truth["low_pixels"].max() > 10
    return mock


BRIGHT_HITS = ("--no-vds", "--decide", "fixed", "--fixed-threshold", "420000")


@pytest.fixture(scope="module")
def bright_outputs(bright, tmp_path_factory):
    """The outputs of that run with one rank and room for everything, and what was said."""
    folder = tmp_path_factory.mktemp("outputs")
    done = process(bright, folder / "plain", *BRIGHT_HITS, "--memory-per-rank", "1G")
    options = ("--no-vds", *ALL_HITS, "--common-mode", "asic", "--memory-per-rank", "1G")
    process(bright, folder / "asic", *options)
    return folder, done


def table_of(train_id) -> FrameTable:
    """Return frames of which nothing but the train matters."""
    n = len(train_id)
    places = np.zeros((2, n, 16), np.int32)
    return FrameTable.of_places(np.asarray(train_id), np.zeros(n, "u2"), np.zeros(n, "u8"), *places)


def blocks_of(mock, memory: int):
    """Return how many trains the blocks of a single rank have, given its memory."""
    sums = FrameSums.zeros(len(mock))
    sums.entries[:] = mock.truth["litpixels"]
    settings = MemorySettings(memory_per_rank=memory, checkpoint_minutes=5.0)
    room = spare_memory(settings, AGIPD_1M.frame_pixels) // 4 // 6
    frames = table_of(mock.truth["trainId"])
    return [(b - a) // 3 for a, b in train_blocks(frames, sums, room, "raw")]


def test_block_sizes_differ(bright):
    """What the memory limits of these tests mean."""
    found = [blocks_of(bright, m << 20) for m in (256, 324, 1024)]
    assert found == [[1, 1, 1, 1, 1], [1, 3, 1], [1, 4]]


def test_bright_run_equals_the_truth(bright, bright_outputs):
    folder, done = bright_outputs
    expected = Expected(bright, good=good_of(bright), decide="fixed", fixed_threshold=420000.0)
    assert (expected.is_hit == bright.truth["is_particle"]).all()
    check_outputs(folder / "plain", expected)
    assert problems(folder / "plain") == []
    for stage in ("medium", "low"):
        total = int(bright.truth[f"{stage}_pixels"].sum())
        line = rf"^{stage} +{total:,}   pixels in {stage} gain, {total / 15:.2f} per frame$"
        assert re.search(line, done.stdout, re.M)


@pytest.mark.parametrize(("ranks", "memory"), BLOCKS)
def test_same_for_all_ranks_and_blocks(bright, bright_outputs, tmp_path, ranks, memory):
    process(bright, tmp_path, *BRIGHT_HITS, "--memory-per-rank", memory, ranks=ranks)
    assert_same_outputs(bright_outputs[0] / "plain", tmp_path)


@pytest.mark.parametrize(("ranks", "memory"), [(0, "324M"), (3, "256M")])
def test_common_mode_same_for_all_ranks_and_blocks(bright, bright_outputs, tmp_path, ranks, memory):
    options = ("--no-vds", *ALL_HITS, "--common-mode", "asic", "--memory-per-rank", memory)
    process(bright, tmp_path, *options, ranks=ranks)
    assert_same_outputs(bright_outputs[0] / "asic", tmp_path)


def test_common_mode_equals_numpy_on_every_frame(bright, bright_outputs):
    """A third of the pixels is lit: the median is not the common mode, but it is the median."""
    rows, images, masks = hits_of(bright_outputs[0] / "asic")
    assert rows.tolist() == list(range(15))
    differ = 0
    for row in rows:
        for module in range(16):
            photons, bad_in_frame = numpy_photons(bright, row, module, common_mode=True)
            np.testing.assert_array_equal(images[row, module], photons)
            right = bright.good(row)[module] & ~bad_in_frame
            np.testing.assert_array_equal(masks[row, module] == 0, right)
            differ += np.count_nonzero(photons != bright.frame(row)[module])
    assert differ > 0, "the common mode should matter here"


def test_a_block_has_at_most_some_trains():
    frames, sums = table_of(np.repeat(np.arange(50), 2)), FrameSums.zeros(100)
    blocks = list(train_blocks(frames, sums, 1 << 20, "raw"))
    assert [(b - a) // 2 for a, b in blocks] == [1, *[MOST_TRAINS["raw"]] * 3, 1]
    blocks = list(train_blocks(frames, sums, 1 << 20, "proc"))
    assert [(b - a) // 2 for a, b in blocks] == [1, *[50 // FEWEST_BLOCKS] * 16, 1]


# known photons, drift and noise


@pytest.fixture(scope="module")
def drifting(tmp_path_factory):
    """A run with enough frames to find its hits for sure, and drifts far above a photon."""
    return tiny_raw_run(
        tmp_path_factory.mktemp("drift") / PROPOSAL,
        **{"trains": 20, "cells": tuple(range(5)), "hit_rate": 0.1, "background": 100.0},
        **{"hit_photons": (5e3, 1e4), "common_mode": 100.0, "bad_pixels": 0.01},
        **FEW_MODULES,
    )


def test_hits_of_a_drifting_run_are_its_particles(drifting, tmp_path):
    """With the common mode subtracted; all files equal the truth, photon by photon."""
    options = ("--no-vds", "--decide", "run", "--common-mode", "asic")
    process(drifting, tmp_path, *options, status=3, page=True)
    expected = Expected(drifting, good=good_of(drifting), decide="run")
    particles = drifting.truth["is_particle"]
    sigma = expected.statistics["hit_sigma"]
    assert 5 < particles.sum() < 20
    # far enough from the threshold of 4 on both sides
    assert sigma[particles].min() > 6
    assert sigma[~particles].max() < 3.5
    check_outputs(tmp_path, expected)
    with h5py.File(tmp_path / "events" / "r0050_events.h5") as file:
        np.testing.assert_array_equal(file["is_hit"][:], particles)


def test_without_common_mode_the_drift_makes_photons(drifting, tmp_path):
    process(drifting, tmp_path, "--no-vds", "--trains", "0:4", status=3)
    with h5py.File(tmp_path / "events" / "r0050_events.h5") as file:
        assert (file["litpixels"][:] > 10 * drifting.truth["litpixels"][:20]).all()


def chance_above(x: float) -> float:
    """Return how often a normal number lies above x standard deviations."""
    return erfc(x / sqrt(2)) / 2


@pytest.mark.parametrize("noise", [0.12, 0.2])
def test_false_photons_are_those_of_the_noise(noise, tmp_path):
    """A pixel without photons is lit by chance Q(0.7 / σ), one with a photon lost by Q(0.3 / σ).

    With σ = 0.12 photons that is one false photon in 3.6e8 pixels: 0.01 in this run.
    """
    mock = tiny_raw_run(
        tmp_path / PROPOSAL,
        **{"trains": 6, "cells": (0, 1), "hit_rate": 0, "background": 3000.0},
        **{"noise": noise, "clip_noise": 0.0},
        **FEW_MODULES,
    )
    process(mock, tmp_path / "out", "--no-vds", *ALL_HITS, "--trains", "0:6", status=3)
    rows, images, _ = hits_of(tmp_path / "out")
    n_dark = n_single = n_false = n_lost = 0
    for row in rows:
        good, truth = mock.good(row)[:4], mock.frame(row)[:4]
        found = images[row, :4]
        n_dark += np.count_nonzero(good & (truth == 0))
        n_single += np.count_nonzero(good & (truth == 1))
        n_false += np.count_nonzero(good & (truth == 0) & (found > 0))
        n_lost += np.count_nonzero(good & (truth == 1) & (found == 0))
    assert n_dark > 2.9e6
    assert n_single > 1e5
    for found, expected in (
        (n_false, n_dark * chance_above(0.7 / noise)),
        (n_lost, n_single * chance_above(0.3 / noise)),
    ):
        # whole ADU, a sixtieth of a photon, blur the edge by a little more
        assert abs(found - expected) < 5 * sqrt(max(expected, 1)) + 0.02 * expected


# which data, which constants


def test_auto_takes_proc_if_it_is_there(tmp_path):
    raw = tiny_raw_run(tmp_path / PROPOSAL, trains=1, cells=(0,), **ONE_MODULE)
    proc = tiny_run(tmp_path / "other" / PROPOSAL, trains=1, cells=(0,), **ONE_MODULE)
    shutil.move(proc.paths.proc, raw.options.prefix / "proc" / "r0050")
    where = [50, "--prefix", raw.options.prefix, "--no-report", "--adu-per-photon", 60]
    said = {}
    for data in ("auto", "raw", "proc"):
        done = run_job([*where, "--output", tmp_path / data, "--data", data,
                            "--constants", raw.paths.constants])  # fmt: skip
        assert done.returncode == 3, done.stdout + done.stderr
        said[data] = done.stdout
        with h5py.File(tmp_path / data / "events" / "r0050_events.h5") as file:
            assert ("gain_switched" in file) == (data == "raw")
        assert (" in medium gain" in done.stdout) == (data == "raw")
    assert "using corrected data (proc)" in said["auto"]
    assert "using raw data (--data raw)" in said["raw"]
    assert "using proc data (--data proc)" in said["proc"]
    assert "constants" not in said["auto"]


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["proc/CORR-R0050-AGIPD03-S00000.h5"], "proc"),
        (["raw/RAW-R0050-AGIPD15-S00007.h5"], "raw"),
        (["proc/CORR-R0050-AGIPD00-S00000.h5", "raw/RAW-R0050-AGIPD00-S00000.h5"], "proc"),
        (["proc/CORR-R0050-DA01-S00000.h5", "raw/RAW-R0050-AGIPD00-S00000.h5"], "raw"),
        (["proc/RAW-R0050-AGIPD00-S00000.h5", "raw/RAW-R0050-AGIPD00-S00000.h5"], "raw"),
        (["proc/readme.txt", "raw/RAW-R0050-DA01-S00000.h5"], None),
        ([], None),
    ],
)
def test_choice_of_the_data(files, kind, tmp_path):
    for name in files:
        path = tmp_path / name.replace("/", "/r0050/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    experiment = Experiment(tmp_path, tmp_path / "out", 50)
    if kind is None:
        with pytest.raises(InputError, match="expected the folder of run 50"):
            choose_data(experiment, "auto")
    else:
        chosen, why = choose_data(experiment, "auto")
        assert chosen == kind
        assert why == "using corrected data (proc)" or why.startswith("using raw data: ")
    prefix = {"raw": "raw/RAW", "proc": "proc/CORR"}
    for told in ("raw", "proc") if kind else ():
        if any(name.startswith(prefix[told]) and "AGIPD" in name for name in files):
            assert choose_data(experiment, told)[0] == told
        else:
            with pytest.raises(InputError, match="no detector files, but there are"):
                choose_data(experiment, told)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small") / PROPOSAL
    return tiny_raw_run(folder, absent_modules=tuple(range(3, 16)))


@pytest.mark.parametrize(("ranks", "named"), [(0, True), (2, False)])
def test_no_constants(small, tmp_path, ranks, named):
    """Exit 2 with what was looked for, and no files."""
    (tmp_path / "out" / "det").mkdir(parents=True)  # else the experiment's own would be found
    where = ["--prefix", small.options.prefix, "--output", tmp_path / "out"]
    where += ["--constants", tmp_path / "nowhere"] if named else []
    done = run_job([50, *where], ranks)
    assert done.returncode == 2
    (message,) = {line for line in done.stderr.splitlines() if "error" in line}
    folder = tmp_path / "nowhere" if named else tmp_path / "out" / "det" / "constants"
    for text in (f"{folder}:", "Cheetah-AGIPDmm-calib.h5", "mm = 00 01 02;", "xfelmpi darks"):
        assert text in message
    assert output_files(tmp_path / "out") == []


def test_module_without_constants(small, tmp_path):
    """Loud: a warning at the start, a problem at the end and in the file, exit status 3."""
    constants = tmp_path / "constants"
    shutil.copytree(small.paths.constants, constants)
    (constants / "Cheetah-AGIPD01-calib.h5").unlink()
    done = process(small, tmp_path / "out", "--constants", constants, ranks=2, status=3)
    of_masks, warning = warnings_in(done)
    assert "masks leave no good pixel of module 1, though there are frames" in of_masks
    for text in ("Cheetah-AGIPD01-calib.h5", "no calibration constants", "count as bad"):
        assert text in warning
        assert text in done.stdout.partition("excluded")[2]
    named = [(what, file, module) for what, file, module, _, _ in problems(tmp_path / "out")]
    assert ("no calibration constants for this module", "Cheetah-AGIPD01-calib.h5", 1) in named
    assert len(named) == 1 + 13
    check_outputs(tmp_path / "out", Expected(small, good=good_of(small, without=[1])))


def test_constants_of_other_modules_are_named(tmp_path):
    """Nothing in the files tells whose they are: the photons do."""
    raw = tiny_raw_run(tmp_path, trains=3, cells=tuple(range(16)), **FEW_MODULES)
    constants = tmp_path / "constants"
    shutil.copytree(raw.paths.constants, constants)
    names = [constants / constants_name(module) for module in (0, 1)]
    names[0].rename(constants / "other")
    names[1].rename(names[0])
    (constants / "other").rename(names[1])
    text = "modules 0, 1: many pixels have photons all the time"
    for ranks, folder, named in (
        (0, constants, True),
        (2, constants, True),
        (0, raw.paths.constants, False),
    ):
        done = process(raw, tmp_path / "out", "--constants", folder, ranks=ranks, status=3)
        assert (text in done.stdout + done.stderr) == named


OF_OTHER_CELLS = {"trains": 3, "cells": tuple(range(8)), **FEW_MODULES}


def named_by_trains(raw, folder, constants, ranks):
    """Return the warnings of a job about photons that differ from train to train."""
    done = process(raw, folder / "out", "--constants", constants, ranks=ranks, status=3)
    return [line for line in done.stderr.splitlines() if "from train to train" in line]


@pytest.mark.parametrize(("moved", "ranks"), [("reversed", 4), ("rolled", 2)])
def test_constants_of_other_cells_are_named(moved, ranks, tmp_path):
    """Each pixel has photons in some cells and none in others: only single frames show it."""
    raw = tiny_raw_run(tmp_path, **OF_OTHER_CELLS)
    constants = tmp_path / "constants"
    shutil.copytree(raw.paths.constants, constants)
    with h5py.File(constants / "Cheetah-AGIPD01-calib.h5", "r+") as file:
        for name in ("AnalogOffset", "RelativeGain", "DigitalGainLevel", "Badpixel"):
            values = file[name][()]
            file[name][...] = values[:, ::-1] if moved == "reversed" else np.roll(values, 1, axis=1)
    said = [named_by_trains(raw, tmp_path, constants, n) for n in (0, ranks)]
    assert said[0] == said[1]
    assert [line.split(": ")[1] for line in said[0]] == ["module 1"]


def test_constants_of_the_right_cells_are_not_named(tmp_path):
    raw = tiny_raw_run(tmp_path, **OF_OTHER_CELLS)
    assert not named_by_trains(raw, tmp_path, raw.paths.constants, 0)


def test_cells_without_constants(small, tmp_path):
    constants = tmp_path / "constants"
    shutil.copytree(small.paths.constants, constants)
    with h5py.File(constants / "Cheetah-AGIPD02-calib.h5", "r+") as file:
        for name in list(file):
            values = file[name][:, :3]
            del file[name]
            file[name] = values
    done = process(small, tmp_path / "out", "--constants", constants, status=3)
    (warning,) = warnings_in(done)
    assert "calibration constants have 3 cells, the run uses cell 3" in warning
    good = good_of(small)
    good[3][2] = False
    check_outputs(tmp_path / "out", Expected(small, good=good))


def test_constants_of_another_shape(small, tmp_path):
    """One unusable file is no problem to be overlooked, but an error, told once."""
    constants = tmp_path / "constants"
    shutil.copytree(small.paths.constants, constants)
    with h5py.File(constants / "Cheetah-AGIPD02-calib.h5", "r+") as file:
        del file["RelativeGain"]
        file["RelativeGain"] = np.ones((3, 4, 128, 512), np.float32)
    where = ["--prefix", small.options.prefix, "--output", tmp_path / "out"]
    done = run_xfelmpi([50, *where, "--constants", constants], 2)
    assert done.returncode == 2
    assert "RelativeGain has shape (3, 4, 128, 512)" in done.stderr
    assert "Traceback" not in done.stderr
    assert output_files(tmp_path / "out") == []


def test_photon_without_a_size(small, tmp_path):
    """The default of 1 ADU is hardly ever meant in raw data."""
    options = ["--prefix", small.options.prefix, "--output", tmp_path / "out"]
    options += ["--no-vds", "--no-report"]
    done = run_job([50, *options, "--constants", small.paths.constants])
    assert done.returncode == 3
    assert any("every ADU counts as a photon" in line for line in warnings_in(done))


def test_file_cut_short(tmp_path):
    """Frames that a full disk has cut off are missing in this module, and named."""
    mock = tiny_raw_run(tmp_path / PROPOSAL, **FEW_MODULES, trains=2)
    (path,) = mock.paths.raw.glob("*AGIPD02*")
    with h5py.File(path) as file:
        data = file[SOURCE.format(2) + "/data"]
        place = data.id.get_chunk_info_by_coord((4, 0, 0, 0)).byte_offset
        after = max(data.id.get_chunk_info_by_coord((i, 0, 0, 0)).byte_offset for i in range(6))
    assert place < after, "frames lie in order"
    with open(path, "r+b") as file:
        file.truncate(place + 1000)
    done = process(mock, tmp_path / "out", "--no-vds", status=3)
    assert "RAW-R0050-AGIPD02-S00000.h5 module 2" in done.stdout
    with h5py.File(tmp_path / "out" / "events" / "r0050_events.h5") as file:
        np.testing.assert_array_equal(file["modules"][:], [0b1011] * 6)


# EXtra-data's own runs


def write_uniform_constants(folder: Path, n_cells: int, gain: float, level: int) -> None:
    """Write constants of which nothing but the fill values takes space."""
    folder.mkdir(parents=True)
    for module in range(16):
        with h5py.File(folder / constants_name(module), "w") as file:
            for name, dtype, value in (
                ("AnalogOffset", "i2", 5),
                ("RelativeGain", "f4", gain),
                ("DigitalGainLevel", "i2", level),
                ("Badpixel", "u1", 0),
            ):
                file.create_dataset(
                    name, (3, n_cells, 512, 128), dtype, chunks=(1, 1, 512, 128), fillvalue=value
                )


EXTRA_DATA = {
    "full": (make_spb_run, {}, 1.0, 1),
    "reduced, thresholds of zero": (
        make_reduced_spb_run,
        {"rng": np.random.RandomState(7)},
        1.0,
        0,
    ),
    "reduced, gains of zero": (make_reduced_spb_run, {"rng": np.random.RandomState(7)}, 0.0, 0),
}
TRAINS = {"full": 8}
"""How many trains are processed of a run with thousands of frames."""


@pytest.mark.parametrize("name", EXTRA_DATA)
def test_runs_of_extra_data(name, tmp_path):
    """Its frames are all zeros; gains and thresholds of zero are no constants."""
    make, options, gain, level = EXTRA_DATA[name]
    folder = tmp_path / "raw" / "r0238"
    folder.mkdir(parents=True)
    make(str(folder), raw=True, **options)
    allocate_frames(folder)
    detector = AGIPD1M(RunDirectory(folder), raw=True)
    cells = detector.get_array("image.cellId", unstack_pulses=False).values[0].reshape(-1)
    trains = detector.get_array("image.trainId", unstack_pulses=False).values[0].reshape(-1)
    n_trains = TRAINS.get(name, len(trains))
    kept = np.isin(trains, np.unique(trains)[:n_trains])
    cells, trains = cells[kept], trains[kept]
    constants = tmp_path / "scratch" / "det" / "constants"
    write_uniform_constants(constants, int(cells.max()) + 1, gain, level)
    some = ["--trains", f"0:{n_trains}"]
    done = call_xfelmpi([238, "--prefix", tmp_path, "--adu-per-photon", 60, *some])
    assert done.returncode == 3, done.stdout + done.stderr
    n = len(trains)
    found = without_unwritten(problems(tmp_path / "scratch", 238))
    lacking = [p for p in found if p[0].startswith("calibration constants of high, medium, low")]
    assert len(lacking) == (0 if gain and level else 16)
    assert [p for p in found if p not in lacking] == without_energies(n)
    assert n > 400
    with h5py.File(tmp_path / "scratch" / "events" / "r0238_events.h5") as file:
        np.testing.assert_array_equal(file["trainId"][:], trains)
        np.testing.assert_array_equal(file["cellId"][:], cells)
        assert not file["litpixels"][:].any()
        assert not file["is_hit"][:].any()
        assert not file["gain_switched"][:].any()
    with h5py.File(tmp_path / "scratch" / "powder" / "r0238_powder.h5") as file:
        assert not file["powder"][:].any()
        assert (file["good_frames"][:] == (n if gain and level else 0)).all()


def test_constants_of_the_catalogue(tmp_path, monkeypatch):
    """The same constants in the catalogue's layout, listed beside the corrected run."""
    mock = tiny_raw_run(tmp_path / PROPOSAL, gain_spread=0.0, **FEW_MODULES)
    listed = {}
    for module in range(4):
        name, arrays = f"AGIPD{module:02}", mock.constants(module)
        level = arrays["DigitalGainLevel"].astype("f4")
        values = {
            "Offset": arrays["AnalogOffset"].astype("f4"),
            "ThresholdsDark": np.stack([level[1], level[2], 0 * level[0]]),
            "SlopesCS": 1 / arrays["RelativeGain"].astype("f8"),
            "BadPixelsDark": (arrays["Badpixel"] != 0).astype("u4") << 17,
        }
        entries = {}
        for kind, stages in values.items():
            path = tmp_path / "store" / name / f"{kind}.h5"
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(path, "w") as file:
                file[f"{kind}/0/data"] = np.ascontiguousarray(stages.T)
            entries[kind] = {"path": f"{name}/{kind}.h5", "dataset": f"{kind}/0"}
        listed[name] = {"physical-name": name, "constants": entries}
    folder = mock.options.prefix / "proc" / "r0050"
    folder.mkdir(parents=True)
    about = {"calibration-configurations": {"karabo-id": "SPB_DET_AGIPD1M-1"}}
    text = yaml.safe_dump(about | {"retrieved-constants": listed})
    (folder / "calibration_metadata.yml").write_text(text)
    monkeypatch.setenv("XFELMPI_CALDB", str(tmp_path / "store"))
    # the run lacks modules
    options = ("--data", "raw", "--constants")
    process(mock, tmp_path / "folder", *options, mock.paths.constants, status=3)
    said = process(mock, tmp_path / "catalogue", *options, "catalogue", ranks=2, status=3)
    assert "constants: catalogue (those of the correction" in said.stdout + said.stderr
    with h5py.File(tmp_path / "catalogue/events/r0050_events.h5") as file:
        used = json.loads(file.attrs["used_files"])
        assert json.loads(file.attrs["configuration"])["constants"] == "catalogue"
    assert {f["role"] for f in used} >= {"constants Offset", "constants SlopesCS"}
    assert_same_outputs(tmp_path / "folder", tmp_path / "catalogue")
