"""Masks of frames, ``image/mask``: every layout is read as h5py reads it, and damage is named."""

import re

import h5py
import numpy as np
import pytest
from modulefiles import (
    LAYOUTS,
    assert_same_as_twin,
    make_masks,
    make_table,
    read,
    sparse_images,
    write_module,
)
from reference import FS, MODULES, PIXELS, SS, module_twin

from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.frame_table import FrameTable
from xfelmpi.reduction import sparsifier
from xfelmpi.run.frames import frame_masks
from xfelmpi.run.frames.file_pool import FilePool
from xfelmpi.run.frames.frame_masks import MaskReader
from xfelmpi.run.mask_samples import sample_masks

ALL = 0xFFFFFFFF
EVERYWHERE = np.ones((SS, FS), bool)


def random_masks(rng, n, dtype="u4"):
    """Return masks with bits in every byte, at the edges too."""
    top = np.iinfo(dtype).bits
    bits = np.uint64(1) << rng.integers(0, top, (n, SS, FS), np.uint64)
    masks = np.where(rng.random((n, SS, FS)) < 0.05, bits, np.uint64(0))
    masks[:, 0, :3] = masks[:, -1, -2:] = 1
    return masks.astype(dtype)


def write(path, values, masks, data=None, module=3, **layout):
    about = write_module(path, values, module, **(data or LAYOUTS["shuffle gzip"]))
    with h5py.File(path, "r+") as file:
        layout.setdefault("data", masks)
        file.create_dataset(about.mask_dataset, **layout)
    return about


def masked(bits=ALL):
    plain = make_masks()
    return Masks(plain.good, plain.row_of_cell, plain.region, frame_bits=bits)


def assert_reads(about, values, masks, rows=None, bits=ALL):
    rows = np.arange(len(values)) if rows is None else np.asarray(rows)
    reading = read([about], make_table({about.module: (0, rows)}), masked(bits))
    good = np.broadcast_to(EVERYWHERE, (len(rows), SS, FS))
    twin = module_twin(values[rows], good, EVERYWHERE, masks=masks[rows], bits=bits)
    assert reading.problems == []
    assert_same_as_twin(reading, about.module, twin)
    return reading


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_common_layouts(tmp_path, layout):
    rng = np.random.default_rng(1)
    values, masks = sparse_images(rng, 6, "u1"), random_masks(rng, 6)
    reading = assert_reads(write(tmp_path / "a.h5", values, masks, **layout), values, masks)
    assert reading.bytes_read > 0


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "u8", ">u4"])
def test_other_integers(tmp_path, dtype):
    """The upper half of 64 bits has no meaning."""
    rng = np.random.default_rng(2)
    values, masks = sparse_images(rng, 3, "u2"), random_masks(rng, 3, dtype)
    about = write(tmp_path / "a.h5", values, masks, compression="gzip")
    assert_reads(about, values, masks.astype("u4"))


@pytest.mark.parametrize("layout", [{}, LAYOUTS["shuffle gzip"]], ids=["plain", "shuffle gzip"])
@pytest.mark.parametrize("bits", [1, 1 << 9, 1 << 22, 1 << 31, 0x00FF0100, ALL])
def test_some_of_the_bits(tmp_path, layout, bits):
    rng = np.random.default_rng(3)
    values, masks = sparse_images(rng, 2, "f4"), random_masks(rng, 2)
    masks[1] = rng.integers(0, 1 << 32, (SS, FS), np.uint32)
    assert_reads(write(tmp_path / "a.h5", values, masks, **layout), values, masks, bits=bits)


def test_frames_in_any_order_and_more_than_fit_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sparsifier, "MASKED_FRAMES", 16)
    rng = np.random.default_rng(4)
    n = 16 + 5
    values, masks = sparse_images(rng, n, "u1"), random_masks(rng, 4)[np.arange(n) % 4]
    chunks = {"chunks": (4, SS, FS), "shuffle": True, "compression": "gzip"}
    about = write(tmp_path / "a.h5", values, masks, **chunks)
    assert_reads(about, values, masks, rows=rng.permutation(n))


