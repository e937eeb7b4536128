"""Masks of the run in the main job, against what EXtra-data reads in the same files."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from checks import check_outputs, problems
from compare import assert_same_outputs
from expected import Expected
from extra_data.components import AGIPD1M, AGIPD500K
from extra_data.tests.make_examples import make_reduced_spb_run
from extradata import RunDirectory
from launch import call_xfelmpi, process
from mockrun import HALF, NEAR, MockRun, allocate_frames, tiny_raw_run, tiny_run, write_mask

PROPOSAL = "p007927"
MASK = f"INSTRUMENT/{HALF['detector']}/CORR/{{0}}CH0:output/image/mask"
FRAME_SHAPE = (8, 512, 128)
MASKED = {**HALF, "masked_pixels": 0.05, "masked_at_times": 30.0, "trains": 4}
MASKED |= {"cells": (1, 2, 3, 4, 7), "hit_rate": 0.25, "seed": 2}


def text_of(mock: MockRun, output, *options, **how) -> str:
    """Run the main job on a simulated run; returns what it prints."""
    done = process(mock, output, *options, **how)
    return done.stdout + done.stderr


def files_of(mock: MockRun, module: int) -> list[Path]:
    return sorted(mock.paths.proc.glob(f"*AGIPD{module:02d}*"))


def read_masks(mock: MockRun) -> np.ndarray:
    """Return the masks of all frames as they stand, uint32 (frame, 8, 512, 128)."""
    modules = []
    for module in range(FRAME_SHAPE[0]):
        parts = []
        for path in files_of(mock, module):
            with h5py.File(path) as file:
                parts.append(file[MASK.format(module)][:])
        modules.append(np.concatenate(parts))
    return np.stack(modules, axis=1)


def static_good(mock: MockRun, masks: np.ndarray, n: int) -> dict[int, np.ndarray]:
    """Return by cell the pixels without a bit that is set in all of the first n trains."""
    cells = mock.truth["cellId"]
    return {
        int(cell): np.bitwise_and.reduce(masks[np.flatnonzero(cells == cell)[:n]]) == 0
        for cell in np.unique(cells)
    }


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """Return a run with masks, and these."""
    mock = tiny_run(tmp_path_factory.mktemp("masked") / PROPOSAL, chunk_frames=2, **MASKED)
    return mock, read_masks(mock)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Return a shorter run with masks and a noisy signal."""
    folder = tmp_path_factory.mktemp("noisy") / PROPOSAL
    return tiny_run(folder, dtype="f4", **{**MASKED, "trains": 2})


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ((), None),
        (("--mask-bits", "NOISY_ADC", "0x6"), [1 << 17, 2, 4]),
        (("--mask-bits", "OFFSET_OUT_OF_THRESHOLD"), 1),
    ],
)
def test_same_as_extra_datas_masked_data(noisy, tmp_path, options, bits):
    """Good pixels and photons, from its `AGIPD1M.masked_data`."""
    mock = noisy
    process(mock, tmp_path / "out", "--mask", "run", *options)
    run = AGIPD500K(RunDirectory(mock.paths.proc))
    signal = run.masked_data(mask_bits=bits).ndarray().swapaxes(0, 1)
    good = ~np.isnan(signal)
    photons = np.where(good, np.floor(signal + np.float32(1) - np.float32(0.7)), 0)
    photons = np.maximum(photons, 0).astype(np.uint64)
    assert 0.001 < 1 - good.mean() < 0.06
    with h5py.File(tmp_path / "out/powder/r0050_powder.h5") as file:
        np.testing.assert_array_equal(file["good_frames"][:], good.sum(axis=0))
        np.testing.assert_array_equal(file["powder"][:], photons.sum(axis=0))
    with h5py.File(tmp_path / "out/events/r0050_events.h5") as file:
        np.testing.assert_array_equal(file["photons"][:], photons.sum(axis=(1, 2, 3)))
        np.testing.assert_array_equal(file["litpixels"][:], (photons > 0).sum(axis=(1, 2, 3)))
    if bits is None:
        np.testing.assert_array_equal(photons.sum(axis=(1, 2, 3)), mock.truth["unmasked_photons"])
        lit = (photons > 0).sum(axis=(1, 2, 3))
        np.testing.assert_array_equal(lit, mock.truth["unmasked_litpixels"])


