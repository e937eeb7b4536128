"""The kernel that turns the bytes of frames into sparse lists, against its numpy twin."""

import os
import zlib

import h5py
import numpy as np
import pytest
from kernelcalls import run_kernel
from modulefiles import (
    DATASET,
    LAYOUTS,
    assert_reads,
    make_masks,
    make_table,
    read,
    sparse_images,
    write_module,
)
from readers import FRAME_PIXELS
from reference import EMPTY, FS, MODULES, PIXELS, SS, module_twin, photon_image

from xfelmpi.core.frame_table import FrameTable
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.reduction.sparsifier import Sparsifier, one_photon_threshold
from xfelmpi.run.frames.file_pool import FilePool

DTYPES = ("u1", "u2", "f4")
SUMS = (*EMPTY, "entries")
MAX = float(np.finfo(np.float32).max)


def random_mask(rng, *shape):
    return rng.random((*shape, SS, FS)) < 0.7


def assert_kernel(values, good=None, region=None, **options):
    """Assert that the kernel does with frames what the twin does; returns its outputs."""
    out = run_kernel(values, good, region, **options)
    good = np.ones((1, SS, FS), bool) if good is None else good
    region = np.ones((SS, FS), bool) if region is None else region
    formula = {k: options[k] for k in ("adu", "threshold") if k in options}
    formula["adu_per_photon"] = formula.pop("adu", 1.0)
    rows = options.get("mask_row")
    mask = good[np.zeros(len(values), int) if rows is None else rows]
    if "masked_in_frame" in options:
        formula["masks"] = options["masked_in_frame"].astype(np.uint32)
    twin = module_twin(values, mask, region, **formula)
    for name in SUMS:
        assert getattr(out, name).tolist() == getattr(twin, name), name
    assert np.array_equal(out.powder, twin.powder)
    assert np.array_equal(out.invalid, twin.invalid)
    assert not out.status.any()
    if "room" not in options:
        assert out.used == sum(twin.entries)
        for i in range(len(values)):
            assert np.array_equal(out.pixel[out.start[i] : out.stop[i]], twin.pixel[i])
            assert np.array_equal(out.count[out.start[i] : out.stop[i]], twin.count[i])
    return out, twin


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 5])
@pytest.mark.parametrize("readonly", [False, True])
def test_numbers_of_frames(dtype, n, readonly):
    rng = np.random.default_rng(n)
    good = random_mask(rng, 3)
    row = rng.integers(0, 3, n).astype(np.int32)
    values = sparse_images(rng, n, dtype)
    out, _ = assert_kernel(values, good, random_mask(rng), mask_row=row, readonly=readonly)
    assert (out.region_lit < out.lit).all(), "the region should matter"


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_lit(dtype):
    out, _ = assert_kernel(np.zeros((2, SS, FS), dtype))
    assert out.used == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_everything_masked(dtype):
    values = sparse_images(np.random.default_rng(1), 2, dtype)
    if dtype == "f4":
        values[0, 5, 5] = np.nan
    out, _ = assert_kernel(values, np.zeros((1, SS, FS), bool))
    assert out.used == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_everything_lit(dtype):
    rng = np.random.default_rng(2)
    values = rng.integers(1, 255, (2, SS, FS)).astype(dtype)
    out, _ = assert_kernel(values, random_mask(rng, 1), random_mask(rng))
    assert out.lit.min() > 40000


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0, 1e-4, 0.5, 1])
def test_masks_of_frames(dtype, share):
    """Their pixels stand in the lists with count 0, in order, in place of any photons."""
    rng = np.random.default_rng(3)
    values = sparse_images(rng, 4, dtype)
    if dtype == "f4":
        values[:, 7, ::5] = np.nan
    masked_in_frame = rng.random((4, SS, FS)) < share
    (
        masked_in_frame[1],
        masked_in_frame[2, :, 0],
        masked_in_frame[3, 0, 0],
        masked_in_frame[3, -1, -1],
    ) = False, True, True, True
    row = np.array([0, 1, 1, 0], np.int32)
    masks = {"good": random_mask(rng, 2), "region": random_mask(rng), "mask_row": row}
    out, twin = assert_kernel(values, masked_in_frame=masked_in_frame, **masks)
    assert (out.lit[0] > 0) == (share < 1)
    assert out.region_bad[2] > 100
    assert twin.lit[1] > 100


