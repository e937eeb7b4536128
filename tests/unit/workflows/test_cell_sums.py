"""Sums per cell: parts and stripes, the kernels, and the way of a run's photons into them."""

from functools import partial

import h5py
import numpy as np
import pytest
from mockrun import tiny_run
from mpi4py import MPI

from xfelmpi._kernels import _cells
from xfelmpi._kernels._cells import (
    ALL,
    HIT,
    HITS,
    INVALID,
    JUDGED,
    MISS,
    MISSES,
    PAIRS,
    PHOTONS,
)
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.errors import InputError
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.reduction.frame_loop import run_pass
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.reduction.sparsifier import Sparsifier
from xfelmpi.run.frames.file_pool import FilePool
from xfelmpi.run.index.run_index import index_run
from xfelmpi.workflows.mask.cell_sums import (
    CellSums,
    LabelledFrames,
    Part,
    plan_parts,
)
from xfelmpi.workflows.mask.hit_labels import HitLabels, share_hit_labels

MOST = 4294967295


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 5, 64, 400])
@pytest.mark.parametrize("limit", [1, 60 << 20, 300 << 20, 1 << 40])
def test_parts_have_every_pixel_of_the_run_once(n_ranks, limit):
    modules_in_run = 0b1000_0000_0101_1001
    parts = plan_parts(AGIPD_1M, modules_in_run, 352, 3, limit, n_ranks)
    pixels = []
    for part in parts:
        bounds = [part.owned(rank) for rank in range(n_ranks)]
        assert [b[0] for b in bounds[1:]] == [b[1] for b in bounds[:-1]]
        assert (bounds[0][0], bounds[-1][1]) == (0, part.n_pixels)
        for first, end in bounds:
            own = part.pixels(first, end)
            assert (part.place[own >> 13] + own % 8192 == np.arange(first, end)).all()
            assert len(own) % 128 == 0
            assert (end - first) * 352 * 13 <= max(limit, 8192 * 352 * 13)
            pixels.append(own)
    expected = [m * 65536 + np.arange(65536) for m in (0, 3, 4, 6, 15)]
    np.testing.assert_array_equal(np.concatenate(pixels), np.concatenate(expected))