@pytest.mark.parametrize("room", [1 << 12, 1 << 24])
def test_masks_of_cells_that_come_again(tmp_path, monkeypatch, room):
    """Most are those of their cell, some are others; there may be too little memory for them."""
    monkeypatch.setattr(frame_masks, "_KNOWN_BYTES", room)
    rng = np.random.default_rng(7)
    n = 24
    values, cells = sparse_images(rng, n, "u1"), random_masks(rng, 4)
    masks = cells[np.arange(n) % 4]
    masks[[5, 13, 14]] = random_masks(rng, 3)
    masks[17, 3, 3] ^= 1 << 20
    about = write(tmp_path / "a.h5", values, masks, **LAYOUTS["shuffle gzip"])
    assert_reads(about, values, masks, rows=rng.permutation(n))


@pytest.mark.slow
def test_data_that_only_h5py_can_read(tmp_path):
    rng = np.random.default_rng(5)
    values, masks = sparse_images(rng, 40, "f8"), random_masks(rng, 1)[np.zeros(40, int)]
    about = write(tmp_path / "a.h5", values, masks, {}, compression="lzf")
    assert_reads(about, values, masks)


@pytest.mark.parametrize("fill", [0, 4])
@pytest.mark.parametrize("written", [0, 1])
def test_masks_never_written_are_the_fill_value(tmp_path, fill, written):
    """As every HDF5 reader has it; a file with no bad pixels may hold no masks at all."""
    rng = np.random.default_rng(6)
    values = sparse_images(rng, 3, "u1")
    about = write_module(tmp_path / "a.h5", values)
    layout = {"chunks": (1, SS, FS), "compression": "gzip", "fillvalue": fill}
    with h5py.File(about.path, "r+") as file:
        dataset = file.create_dataset(about.mask_dataset, (3, SS, FS), "u4", **layout)
        if written:
            dataset[1] = random_masks(rng, 1)[0]
        masks = dataset[:]
    assert_reads(about, values, masks)
    held = np.full((3, PIXELS), ALL, np.uint32)
    pool = FilePool((about,))
    assert not MaskReader(pool).join(0, np.arange(3), np.arange(3, dtype=np.int32), held).any()
    assert np.array_equal(held.reshape(masks.shape), masks)
    pool.close()