@pytest.mark.parametrize("bits", [None, [1, 4]])
def test_run_of_extra_datas_own_tests(tmp_path, bits):
    """Its frames are all zeros, one of them with some masked pixels in module 9."""
    folder = tmp_path / "proc" / "r0238"
    folder.mkdir(parents=True)
    make_reduced_spb_run(str(folder), raw=False, rng=np.random.RandomState(7))
    allocate_frames(folder)
    words = ["--mask-bits", *bits] if bits else []
    paths = ["--prefix", tmp_path, "--output", tmp_path / "out", "--mask", "run"]
    done = call_xfelmpi([238, *paths, *words, "--no-report"])
    # it has no gas monitor
    assert done.returncode == 3, done.stdout + done.stderr
    data = AGIPD1M(RunDirectory(folder), modules=[9]).masked_data(mask_bits=bits)
    (good,) = (~np.isnan(data.ndarray())).sum(axis=1)
    with h5py.File(tmp_path / "out/powder/r0238_powder.h5") as file:
        found = file["good_frames"][:]
    np.testing.assert_array_equal(found[9], good)
    assert (good[0, :32] < good[1, 0]).sum() == (24 if bits else 31)
    assert (np.delete(found, 9, axis=0) == good[1, 0]).all()


def test_all_outputs_with_masks_of_frames(masked, tmp_path):
    """With little memory, and decided again, too; the latter has the index of the former."""
    mock, masks = masked
    bad = dict(enumerate(masks != 0))
    expected = Expected(mock, bad=bad)
    assert expected.is_hit.sum() >= 3
    process(mock, tmp_path / "0", "--mask", "run")
    check_outputs(tmp_path / "0", expected)
    process(mock, tmp_path / "3", "--mask", "run", "--memory-per-rank", "256M", ranks=3)
    assert_same_outputs(tmp_path / "0", tmp_path / "3")
    text = text_of(mock, tmp_path / "3", "--from-events", ranks=2)
    assert "image/mask of every frame" in text
    assert "index of an earlier job" in text
    assert_same_outputs(tmp_path / "0", tmp_path / "3")
    with h5py.File(tmp_path / "0/events/r0050_events.h5") as file:
        assert json.loads(file.attrs["configuration"])["mask"] == ["run"]


@pytest.mark.parametrize("n", [1, 3])
def test_static_mask(masked, tmp_path, n):
    mock, masks = masked
    words = ("--mask", "run-static", "--mask-trains", n)
    text = text_of(mock, tmp_path / "out", *words, ranks=2 * (n == 3))
    check_outputs(tmp_path / "out", Expected(mock, good=static_good(mock, masks, n)))
    assert f"set in the first {n} trains; all bits" in text
    # one train alone takes for static what is bad in it only
    assert ("the static mask drifts" in text) == (n == 1)


def test_masks_of_all_kinds_together(masked, tmp_path):
    """On several ranks, too; scores count the pixels that are good in the frame itself."""
    mock, masks = masked
    rng = np.random.default_rng(1)
    overall = rng.random(FRAME_SHAPE, np.float32) < 0.9
    path = write_mask(tmp_path / "m.h5", overall)
    words = ("--mask", "run-static", "run", "--global-mask", path, "--normalise", "unmasked")
    for ranks in (0, 3):
        process(mock, tmp_path / str(ranks), *words, "--hit-modules", 0, 5, ranks=ranks)
    good = {cell: pixels & overall for cell, pixels in static_good(mock, masks, 5).items()}
    region = np.zeros(FRAME_SHAPE, bool)
    region[[0, 5]] = True
    bad = dict(enumerate(masks != 0))
    expected = Expected(mock, good=good, bad=bad, region=region, normalise="unmasked")
    check_outputs(tmp_path / "0", expected)
    assert_same_outputs(tmp_path / "0", tmp_path / "3")