def test_frame_that_its_mask_leaves_nothing_of():
    values = sparse_images(np.random.default_rng(4), 2, "u1")
    masked_in_frame = np.zeros((2, SS, FS), bool)
    masked_in_frame[0] = True
    out, _ = assert_kernel(values, masked_in_frame=masked_in_frame)
    assert out.entries[0] == out.region_bad[0] == PIXELS
    assert out.lit[0] == out.photons[0] == out.peak[0] == 0
    assert not out.count[out.start[0] : out.stop[0]].any()
    assert out.lit[1] > 100


@pytest.mark.parametrize("missing", [0, 1, 300, 20_000])
def test_masked_frame_that_does_not_fit(missing):
    """Nothing is written behind the end, whether photons or masked pixels are too many."""
    rng = np.random.default_rng(5)
    values = sparse_images(rng, 3, "u1")
    masked_in_frame = rng.random((3, SS, FS)) < 0.2
    twin = module_twin(
        values, np.ones((3, SS, FS), bool), np.ones((SS, FS), bool), masks=masked_in_frame
    )
    room = twin.entries[0] + twin.entries[1] - missing
    out, _ = assert_kernel(values, masked_in_frame=masked_in_frame, room=room)
    used, fits = 0, []
    for entries in twin.entries:
        fits.append(used + entries <= room)
        used += entries * fits[-1]
    assert (out.start >= 0).tolist() == fits
    assert False in fits


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_pixel_alone(dtype):
    """Single photons at both ends of every word and of every block that is skipped if empty."""
    where = [0, 1, 7, 8, 15, 16, 31, 32, 33, 63, 64, 127, 128, PIXELS - 2, PIXELS - 1]
    values = np.zeros((len(where), PIXELS), dtype)
    values[np.arange(len(where)), where] = 1
    out, _ = assert_kernel(values.reshape(-1, SS, FS))
    assert out.pixel[: out.used].tolist() == where


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_largest_integers(dtype):
    top = np.iinfo(dtype).max
    values = np.zeros((2, SS, FS), dtype)
    values[0, 3, 4:9] = [1, 0, top, top - 1, 2]
    values[1] = top
    out, _ = assert_kernel(values)
    assert out.peak.tolist() == [top, top]
    assert out.photons[1] == top * PIXELS


def test_photon_sum_beyond_32_bits():
    values = np.full((2, SS, FS), 65535, np.uint16)
    out, _ = assert_kernel(values)
    assert out.photons[0] == out.region_photons[0] == 65535 * 65536
    assert out.powder[0] == 2 * 65535


SPECIAL = {
    "nan": np.nan,
    "-nan": -np.nan,
    "+inf": np.inf,
    "-inf": -np.inf,
    "largest": MAX,
    "lowest": -MAX,
    "next to lowest": float(np.nextafter(np.float32(-MAX), np.float32(0))),
    "-0": -0.0,
    "denormal": 1e-45,
    "negative": -0.5,
    "very negative": -1e30,
    "too many": 65536.0,
    "just not too many": 65535.69,
    "most": 65535.0,
    "beyond 32 bits": 1e10,
    "one": 1.0,
}


@pytest.mark.parametrize("value", SPECIAL.values(), ids=SPECIAL)
def test_special_floats(value):
    """Alone in a block of empty pixels, beside a photon, all over, and on a masked pixel."""
    values = np.zeros((4, SS, FS), np.float32)
    values[0, 10, 40] = values[3, 0, 0] = value
    values[1, 10, 40:43] = 1.0, value, 2.0
    values[2] = value
    good = np.ones((2, SS, FS), bool)
    good[1, 0, 0] = False
    out, _ = assert_kernel(values, good, mask_row=np.array([0, 0, 0, 1], np.int32))
    assert out.entries[3] == 0
    assert out.entries[2] in (0, PIXELS)
    assert out.entries[0] * PIXELS == out.entries[2]
    assert out.entries[1] == 2 + out.entries[0]