def break_chunk(path, name, row):
    with h5py.File(path, "r") as file:
        place = file[name].id.get_chunk_info_by_coord((row, 0, 0))
    with open(path, "r+b") as file:
        file.seek(place.byte_offset + place.size // 2)
        file.write(bytes(40))


@pytest.mark.parametrize("layout", [{}, {"fletcher32": True}], ids=["direct", "through h5py"])
def test_broken_mask_of_one_frame(tmp_path, layout):
    """The frame counts as missing in this module: nobody knows which pixels were good."""
    rng = np.random.default_rng(7)
    values, masks = sparse_images(rng, 4, "u1"), random_masks(rng, 4)
    about = write(tmp_path / "a.h5", values, masks, **LAYOUTS["gzip"], **layout)
    break_chunk(about.path, about.mask_dataset, 2)
    reading = read([about], make_table({3: (0, np.arange(4))}), masked())
    (problem,) = reading.problems
    assert (problem.file, problem.module, problem.train) == ("a.h5", 3, 1000)
    assert problem.what.startswith("1 frames: image/mask: chunk ")
    kept = np.array([0, 1, 3])
    good = np.broadcast_to(EVERYWHERE, (3, SS, FS))
    twin = module_twin(values[kept], good, EVERYWHERE, masks=masks[kept])
    assert reading.block.sums.modules.tolist() == [8, 8, 0, 8]
    assert reading.block.sums.lit[kept].tolist() == twin.lit
    assert reading.block.sums.entries[2] == 0
    assert np.array_equal(reading.powder.photons[3], twin.powder)
    assert np.array_equal(reading.powder.invalid[3], twin.invalid)
    assert reading.powder.frames[3].tolist() == [3]
    # without the masks the frame is as good as any
    assert read([about], make_table({3: (0, np.arange(4))})).problems == []


UNUSABLE = {
    "none": (None, "cannot be used"),
    "floats": (np.zeros((2, SS, FS), "f4"), r"float32 \(2, 512, 128\), expected integers"),
    "turned": (np.zeros((2, FS, SS), "u4"), r"\(2, 128, 512\), expected"),
    "empty": (np.zeros((0, SS, FS), "u4"), r"\(0, 512, 128\), expected"),
    "scalar": (np.uint32(0), r"\(\), expected"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_masks_that_cannot_be_used(tmp_path, name):
    values, (masks, words) = sparse_images(np.random.default_rng(8), 2, "u1"), UNUSABLE[name]
    about = write_module(tmp_path / "a.h5", values)
    if masks is not None:
        with h5py.File(about.path, "r+") as file:
            file[about.mask_dataset] = masks
    reading = read([about], make_table({3: (0, [0, 1])}), masked())
    assert not reading.block.sums.modules.any()
    assert not reading.powder.photons.any()
    (problem,) = reading.problems
    assert "2 frames: image/mask cannot be used" in problem.what
    assert re.search(words, problem.what)


def test_fewer_masks_than_frames(tmp_path):
    rng = np.random.default_rng(9)
    values, masks = sparse_images(rng, 4, "u1"), random_masks(rng, 3)
    for layout in ({}, LAYOUTS["shuffle gzip"]):
        about = write(tmp_path / "a.h5", values, masks, **layout)
        reading = read([about], make_table({3: (0, np.arange(4))}), masked())
        assert reading.block.sums.modules.tolist() == [8, 8, 8, 0]
        assert "1 frames: image/mask: chunk was never written" in reading.problems[0].what


def test_masks_of_files_and_frames_together(tmp_path):
    """A pixel that the first call bad is in no list, whatever the frame's own mask says."""
    rng = np.random.default_rng(10)
    values, masks = sparse_images(rng, 5, "u1"), random_masks(rng, 5)
    good, region = rng.random((MODULES, 2, SS, FS)) < 0.7, rng.random((MODULES, SS, FS)) < 0.5
    rows = np.arange(352) % 2
    about = write(tmp_path / "a.h5", values, masks)
    static = make_masks(good, region, rows)
    both = Masks(static.good, static.row_of_cell, static.region, frame_bits=ALL)
    reading = read([about], make_table({3: (0, np.arange(5))}), both)
    twin = module_twin(values, good[3, rows[:5]], region[3], masks=masks)
    assert_same_as_twin(reading, 3, twin)
    assert reading.powder.frames[3].tolist() == [3, 2]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_joined_masks(tmp_path, layout):
    """Bits that are set in all masks of a slot; the kernel's twin is `bitwise_and`."""
    rng = np.random.default_rng(11)
    masks = rng.integers(0, 1 << 32, (6, SS, FS), np.uint32)
    about = write(tmp_path / "a.h5", np.zeros((6, SS, FS), "u1"), masks, **layout)
    pool = FilePool((about,))
    held = np.full((3, PIXELS), 0xFFFF00FF, np.uint32)
    rows, slot = np.array([0, 1, 2, 5, 3]), np.array([2, 0, 2, 2, 0], np.int32)
    assert not MaskReader(pool).join(0, rows, slot, held).any()
    pool.close()
    for i, of_slot in enumerate(([1, 3], [], [0, 2, 5])):
        joined = np.bitwise_and.reduce(masks[of_slot], initial=np.uint32(0xFFFF00FF))
        assert np.array_equal(held[i], joined.reshape(-1))


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("seed", range(3))
def test_joined_masks_of_which_many_are_the_same(tmp_path, layout, seed):
    """Chunks with the same bytes one after the other, in the same slot and in others."""
    rng = np.random.default_rng(seed)
    different = rng.integers(0, 1 << 32, (3, SS, FS), np.uint32)
    different[:, :, 20:] = 0
    which = np.repeat(rng.integers(0, 3, 25), rng.integers(1, 4, 25))
    about = write(
        tmp_path / "a.h5", np.zeros((len(which), SS, FS), "u1"), different[which], **layout
    )
    pool = FilePool((about,))
    held = np.full((4, PIXELS), ALL, np.uint32)
    rows = np.arange(len(which)) if seed else rng.permutation(len(which))
    slot = np.sort(rng.integers(0, 3, len(which))).astype(np.int32)
    assert not MaskReader(pool).join(0, rows, slot, held).any()
    pool.close()
    for i in range(4):
        expected = np.bitwise_and.reduce(different[which[rows[slot == i]]], initial=np.uint32(ALL))
        assert np.array_equal(held[i], expected.reshape(-1))


def test_joined_masks_of_which_one_is_broken(tmp_path):
    """It is left out, and those before and after it, which are the same, are not."""
    mask = np.random.default_rng(4).integers(0, 9, (SS, FS), np.uint32)
    masks = np.stack([mask] * 5)
    path = tmp_path / "a.h5"
    about = write(path, np.zeros((5, SS, FS), "u1"), masks, chunks=(1, SS, FS), compression="gzip")
    break_chunk(path, about.mask_dataset, 2)
    pool = FilePool((about,))
    held = np.full((5, PIXELS), ALL, np.uint32)
    status = MaskReader(pool).join(0, np.arange(5), np.arange(5, dtype=np.int32), held)
    pool.close()
    assert status.astype(bool).tolist() == [False, False, True, False, False]
    assert (held[2] == ALL).all()
    for i in (0, 1, 3, 4):
        assert np.array_equal(held[i], mask.reshape(-1))


def table_of(train, cell, has):
    """Return a table in which frame i is row i of module m's file m, where `has` (16, frame)."""
    n = len(train)
    file = np.where(has.T, np.arange(MODULES), -1).astype(np.int32)
    row = np.broadcast_to(np.arange(n, dtype=np.int32)[:, None], (n, MODULES))
    ids = np.asarray(train, np.uint64), np.asarray(cell, np.uint16), np.asarray(cell, np.uint64)
    return FrameTable.of_places(*ids, file, row)


def test_first_frames_of_every_module_and_cell():
    """Against a search frame by frame; modules and cells lack frames at random."""
    rng = np.random.default_rng(12)
    cells = np.array([0, 3, 4, 200])
    trains, cell = np.repeat(np.arange(100, 130), 4), np.tile(cells, 30)
    kept = rng.random(120) < 0.6
    trains, cell = trains[kept], cell[kept]
    has = rng.random((MODULES, len(trains))) < 0.7
    has[5] = False
    for n in (1, 5, 40):
        samples = sample_masks(table_of(trains, cell, has), cells, n)
        assert samples.first.file.shape == (MODULES, 4, n)
        for module in range(MODULES):
            for i, c in enumerate(cells):
                right = np.flatnonzero(has[module] & (cell == c))[:n]
                found = samples.first.file[module, i] >= 0
                assert samples.first.row[module, i][found].tolist() == right.tolist()
                assert set(samples.first.file[module, i].tolist()) <= {module, -1}


@pytest.mark.parametrize(
    ("n_trains", "n", "starts"),
    [(1, 5, []), (5, 5, []), (6, 5, [1]), (8, 5, [2, 3]), (100, 5, [48, 95]), (3, 1, [1, 2])],
)
def test_later_trains(n_trains, n, starts):
    """In the middle, and the last ones; none if all are among the first."""
    cells = np.arange(352)
    trains, cell = np.repeat(np.arange(n_trains) + 1000, 352), np.tile(cells, n_trains)
    has = np.ones((MODULES, len(trains)), bool)
    samples = sample_masks(table_of(trains, cell, has), cells, n)
    assert len(samples.checked) == 8
    assert samples.checked[[0, -1]].tolist() == [0, 351]
    assert [int(later.row[0, 0, 0]) // 352 for later in samples.later] == starts
    for later, start in zip(samples.later, starts, strict=True):
        assert later.row.shape == (MODULES, 8, n)
        assert (later.row[3, :, -1] == (start + n - 1) * 352 + cells[samples.checked]).all()