@pytest.mark.parametrize("normalise", ["none", "unmasked"])
def test_fully_masked_frames(tmp_path, normalise):
    """They are neither hits nor misses, and leave the statistics of their train alone."""
    mock = tiny_run(tmp_path / PROPOSAL, **{**MASKED, "masked_at_times": 0.0})
    masked = [0, 3, 8, 13]
    for module in range(FRAME_SHAPE[0]):
        (path,) = files_of(mock, module)
        with h5py.File(path, "r+") as file:
            for row in masked:
                file[MASK.format(module)][row] = 1 << 21
    process(mock, tmp_path / "out", "--mask", "run", "--normalise", normalise)
    expected = Expected(mock, bad=dict(enumerate(read_masks(mock) != 0)), normalise=normalise)
    assert np.flatnonzero(~expected.usable).tolist() == masked
    assert expected.is_hit.any()
    check_outputs(tmp_path / "out", expected)
    with h5py.File(tmp_path / "out/events/r0050_events.h5") as file:
        for name in ("litpixels", "photons", "is_hit", "is_miss"):
            assert not file[name][:][masked].any(), name
        for name in ("hitscore", "hit_sigma", "hit_threshold"):
            assert np.isnan(file[name][:][masked]).all(), name


def test_auto(masked, tmp_path):
    """Files if there are any, else what the frames' masks call bad all the time."""
    mock, masks = masked
    text = text_of(mock, tmp_path / "static")
    assert "first 5 trains; all bits but NON_STANDARD_SIZE (--mask auto)" in text
    check_outputs(tmp_path / "static", Expected(mock, good=static_good(mock, masks, 5)))
    overall = np.random.default_rng(2).random(FRAME_SHAPE, np.float32) < 0.9
    write_mask(tmp_path / "files/det/mask.h5", overall)
    text = text_of(mock, tmp_path / "files")
    assert "masks in the data" not in text
    check_outputs(tmp_path / "files", Expected(mock, good=dict.fromkeys(MASKED["cells"], overall)))


def test_no_masks(masked, tmp_path):
    """Neither those found nor those of the run, but the one that is named."""
    mock, _ = masked
    overall = np.random.default_rng(3).random(FRAME_SHAPE, np.float32) < 0.9
    write_mask(tmp_path / "out/det/mask.h5", np.zeros(FRAME_SHAPE, bool))
    process(mock, tmp_path / "out", "--mask", "none")
    check_outputs(tmp_path / "out", Expected(mock))
    named = write_mask(tmp_path / "named.h5", overall)
    process(mock, tmp_path / "out", "--mask", "none", "--cell-mask", named)
    check_outputs(tmp_path / "out", Expected(mock, good=dict.fromkeys(MASKED["cells"], overall)))


@pytest.mark.parametrize("kind", ["run", "run-static", "file"])
def test_masks_that_are_not_there(tmp_path, kind):
    mock = tiny_run(tmp_path / PROPOSAL, **{**HALF, "trains": 1, "cells": (1, 2)})
    text = text_of(mock, tmp_path / "out", "--mask", kind, ranks=2 * (kind == "run"), status=2)
    words = "r0050_mask.h5" if kind == "file" else "CORR-R0050-AGIPD00-S00000.h5 has no image/mask"
    assert f"--mask {kind}: " in text
    assert words in text
    text = text_of(mock, tmp_path / "out")
    assert "masks in the data: none (the files have no image/mask)" in text


def test_raw_data_hold_no_masks(tmp_path):
    mock = tiny_raw_run(tmp_path / PROPOSAL, trains=1, cells=(0,), **NEAR)
    constants = ("--constants", mock.paths.constants, "--adu-per-photon", 60)
    text = text_of(mock, tmp_path / "out", "--mask", "run", *constants, status=2)
    assert "RAW-R0050-AGIPD03-S00000.h5 has no image/mask; expected corrected data" in text
    process(mock, tmp_path / "out", *constants, status=3)


