"""Properties on anything that hypothesis makes up: the index, pure functions, kernels, whole jobs.

The examples are the same every time; the soak (`soak.py`) has the same runs without end.
"""

import os
import random
import tempfile
from collections import Counter
from itertools import count, pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import reference
from fuzz import chunks
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from launch import limit
from randomruns import check, random_run
from rawfiles import RAW_LAYOUTS, RawSetup, assert_reads_raw, make_constants, make_frames
from reference import FS, MODULES, PIXELS, SS
from runnames import file_name

from xfelmpi.core.config.choices import BIN_SIZES
from xfelmpi.core.errors import InputError
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.hitfinding import sampling, scores, thresholds
from xfelmpi.mpi.partition import split_trains
from xfelmpi.output.dragonfly import binning
from xfelmpi.run.index.run_index import index_run
from xfelmpi.simulate import exdf
from xfelmpi.simulate.options import SimulationOptions

settings.register_profile("always the same", derandomize=True, database=None, deadline=None)
settings.load_profile("always the same")

FIRST = 1_500_000_000
SOURCE = "SPB_DET_AGIPD1M-1/CORR/{}CH0:output"
FAULTS = ("", "", "", "", "train 0", "cell", "image train")


# the index

cells = st.lists(st.integers(0, 351), max_size=4)
"""Of one train in one file; repeated, and in any order."""

trains = st.lists(
    st.tuples(st.integers(FIRST, FIRST + 4), cells, st.sampled_from(FAULTS)), max_size=4
)
module_files = st.dictionaries(
    st.integers(0, MODULES - 1), st.lists(trains, min_size=1, max_size=2), min_size=1, max_size=4
)


def write_index_only(path: Path, module: int, sequence: int, content) -> None:
    """Write a file of a module whose frames have ids, but were never written."""
    source = SOURCE.format(module)
    counts = np.array([len(cells) for _, cells, _ in content])
    named = np.array([0 if fault == "train 0" else train for train, _, fault in content], np.uint64)
    ids = [
        (train + (fault == "image train"), 400 if fault == "cell" else cell)
        for train, cells, fault in content
        for cell in cells
    ]
    train, cell = np.array(ids, np.int64).reshape(-1, 2).T
    options = SimulationOptions(path.parent, first_train=FIRST)
    with h5py.File(path, "w") as file:
        common = {"options": options, "proposal": 7927, "sequence": sequence}
        exdf.write_common(file, [f"INSTRUMENT/{source}/image"], named, **common)
        exdf.write_index(file, f"{source}/image", counts)
        image = file.create_group(f"INSTRUMENT/{source}/image")
        image["trainId"], image["cellId"] = train.astype(np.uint64), cell.astype(np.uint16)
        image["pulseId"] = 2 * image["cellId"][:].astype(np.uint64)
        image.create_dataset("data", (len(ids), SS, FS), "u1")


def places(files) -> dict[tuple[int, int], dict[int, tuple[str, int]]]:
    """Return file and row of every frame by (train, cell) and module: the first of its ids."""
    found = {}
    for module, contents in files.items():
        for sequence, content in enumerate(contents):
            row = count()
            for train, cells, fault in content:
                for cell in cells:
                    place = (file_name(module, sequence), next(row))
                    if not fault:
                        found.setdefault((train, cell), {}).setdefault(module, place)
    return found


@settings(max_examples=100)
@given(module_files)
@pytest.mark.slow
def test_index(files):
    """Frames are joined by their ids, whatever the files have, lack, repeat or have wrong."""
    expected = places(files)
    with tempfile.TemporaryDirectory() as name:
        for module, contents in files.items():
            for sequence, content in enumerate(contents):
                path = Path(name) / file_name(module, sequence)
                write_index_only(path, module, sequence, content)
        if not expected:
            with pytest.raises(InputError, match="no usable frame"):
                index_run(Path(name), "proc")
            return
        index = index_run(Path(name), "proc")
    table = index.frames
    ids = list(zip(table.train_id.tolist(), table.cell_id.tolist(), strict=True))
    assert ids == sorted(expected)
    assert table.pulse_id.tolist() == [2 * cell for _, cell in ids]
    for key, file, row in zip(ids, table.file, table.row, strict=True):
        found = {
            int(module): (Path(index.files[file[module]].path).name, int(row[module]))
            for module in np.flatnonzero(file >= 0)
        }
        assert found == expected[key]
    whole = all(len(modules) == MODULES for modules in expected.values())
    faulty = any(fault and cells for c in files.values() for f in c for _, cells, fault in f)
    repeated = sum(len(c) for f in files.values() for t in f for _, c, fault in t if not fault)
    kept = sum(len(modules) for modules in expected.values())
    assert bool(index.problems) == (not whole or faulty or repeated > kept)


# pure functions

USABLE = np.random.default_rng(1).random(MODULES * PIXELS) < 0.7
"""Pixels that count in blocks, bool (1048576,)."""

some_scores = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 300), st.booleans()), min_size=1, max_size=40
)
"""Train, score and whether it is usable, of every frame."""


def columns(frames):
    frames = sorted(frames, key=lambda frame: frame[0])
    train, score, usable = (np.array(column) for column in zip(*frames, strict=True))
    return train.astype(np.uint64), score.astype(np.float32), usable