def test_modules_are_split_only_if_they_must_be():
    needed = 13 * 352 * 65536
    assert [p.modules for p in plan_parts(AGIPD_1M, 0b111, 352, 3, needed // 4, 8)] == [[0, 1], [2]]
    assert [len(p.bands) for p in plan_parts(AGIPD_1M, 1, 352, 3, needed - 1, 1)] == [4, 4]


def random_segments(rng, n_frames=40):
    """Return start, stop, pixel, count and label; a frame that did not fit has start -1."""
    length = rng.integers(0, 50, n_frames)
    stop = np.cumsum(length)
    start = stop - length
    start[7] = -1
    pixel = rng.integers(3 * 65536, 4 * 65536, stop[-1]).astype(np.uint32)
    count = rng.choice([0, 1, 1, 2, 3, 4, 5, 300, 65535], stop[-1]).astype(np.uint16)
    label = rng.integers(0, 6, n_frames).astype(np.uint16)
    label |= rng.choice([0, JUDGED, JUDGED | HIT, HIT, JUDGED | MISS], n_frames).astype(np.uint16)
    return start, stop, pixel, count, label


@pytest.mark.parametrize("n_ranks", [1, 3, 200])
@pytest.mark.parametrize("planes", [3, 6])
def test_kernels(n_ranks, planes):
    rng = np.random.default_rng(3)
    start, stop, pixel, count, label = random_segments(rng)
    # two bands of module 3 alone; what lies elsewhere is left out
    part = Part(np.array([25, 30]), n_ranks, AGIPD_1M)
    number = np.zeros(n_ranks, np.int64)
    segments = _cells.Segments(start=start, stop=stop, pixel=pixel, count=count, label=label)
    _cells.count_entries(segments, part.place, part.stripe, number)
    words, cursor = np.empty(number.sum(), np.uint64), np.cumsum(number) - number
    _cells.pack_entries(segments, part.place, part.stripe, cursor, words)
    assert (cursor == np.cumsum(number)).all()
    found = []
    for rank in range(n_ranks):
        first, end = part.owned(rank)
        sums = np.zeros((planes, 6, end - first), np.uint32)
        own = words[cursor[rank] - number[rank] : cursor[rank]]
        _cells.add_words(own, first, 4, sums)
        found.append(sums)
    expected = np.zeros((6, 6, 16384), np.int64)
    for frame in range(len(start)):
        for i in range(start[frame], stop[frame]) if start[frame] >= 0 else ():
            if pixel[i] // 8192 not in (25, 30):
                continue
            p = pixel[i] % 8192 + (8192 if pixel[i] // 8192 == 30 else 0)
            row, n = label[frame] % 8192, int(count[i])
            if label[frame] & JUDGED:
                expected[PHOTONS, row, p] += n
                expected[PAIRS, row, p] += min(n, 4) * (min(n, 4) - 1) // 2
                expected[INVALID, row, p] += n == 0
            expected[ALL, row, p] += n
            expected[HITS, row, p] += n * bool(label[frame] & HIT)
            expected[MISSES, row, p] += n * bool(label[frame] & MISS)
    np.testing.assert_array_equal(np.concatenate(found, axis=2), expected[:planes])
    assert expected[:, :, :].any(axis=(1, 2)).all()


def test_sums_stop_at_the_largest_number():
    sums = np.full((3, 1, 1), MOST - 3, np.uint32)
    word = np.array([JUDGED << 32 | 4 << 48] * 2, np.uint64)
    _cells.add_words(word, 0, 4, sums)
    assert sums[:, 0, 0].tolist() == [MOST, MOST, MOST - 3]
    _cells.add_words(np.array([JUDGED << 32] * 5, np.uint64), 0, 4, sums)
    assert sums[INVALID, 0, 0] == MOST


@pytest.fixture(scope="module")
def mock(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells") / "p007927"
    return tiny_run(folder, absent_modules=tuple(range(3, 16)))


@pytest.mark.parametrize("per_pair", [1, 1 << 20])
@pytest.mark.parametrize("tight", [True, False])
def test_sums_of_a_run(mock, tight, per_pair, monkeypatch):
    """Also if only the largest frame of one module fits the buffer at once."""
    lit = [np.count_nonzero(mock.frame(i), axis=(1, 2)).max() for i in range(len(mock))]
    room = int(max(lit)) if tight else 1 << 21
    monkeypatch.setattr("xfelmpi.reduction.sparsifier.full_frame", lambda masks: 1)
    monkeypatch.setattr("xfelmpi.workflows.mask.cell_sums.LabelledFrames.small_block", 1)
    monkeypatch.setattr("xfelmpi.workflows.mask.cell_sums._LEAST_PER_PAIR", 5)
    index = index_run(mock.paths.proc, "proc", None)
    bits = np.full((16, 1, 8192), 0xFF, np.uint8)
    masks = Masks(bits, np.zeros(352, np.int32), bits[:, 0])
    sparsifier = Sparsifier(FilePool(index.files), masks, 1.0, 0.7, room)
    is_hit = mock.truth["is_particle"]
    labels = index.frames.cell_id | JUDGED | np.where(is_hit, HIT, MISS).astype(np.uint16)
    frames = LabelledFrames(index.frames, labels.astype(np.uint16), 6, leave_out_bright=False)
    part = Part(np.arange(24), 1, AGIPD_1M)
    summed = CellSums(MPI.COMM_SELF, part, frames, (6, 6), per_pair)
    read = partial(sparsifier.frames, powder=PowderSum.zeros(1, AGIPD_1M))
    run_pass(frames.source(part, sparsifier.capacity, "proc"), read, [summed])
    sums, counts = summed.sums, frames.counts
    for row in range(6):
        dense = [mock.frame(i)[:3].ravel() for i in range(row, len(mock), 6)]
        images, hits = np.array(dense).astype(np.int64), is_hit[row::6]
        np.testing.assert_array_equal(sums[ALL, row], images.sum(axis=0))
        np.testing.assert_array_equal(sums[PHOTONS, row], images.sum(axis=0))
        np.testing.assert_array_equal(sums[HITS, row], images[hits].sum(axis=0))
        np.testing.assert_array_equal(sums[MISSES, row], images[~hits].sum(axis=0))
        capped = np.minimum(images, 4)
        np.testing.assert_array_equal(sums[PAIRS, row], (capped * (capped - 1) // 2).sum(axis=0))
        for kind, n in (("all", 3), ("hits", hits.sum()), ("misses", (~hits).sum())):
            assert (counts[kind][:3, row] == n).all()
    assert not counts["all"][3:].any()


def test_frames_that_stand_out_in_their_train_do_not_count(mock):
    index = index_run(mock.paths.proc, "proc", None)
    bits = np.full((16, 1, 8192), 0xFF, np.uint8)
    masks = Masks(bits, np.zeros(352, np.int32), bits[:, 0])
    sparsifier = Sparsifier(FilePool(index.files), masks, 1.0, 0.7, 1 << 21)
    labels = (index.frames.cell_id | JUDGED).astype(np.uint16)
    frames = LabelledFrames(index.frames, labels, 6, leave_out_bright=True)
    left_out = np.zeros((3, len(mock)), bool)
    part = Part(np.arange(24), 1, AGIPD_1M)
    for source in frames.source(part, sparsifier.capacity, "proc"):
        block = sparsifier.frames(source.frames, PowderSum.zeros(1, AGIPD_1M))
        left_out[source.module, source.rows] = frames.labels_of(source, block, part) & JUDGED == 0
    lit = np.array([np.count_nonzero(mock.frame(i)[:3], axis=(1, 2)) for i in range(len(mock))])
    lit = lit.T.reshape(3, 3, 6)
    low, median = np.percentile(lit, (25, 50), axis=2, keepdims=True)
    width = np.maximum(1.4826 * (median - low), np.sqrt(median))
    expected = (lit > median + 4 * width).reshape(3, -1)
    assert expected.any()
    np.testing.assert_array_equal(left_out, expected)
    assert frames.counts["judged"].sum() == (~expected).sum()
    assert frames.counts["all"].sum() == expected.size


def test_hits_are_found_by_train_and_cell():
    labels = HitLabels(
        np.array([5, 5, 1 << 60], np.uint64), np.array([3, 351, 3], np.uint16), *np.zeros((2, 3))
    )
    trains = np.array([5, 5, 6, 1 << 60, 1 << 60, 4, (1 << 60) + 1], np.uint64)
    cells = np.array([351, 4, 3, 3, 351, 3, 3], np.uint16)
    assert labels.find(trains, cells).tolist() == [1, -1, -1, 2, -1, -1, -1]
    empty = HitLabels(*(column[:0] for column in vars(labels).values()))
    assert empty.find(trains, cells).tolist() == [-1] * 7


def test_events_files(tmp_path):
    assert share_hit_labels(MPI.COMM_SELF, tmp_path / "none.h5") is None
    path = tmp_path / "r0050_events.h5"
    with h5py.File(path, "w") as file:
        file["trainId"], file["cellId"] = [7, 6, 6], [0, 9, 1]
        file["is_hit"] = [True, True, False]
    with pytest.raises(InputError, match="is_miss"):
        share_hit_labels(MPI.COMM_SELF, path)
    with h5py.File(path, "a") as file:
        file["is_miss"] = [False, False, True]
    labels = share_hit_labels(MPI.COMM_SELF, path)
    assert labels.train_id.tolist() == [6, 6, 7]
    assert labels.is_hit.tolist() == [False, True, True]
    assert labels.is_miss.tolist() == [True, False, False]