def test_static_mask_that_drifts(tmp_path):
    options = {**MASKED, "masked_at_times": 0.0, "trains": 8, "cells": (1, 2)}
    mock = tiny_run(tmp_path / PROPOSAL, sequence_length=5, **options)
    (_, path) = files_of(mock, 3)
    with h5py.File(path, "r+") as file:
        for row in range(6):
            mask = file[MASK.format(3)][row]
            mask[5, :30] = 2
            mask[:, 7] = 0
            file[MASK.format(3)][row] = mask
    masks = read_masks(mock)
    before, after = masks[:2, 3] != 0, masks[-2:, 3] != 0
    words = ("--mask", "run-static", "--mask-trains", 3)
    texts = [text_of(mock, tmp_path / str(r), *words, ranks=r) for r in (0, 2)]
    for text in texts:
        (line,) = [line for line in text.splitlines() if "mask drifts" in line]
        assert f"{(after & ~before).sum()} bad pixels more" in line
        assert f"and {(before & ~after).sum()} fewer" in line
        assert "consider --mask run" in line
    check_outputs(tmp_path / "2", Expected(mock, good=static_good(mock, masks, 3)))


def test_damaged_masks_are_left_out_of_the_static_mask(tmp_path):
    """Of one cell in one train; of a whole module; the rest is as it should be."""
    mock = tiny_run(tmp_path / PROPOSAL, **MASKED)
    masks = read_masks(mock)
    (path,) = files_of(mock, 2)
    with h5py.File(path) as file:
        chunk = file[MASK.format(2)].id.get_chunk_info_by_coord((7, 0, 0))
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset + 100)
        file.write(bytes(100))
    (path,) = files_of(mock, 5)
    with h5py.File(path, "r+") as file:
        del file[MASK.format(5)]
    for ranks in (0, 3):
        process(mock, tmp_path / str(ranks), "--mask", "run-static", ranks=ranks, status=3)
    assert_same_outputs(tmp_path / "0", tmp_path / "3")
    cells = mock.truth["cellId"]
    good = {}
    for cell in MASKED["cells"]:
        rows = np.flatnonzero(cells == cell)
        good[cell] = np.bitwise_and.reduce(masks[rows]) == 0
        good[cell][2] = np.bitwise_and.reduce(masks[rows[rows != 7], 2]) == 0
        good[cell][5] = True
    check_outputs(tmp_path / "0", Expected(mock, good=good))
    found = [(what[:36], file, module) for what, file, module, *_ in problems(tmp_path / "0")]
    assert found == [
        ("1 frames: image/mask chunk does not ", "CORR-R0050-AGIPD02-S00000.h5", 2),
        ("20 frames: image/mask cannot be used", "CORR-R0050-AGIPD05-S00000.h5", 5),
    ]


def test_pixels_of_non_standard_size_are_good(tmp_path):
    """Unless `--mask-bits` says otherwise; other bits of the same pixel still count."""
    few = {**HALF, "trains": 1, "cells": (1, 2)}
    mock = tiny_run(tmp_path / PROPOSAL, **few, with_mask=True)
    (path,) = files_of(mock, 3)
    with h5py.File(path, "r+") as file:
        file[MASK.format(3)][:, 10] = 1 << 22
        file[MASK.format(3)][:, 11] = 1 << 22 | 1 << 30
    found = {}
    for name, words in (("usual", ()), ("any", ("--mask-bits", "0xffffffff"))):
        said = text_of(mock, tmp_path / name, *words)
        with h5py.File(tmp_path / name / "powder/r0050_powder.h5") as file:
            found[name] = file["good_frames"][3, 9:13].any(axis=1).tolist()
        assert ("all bits but NON_STANDARD_SIZE" if name == "usual" else "; all bits") in said
    assert found == {"usual": [True, True, False, True], "any": [True, False, False, True]}