@given(st.lists(st.integers(0, 400), max_size=60), st.integers(1, 80))
def test_split_trains(work, n_ranks):
    bounds = split_trains(np.array(work, np.int64), n_ranks)
    assert bounds[0] == 0
    assert bounds[-1] == len(work)
    assert (np.diff(bounds) >= 0).all()
    share, largest = sum(work) / n_ranks, max(work, default=0)
    loads = [sum(work[a:b]) for a, b in pairwise(bounds)]
    assert all(share - largest <= load <= share + largest for load in loads)


@given(some_scores, st.sampled_from((-1.0, 0.5, 4.0)), st.sampled_from(("lower", "iqr")))
def test_decide_by_train(frames, sigma, width):
    train, score, usable = columns(frames)
    found = thresholds.decide_by_train(score, usable, train, thresholds.ThresholdRule(sigma, width))
    is_hit = np.zeros(len(train), bool)
    for i in np.flatnonzero(usable):
        group = [s for s, t, u in zip(score, train, usable, strict=True) if u and t == train[i]]
        median, std = reference.statistics(group, width)
        np.testing.assert_allclose((found.median[i], found.std[i]), (median, std), rtol=1e-6)
        is_hit[i] = score[i] > median + sigma * std
    np.testing.assert_array_equal(found.is_hit, is_hit)
    np.testing.assert_array_equal(found.decidable, usable)


@given(some_scores, st.integers(1, 50))
def test_windows(frames, min_scores):
    train, _, usable = columns(frames)
    numbers = np.flatnonzero(usable)
    found = scores.windows(train, usable, 0, len(numbers), min_scores)
    for a, b, low, high in zip(found.edges, found.edges[1:], found.low, found.high, strict=False):
        right = reference.window(usable.tolist(), a, b, min_scores)
        assert numbers[low:high].tolist() == right


@given(
    st.sets(st.tuples(st.integers(0, 2**53 - 1), st.integers(0, 351)), min_size=1, max_size=30),
    st.integers(0, 40),
)
def test_sampling(frames, n_wanted):
    """As many win as shall, the same ones whichever frames take part besides the losers."""
    train, cell = np.array(sorted(frames), np.uint64).T
    numbers = sampling.sampling_key(train, cell.astype(np.uint16))
    assert numbers.tolist() == [reference.sampling_key(int(t), int(c)) for t, c in sorted(frames)]
    won = sampling.sampled(
        numbers, np.ones(len(train), bool), sampling.sampling_cutoff(numbers, n_wanted)
    )
    assert won.sum() == min(n_wanted, len(train))
    assert max(numbers[won], default=0) <= min(numbers[~won], default=2**64 - 1)


@given(
    st.lists(st.dictionaries(st.integers(0, USABLE.size - 1), st.integers(0, 9), max_size=30)),
    st.sampled_from(BIN_SIZES[1:]),
)
def test_bin_frames(frames, n):
    """Blocks have the photons of their usable pixels, and no block is there twice."""
    indptr = np.cumsum([0, *(len(frame) for frame in frames)])
    pixel = np.array([p for frame in frames for p in sorted(frame)], np.uint32)
    counts = np.array([frame[p] for frame in frames for p in sorted(frame)], np.uint16)
    found = binning.bin_frames(SparseFrames(indptr, pixel, counts), n, USABLE.reshape(16, 512, 128))
    assert len(found) == len(frames)
    for i, frame in enumerate(frames):
        right = Counter()
        for p, photons in frame.items():
            if USABLE[p]:
                module, ss, fs = np.unravel_index(p, (MODULES, SS, FS))
                right[int((module * SS + ss) // n * (FS // n) + fs // n)] += photons
        here = slice(found.indptr[i], found.indptr[i + 1])
        got = list(zip(found.pixel[here].tolist(), found.count[here].tolist(), strict=True))
        assert got == sorted((block, photons) for block, photons in right.items() if photons)


# kernels

seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=150)
@given(seeds)
@pytest.mark.slow
def test_chunks(seed):
    """Corrected frames and masks, packed, damaged and random; see the fuzz program."""
    rng = np.random.default_rng(seed)
    file = os.memfd_create("chunks")
    try:
        (chunks.try_masks if rng.random() < 0.2 else chunks.try_frames)(rng, file)
    finally:
        os.close(file)


@pytest.mark.slow
@settings(max_examples=12)
@given(
    seeds,
    st.sampled_from(sorted(RAW_LAYOUTS)),
    st.sampled_from(("constant", "cell", "pixel")),
    st.sampled_from(("i2", "f4")),
    st.sampled_from((0.0, 0.02, 0.5, 1.0)),
    st.booleans(),
)
def test_raw_frames(seed, layout, gain, offset, bad, common_mode):
    rng = np.random.default_rng(seed)
    constants = make_constants(rng, 2, offset=offset, gain=gain, bad=bad)
    in_frames = rng.integers(0, 2, 4)
    frames = make_frames(rng, constants, in_frames, switched=rng.choice((0.0, 0.01, 0.3)))
    good, region = rng.random((2, SS, FS)) < rng.choice((0.1, 0.9))
    setup = RawSetup(common_mode=common_mode, good=good, region=region, layout=RAW_LAYOUTS[layout])
    with tempfile.TemporaryDirectory() as name:
        assert_reads_raw(Path(name), frames, in_frames, constants, setup)


# whole jobs


random_runs = seeds.map(lambda seed: random_run(random.Random(seed)))


@settings(max_examples=4, phases=[Phase.generate])
@given(random_runs)
@pytest.mark.slow
def test_whole_jobs(run):
    """Random runs with random damage, processed on two numbers of ranks."""
    with tempfile.TemporaryDirectory() as name:
        check(run, Path(name), limit())