def test_which_floats_are_bad():
    values = np.zeros((1, SS, FS), np.float32)
    bad = [np.nan, np.inf, -np.inf, 65536.0, 1e10, MAX]
    fine = [-MAX, -1e30, -0.0, 0.0, 0.5, 65535.0, 65535.2]
    values[0, 7, : len(bad)] = bad
    values[0, 9, : len(fine)] = fine
    out = run_kernel(values)
    assert np.flatnonzero(out.invalid).tolist() == [7 * FS + i for i in range(len(bad))]
    assert out.lit.tolist() == [2]
    assert out.photons.tolist() == [2 * 65535]
    assert out.count[: out.used].tolist() == [0] * len(bad) + [65535, 65535]


FORMULAS = [
    (1.0, 0.7),
    (1.0, 0.5),
    (1.0, 1.0),
    (1.0, 1e-6),
    (1.0, 0.999999),
    (8.3, 0.7),
    (9.26, 0.7),
    (0.1, 0.3),
    (67.0, 0.85),
    (1 / 3, 2 / 3),
    (1e-29, 0.7),
    (1e29, 0.7),
]


@pytest.mark.parametrize(("adu", "threshold"), FORMULAS)
def test_floats_around_every_cut(adu, threshold):
    """All floats within 40 steps of the first cuts, and of those at the most photons."""
    cuts = np.array([0, 1, 2, 3, 4, 5, 250, 251, 65534, 65535, 65536]) + threshold
    middle = (cuts * adu).astype(np.float32).view(np.int32)
    values = (middle[:, None] + np.arange(-40, 41, dtype=np.int32)).view(np.float32).reshape(-1)
    photons, bad = photon_image(values, adu, threshold)
    assert {0, 1, 2, 65535} <= set(photons.tolist())
    assert bad.any()
    frame = np.zeros((1, PIXELS), np.float32)
    # spread, so that each also decides alone whether its block is looked at
    frame[0, 32 * np.arange(len(values)) + np.arange(len(values)) % 32] = values
    frame[0, 32 * 1000 : 32 * 1000 + len(values)] = values
    assert_kernel(frame.reshape(1, SS, FS), adu=adu, threshold=threshold)


@pytest.mark.parametrize(("adu", "threshold"), [*FORMULAS, (1.0, 3e-7), (1.0, 1e-7)])
def test_cut_is_the_smallest_photon(adu, threshold):
    cut = np.float32(one_photon_threshold(adu, threshold))
    assert float(cut) == one_photon_threshold(adu, threshold)
    below = np.nextafter(cut, np.float32(-np.inf))
    assert photon_image(np.array([cut, below]), adu, threshold)[0].tolist() == [1, 0]


def test_integers_ignore_the_photon_formula(tmp_path):
    values = sparse_images(np.random.default_rng(3), 3, "u1")
    assert_reads(write_module(tmp_path / "a.h5", values), values, adu=7.0, threshold=0.2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_buffer_too_small(dtype):
    """What does not fit is flagged and counted all the same; a shorter frame may still fit."""
    rng = np.random.default_rng(4)
    values = np.concatenate([sparse_images(rng, 1, dtype, lit) for lit in (100, 3000, 50, 800)])
    full, twin = assert_kernel(values)
    room = twin.entries[0] + twin.entries[2] + 5
    assert twin.entries[1] > room
    out, _ = assert_kernel(values, room=room)
    assert (out.start >= 0).tolist() == [True, False, True, False]
    assert out.used == twin.entries[0] + twin.entries[2]
    for i in (0, 2):
        assert np.array_equal(out.pixel[out.start[i] : out.stop[i]], twin.pixel[i])
        assert np.array_equal(out.count[out.start[i] : out.stop[i]], twin.count[i])
    exact, _ = assert_kernel(values, room=full.used)
    assert (exact.start >= 0).all()


def test_block_says_what_is_stored(tmp_path):
    """Twelve full frames of two modules do not fit into the room for one of 16."""
    values = np.ones((12, SS, FS), np.uint8)
    values[3:] = 0
    values[3:, 0, 5] = 9
    files = [write_module(tmp_path / f"{m}.h5", values, m) for m in range(MODULES)]
    table = make_table({m: (m, np.arange(12)) for m in range(MODULES)})
    reading = read(files, table, room=1)
    block = reading.block
    assert len(block.pixel) == FRAME_PIXELS, "room for any one frame"
    assert block.stored.tolist() == [False] * 3 + [True] * 9
    assert block.sums.lit.tolist() == [FRAME_PIXELS] * 3 + [16] * 9
    assert reading.powder.photons.sum() == 3 * FRAME_PIXELS + 9 * 9 * 16
    taken = block.take(np.arange(3, 12))
    assert (taken.count == 9).all()
    assert taken.pixel.tolist() == [m * PIXELS + 5 for m in range(MODULES)] * 9


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(tmp_path, dtype, layout):
    values = sparse_images(np.random.default_rng(5), 7, dtype)
    about = write_module(tmp_path / "a.h5", values, **layout)
    assert_reads(about, values)
    # any order, gaps and the same chunk again after another
    assert_reads(about, values, rows=[6, 0, 1, 5, 2, 6])


def test_modules_masks_and_gaps(tmp_path):
    """Three modules, two files of one, frames that modules lack, cells with masks of their own."""
    rng = np.random.default_rng(6)
    n = 6
    cell = np.array([0, 5, 9, 0, 5, 9])
    rows = np.zeros(352, np.int32)
    rows[[5, 9]] = 1, 2
    good = random_mask(rng, MODULES, 3)
    region = random_mask(rng, MODULES)
    images = {m: sparse_images(rng, n, "f4") for m in (0, 7, 15)}
    images[7][2, 100, 20:24] = np.nan, np.inf, 70000, 3
    files = [
        write_module(tmp_path / "0.h5", images[0], 0, **LAYOUTS["shuffle gzip"]),
        write_module(tmp_path / "7a.h5", images[7][:4], 7),
        write_module(tmp_path / "15.h5", images[15], 15, **LAYOUTS["chunk of 3"]),
        write_module(tmp_path / "7b.h5", images[7][4:], 7, **LAYOUTS["gzip"]),
    ]
    where = {0: (0, [0, -1, 2, 3, 4, 5]), 7: (1, range(n)), 15: (2, [5, 4, -1, 2, -1, 0])}
    table = make_table(where, cell=cell)
    file = table.file
    file[4:, 7], table.row[4:, 7] = 3, [0, 1]
    table = FrameTable.of_places(table.train_id, table.cell_id, table.pulse_id, file, table.row)
    reading = read(files, table, make_masks(good, region, rows))
    assert reading.problems == []

    expected = {name: np.zeros(n, int) for name in (*SUMS, "modules")}
    lists = [([], []) for _ in range(n)]
    for m, shown in images.items():
        wanted = images[m] if m == 7 else shown[np.asarray(where[m][1])]
        has = np.flatnonzero(table.file[:, m] >= 0)
        twin = module_twin(wanted[has], good[m, rows[cell[has]]], region[m])
        for name in SUMS:
            column = np.array(getattr(twin, name))
            if name == "peak":
                expected[name][has] = np.maximum(expected[name][has], column)
            else:
                expected[name][has] += column
        expected["modules"][has] += 1 << m
        for i, frame in enumerate(has):
            lists[frame][0].extend(twin.pixel[i] + m * PIXELS)
            lists[frame][1].extend(twin.count[i])
        assert np.array_equal(reading.powder.photons[m], twin.powder)
        assert np.array_equal(reading.powder.invalid[m], twin.invalid)
        counted = np.bincount(rows[cell[has]], minlength=3)
        assert reading.powder.frames[m].tolist() == counted.tolist()
    for name, column in expected.items():
        assert getattr(reading.block.sums, name).tolist() == column.tolist(), name
    assert sum(0 in counts for _, counts in lists) == 1
    for frame in range(n):
        pixel, count = reading.lists(frame)
        assert pixel.tolist() == lists[frame][0]
        assert count.tolist() == lists[frame][1]
    assert not np.delete(reading.powder.photons, [0, 7, 15], axis=0).any()


def test_same_sums_in_one_block_or_many(tmp_path):
    rng = np.random.default_rng(7)
    values = sparse_images(rng, 9, "u1")
    files = (write_module(tmp_path / "a.h5", values, **LAYOUTS["shuffle gzip of 4"]),)
    table = make_table({3: (0, np.arange(9))})
    masks = make_masks(random_mask(rng, MODULES, 1), random_mask(rng, MODULES))
    whole = read(files, table, masks)
    pool = FilePool(files)
    powder = PowderSum.zeros(1, AGIPD_1M)
    sparsifier = Sparsifier(pool, masks, 1.0, 0.7, 0)
    parts = []
    for a, b in ((0, 1), (1, 1), (1, 6), (6, 9)):
        block = sparsifier.frames(table[a:b], powder)
        for name in SUMS:
            part = getattr(block.sums, name)
            assert np.array_equal(part, getattr(whole.block.sums, name)[a:b])
        parts.append(block.take(np.arange(b - a)))
    pool.close()
    joined, once = SparseFrames.join(parts), whole.block.take(np.arange(9))
    for name in ("indptr", "pixel", "count"):
        assert np.array_equal(getattr(joined, name), getattr(once, name))
    assert np.array_equal(powder.photons, whole.powder.photons)
    assert np.array_equal(powder.frames, whole.powder.frames)


# what is broken: one chunk of a file with 3 of them


def write_broken(path, values, chunk, data, mask=0, **layout):
    """Write frames, with other bytes as one chunk; data None: that chunk is never written."""
    per_chunk = layout["chunks"][0]
    about = write_module(path, None, data=None, shape=values.shape, dtype=values.dtype, **layout)
    with h5py.File(path, "r+") as file:
        dataset = file[DATASET]
        for number in range(-(-len(values) // per_chunk)):
            rows = slice(number * per_chunk, (number + 1) * per_chunk)
            if number != chunk:
                dataset[rows] = values[rows]
            elif data is not None:
                dataset.id.write_direct_chunk((number * per_chunk, 0, 0), data, filter_mask=mask)
    return about


def shuffled(values):
    itemsize = values.dtype.itemsize
    return values.reshape(-1).view(np.uint8).reshape(-1, itemsize).T.tobytes()


@pytest.mark.parametrize(("mask", "left_out"), [(1, "shuffle"), (2, "deflate"), (3, "both")])
@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_filters_left_out_of_one_chunk(tmp_path, dtype, mask, left_out):
    values = sparse_images(np.random.default_rng(8), 6, dtype)
    data = values[2:4].tobytes() if mask & 1 else shuffled(values[2:4])
    if not mask & 2:
        data = zlib.compress(data)
    layout = {**LAYOUTS["shuffle gzip"], "chunks": (2, SS, FS)}
    about = write_broken(tmp_path / "a.h5", values, 1, data, mask, **layout)
    with h5py.File(about.path) as file:
        assert np.array_equal(file[DATASET][:], values), "the test's file should be valid"
    assert_reads(about, values)


def test_deflate_left_out_of_single_bytes(tmp_path):
    values = sparse_images(np.random.default_rng(9), 3, "u1")
    layout = LAYOUTS["shuffle gzip"]
    about = write_broken(tmp_path / "a.h5", values, 1, values[1].tobytes(), 2, **layout)
    assert_reads(about, values)


def packed(values, n_bytes):
    return zlib.compress(values.tobytes()[:n_bytes].ljust(n_bytes, b"\1"))


BROKEN = {
    "garbage": (lambda v: bytes(range(256)) * 9, 0, "does not inflate"),
    "inflates short": (lambda v: packed(v, v.nbytes - 1), 0, "does not inflate"),
    "inflates long": (lambda v: packed(v, v.nbytes + 1), 0, "does not inflate"),
    "cut short": (lambda v: zlib.compress(v.tobytes())[:-9], 0, "does not inflate"),
    "wrong checksum": (lambda v: zlib.compress(v.tobytes())[:-1] + b"\0", 0, "does not inflate"),
    "empty stream": (lambda v: b"\0", 0, "does not inflate"),
    "plain, too short": (lambda v: v.tobytes()[:-1], 1, "impossible size"),
    "plain, too long": (lambda v: v.tobytes() + b"\0", 1, "impossible size"),
    "huge": (lambda v: bytes(3 * v.nbytes), 0, "impossible size"),
    "never written": (None, 0, "never written"),
}


@pytest.mark.parametrize("per_chunk", [1, 2])
@pytest.mark.parametrize("name", BROKEN)
def test_broken_chunk(tmp_path, name, per_chunk):
    """The frames of the chunk count as missing, each train has its problem, the rest is read."""
    make, mask, text = BROKEN[name]
    values = sparse_images(np.random.default_rng(10), 3 * per_chunk, "u2")
    bad = np.arange(per_chunk, 2 * per_chunk)
    data = make(values[bad]) if make else None
    layout = {**LAYOUTS["gzip"], "chunks": (per_chunk, SS, FS)}
    about = write_broken(tmp_path / "a.h5", values, 1, data, mask, **layout)
    rows = np.arange(len(values))
    reading = read([about], make_table({3: (0, rows)}, train=2000 + rows))
    good = np.delete(rows, bad)
    shown = np.ones((len(good), SS, FS), bool)
    twin = module_twin(values[good], shown, shown[0])
    for column in SUMS:
        found = getattr(reading.block.sums, column)
        assert found[good].tolist() == getattr(twin, column)
        assert not found[bad].any()
    assert reading.block.sums.modules[good].tolist() == [8] * len(good)
    assert not reading.block.sums.modules[bad].any()
    assert np.array_equal(reading.powder.photons[3], twin.powder)
    assert reading.powder.frames[3].tolist() == [len(good)]
    assert [len(reading.lists(i)[0]) for i in bad] == [0] * per_chunk
    assert [(p.file, p.module, p.train) for p in reading.problems] == [
        ("a.h5", 3, 2000 + i) for i in bad
    ]
    assert all(p.what.startswith("1 frames: ") and text in p.what for p in reading.problems)


@pytest.mark.parametrize("data", [b"no stream", None], ids=["garbage", "never written"])
def test_bad_chunk_first_and_last(tmp_path, data):
    """A chunk that failed is not taken for read when the next frame asks for it, or another."""
    values = sparse_images(np.random.default_rng(11), 4, "u1")
    layout = {**LAYOUTS["gzip"], "chunks": (2, SS, FS)}
    about = write_broken(tmp_path / "a.h5", values, 0, data, **layout)
    rows = [0, 2, 1, 3, 0]
    reading = read([about], make_table({3: (0, rows)}))
    assert reading.block.sums.modules.tolist() == [0, 8, 0, 8, 0]
    assert [p.what[:9] for p in reading.problems] == ["3 frames:"]
    assert reading.block.sums.photons[3] == values[3].sum()


@pytest.mark.parametrize("layout", ["contiguous", "chunk", "gzip"])
def test_file_loses_its_end(tmp_path, layout):
    """A file that is cut while it is open: the frames before the cut are read."""
    values = sparse_images(np.random.default_rng(12), 4, "u1", lit=3000)
    about = write_module(tmp_path / "a.h5", values, **LAYOUTS[layout])
    pool = FilePool((about,))
    place = pool.get(0).frames(np.arange(4))
    os.truncate(about.path, int(place.offset[2] + place.size[2] // 2))
    powder = PowderSum.zeros(1, AGIPD_1M)
    sparsifier = Sparsifier(pool, make_masks(), 1.0, 0.7, 0)
    sums = sparsifier.frames(make_table({3: (0, np.arange(4))}), powder).sums
    pool.close()
    assert sums.photons.tolist() == [values[0].sum(), values[1].sum(), 0, 0]
    assert sums.modules.tolist() == [8, 8, 0, 0]
    assert [p.what for p in sparsifier.problems] == [
        "2 frames: bytes cannot be read (file too short?)"
    ]


def test_invalid_pixels_are_named_once(tmp_path):
    """By the pass that asks for it, not by whoever reads a hit once more."""
    values = np.zeros((2, SS, FS), np.float32)
    values[1, 5, 6:9] = np.nan, np.inf, 1
    pool = FilePool((write_module(tmp_path / "a.h5", values),))
    sparsifier = Sparsifier(pool, make_masks(), 1.0, 0.7, 0)
    table, powder = make_table({3: (0, np.arange(2))}), PowderSum.zeros(1, AGIPD_1M)
    sparsifier.frames(table, powder, name_invalid=True)
    sparsifier.frames(table, powder)
    pool.close()
    (problem,) = sparsifier.problems
    assert problem.what.startswith("1 frames: 2 pixels are not valid photon counts")


@pytest.mark.parametrize("break_it", [os.remove, lambda path: os.truncate(path, 3000)])
def test_file_cannot_be_opened(tmp_path, break_it):
    values = sparse_images(np.random.default_rng(13), 3, "u1")
    files = [write_module(tmp_path / f"{m}.h5", values, m) for m in (2, 3)]
    break_it(files[0].path)
    table = make_table({m: (m - 2, range(3)) for m in (2, 3)}, train=[50, 50, 51])
    reading = read(files, table)
    assert reading.block.sums.modules.tolist() == [8, 8, 8]
    assert [(p.file, p.module, p.train, p.what[:31]) for p in reading.problems] == [
        ("2.h5", 2, 50, "2 frames: file cannot be opened"),
        ("2.h5", 2, 51, "1 frames: file cannot be opened"),
    ]


def test_bytes_read_are_those_stored(tmp_path):
    values = sparse_images(np.random.default_rng(14), 8, "u1")
    for name in ("contiguous", "gzip", "shuffle gzip of 4"):
        about = write_module(tmp_path / "a.h5", values, **LAYOUTS[name])
        with h5py.File(about.path) as file:
            stored = file[DATASET].id.get_storage_size()
        assert assert_reads(about, values).bytes_read == stored, name


# the lists themselves


def some_frames():
    indptr = np.array([0, 2, 2, 5, 6], np.int64)
    return SparseFrames(
        indptr, np.arange(10, 16, dtype=np.uint32), np.arange(1, 7, dtype=np.uint16)
    )


@pytest.mark.parametrize("order", [[], [0], [1], [3, 2, 1, 0], [2, 2], [0, 1, 2, 3]])
def test_take(order):
    frames = some_frames()
    taken = frames.take(np.array(order, int))
    assert len(taken) == len(order)
    for i, frame in enumerate(order):
        own = slice(*taken.indptr[i : i + 2])
        original = slice(*frames.indptr[frame : frame + 2])
        assert taken.pixel[own].tolist() == frames.pixel[original].tolist()
        assert taken.count[own].tolist() == frames.count[original].tolist()
    assert [a.dtype for a in (taken.indptr, taken.pixel, taken.count)] == ["i8", "u4", "u2"]


@pytest.mark.parametrize("parts", [[], [0], [0, 0], [0, 4], [4, 0, 4], [2, 0, 1, 1]])
def test_join_has_an_empty_identity(parts):
    pieces, numbers, at = [], [], 0
    for n in parts:
        pieces.append(some_frames().take(np.arange(at, at + n) % 4))
        numbers += [(at + i) % 4 for i in range(n)]
    joined, expected = SparseFrames.join(pieces), some_frames().take(np.array(numbers, int))
    for name in ("indptr", "pixel", "count"):
        assert np.array_equal(getattr(joined, name), getattr(expected, name))
        assert getattr(joined, name).dtype == getattr(expected, name).dtype
    assert len(SparseFrames.join([SparseFrames.empty(), SparseFrames.empty()])) == 0
