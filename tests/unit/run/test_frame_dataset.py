"""Where frames are and how they are packed: every layout h5py can write gives what h5py reads."""

import os

import h5py
import numpy as np
import pytest
from modulefiles import (
    DATASET,
    LAYOUTS,
    assert_reads,
    make_table,
    read,
    sparse_images,
    write_module,
)
from reference import FS, PIXELS, SS

from xfelmpi._kernels._frames import DEFLATE, NEVER_WRITTEN, SHUFFLE
from xfelmpi.core.frame_table import ModuleFile
from xfelmpi.run.frames import frame_dataset as module_under_test
from xfelmpi.run.frames.file_pool import OpenModuleFile

ONE = (1, SS, FS)


def assert_missing(about, n, missing, reason, values=None):
    """Assert that some of n frames are missing for a reason, and the others read as they are."""
    reading = read([about], make_table({3: (0, np.arange(n))}))
    missing = sorted(missing)
    assert reading.block.sums.modules.tolist() == [0 if i in missing else 8 for i in range(n)]
    photons = [0 if i in missing else int(values[i].sum()) for i in range(n)]
    assert reading.block.sums.photons.tolist() == photons
    assert [reason in p.what for p in reading.problems] == [True] * bool(missing)
    assert sum(int(p.what.split()[0]) for p in reading.problems) == len(missing)


WHOLE = {"chunks": ONE, "compression": "gzip", "shuffle": True}


@pytest.fixture
def opened():
    """Open a module file that is closed at the end."""
    files = []

    def open_it(about):
        files.append(OpenModuleFile(about))
        return files[-1]

    yield open_it
    for file in files:
        file.close()


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_common_layouts_are_read_directly(tmp_path, opened, dtype, layout):
    values = sparse_images(np.random.default_rng(1), 5, dtype)
    about = write_module(tmp_path / "a.h5", values, **layout)
    file = opened(about)
    assert file.direct
    rows = np.array([4, 0, 3])
    place = file.frames(rows)
    packed = "shuffle" in layout or "compression" in layout
    # frames that are not packed are read alone, whatever chunk they are in
    per_chunk = layout["chunks"][0] if packed else 1
    assert place.fd >= 0
    assert place.memory.size == 0
    assert place.chunk_frames == per_chunk
    assert place.index_in_chunk.tolist() == (rows % per_chunk).tolist()
    if not packed:
        n_bytes = PIXELS * values.dtype.itemsize
        assert place.size.tolist() == [n_bytes] * 3
        found = [os.pread(place.fd, n_bytes, int(offset)) for offset in place.offset]
        assert found == [values[row].tobytes() for row in rows]
    assert place.dtype == values.dtype
    assert place.from_integers == (dtype != "f4")
    expected = DEFLATE * ("compression" in layout)
    expected |= SHUFFLE * ("shuffle" in layout and dtype != "u1")
    assert place.filters.tolist() == [expected] * 3
    with h5py.File(about.path) as raw:
        assert np.array_equal(raw[DATASET][:], values)


INDIRECT = {
    "lzf": {"chunks": ONE, "compression": "lzf"},
    "shuffle lzf of 2": {"chunks": (2, SS, FS), "compression": "lzf", "shuffle": True},
    "fletcher32": {"chunks": ONE, "fletcher32": True},
    "all filters": {**WHOLE, "fletcher32": True},
    "half frames": {"chunks": (1, SS // 2, FS)},
    "half frames, gzip": {"chunks": (2, SS, FS // 2), "compression": "gzip"},
}


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("layout", INDIRECT.values(), ids=INDIRECT)
def test_other_layouts_go_through_h5py(tmp_path, opened, dtype, layout):
    values = sparse_images(np.random.default_rng(2), 5, dtype)
    about = write_module(tmp_path / "a.h5", values, **layout)
    assert not opened(about).direct
    assert_reads(about, values)
    assert_reads(about, values, rows=[3, 0, 4, 3])


def test_scale_offset_filter(tmp_path, opened):
    values = sparse_images(np.random.default_rng(3), 3, "u2")
    about = write_module(tmp_path / "a.h5", values, chunks=ONE, scaleoffset=0)
    assert not opened(about).direct
    assert_reads(about, values)


def test_filters_in_the_other_order(tmp_path, opened):
    """Deflate first, then shuffle, as no library does by itself."""
    values = sparse_images(np.random.default_rng(4), 3, "f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(ONE)
        plist.set_deflate(1)
        plist.set_shuffle()
        space = h5py.h5s.create_simple(values.shape)
        dataset = h5py.h5d.create(file.id, b"data", h5py.h5t.IEEE_F32LE, space, plist)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    about = ModuleFile(str(tmp_path / "a.h5"), 3, "data")
    assert not opened(about).direct
    assert_reads(about, values)


@pytest.mark.parametrize("layout", [{}, {"chunks": ONE}, WHOLE], ids=["contiguous", "chunk", "all"])
def test_file_with_a_user_block(tmp_path, layout):
    """HDF5 1.10 and 1.14 count a chunk's address from different places then."""
    values = sparse_images(np.random.default_rng(5), 3, "u2")
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=2048) as file:
        file.create_dataset(DATASET, data=values, **layout)
    assert_reads(ModuleFile(str(tmp_path / "a.h5"), 3, DATASET), values)


def test_virtual_dataset(tmp_path, opened):
    values = sparse_images(np.random.default_rng(6), 4, "u1")
    parts = [write_module(tmp_path / f"{i}.h5", values[2 * i : 2 * i + 2], **WHOLE) for i in (0, 1)]
    layout = h5py.VirtualLayout(values.shape, "u1")
    for i, part in enumerate(parts):
        layout[2 * i : 2 * i + 2] = h5py.VirtualSource(part.path, DATASET, (2, SS, FS))
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file.create_virtual_dataset(DATASET, layout)
    about = ModuleFile(str(tmp_path / "all.h5"), 3, DATASET)
    assert not opened(about).direct
    assert_reads(about, values)


def test_external_storage(tmp_path, opened):
    values = sparse_images(np.random.default_rng(7), 2, "u1")
    outside = [(str(tmp_path / "a.raw"), 0, h5py.h5f.UNLIMITED)]
    about = write_module(tmp_path / "a.h5", values, external=outside)
    assert not opened(about).direct
    assert_reads(about, values)


def test_very_large_chunks_go_through_h5py(tmp_path, opened, monkeypatch):
    values = sparse_images(np.random.default_rng(8), 6, "u1")
    about = write_module(tmp_path / "a.h5", values, **LAYOUTS["shuffle gzip of 4"])
    monkeypatch.setattr(module_under_test, "_LARGEST_CHUNK", 4 * PIXELS)
    assert opened(about).direct
    monkeypatch.setattr(module_under_test, "_LARGEST_CHUNK", 4 * PIXELS - 1)
    assert not opened(about).direct
    assert_reads(about, values)


def test_few_frames_at_a_time_through_h5py(tmp_path, monkeypatch):
    """They are dense in memory."""
    held = []

    def through_h5py(self, rows):
        found = original(self, rows)
        held.append(found.memory.nbytes)
        return found

    original = OpenModuleFile._through_h5py
    monkeypatch.setattr(OpenModuleFile, "_through_h5py", through_h5py)
    values = np.zeros((70, SS, FS), np.uint8)
    values[np.arange(70), np.arange(70), 3] = 1 + np.arange(70)
    about = write_module(tmp_path / "a.h5", values, chunks=ONE, compression="lzf")
    assert_reads(about, values)
    assert sum(held) == 70 * 4 * PIXELS
    assert max(held) <= 10 << 20


DTYPES = ("i1", "i2", "i4", "i8", "u4", "u8", "f2", "f8", ">u2", ">i4", ">u8", ">f4", ">f8")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [{}, WHOLE], ids=["contiguous", "all"])
def test_other_dtypes(tmp_path, opened, dtype, layout):
    """Counts out of range, negatives, NaN and what is infinite in float32 among the values."""
    values = sparse_images(np.random.default_rng(9), 3, dtype)
    if values.dtype.kind == "f":
        largest = np.finfo(values.dtype).max
        odd = [np.nan, np.inf, -np.inf, -0.0, largest, -largest, 65535.0, 0.7, 0.69999]
    else:
        limits = np.iinfo(values.dtype)
        odd = [limits.min, limits.max, limits.max - 1, min(65535, limits.max)]
        odd += [min(65536, limits.max), 0, 1]
    with np.errstate(over="ignore"):
        values[1, 200, : len(odd)] = odd
    about = write_module(tmp_path / "a.h5", values, **layout)
    assert not opened(about).direct
    reading = assert_reads(about, values)
    if dtype[-2:] in ("i4", "i8", "u4", "u8"):
        assert reading.powder.invalid.sum() == 3
    if values.dtype.kind == "f":
        assert_reads(about, values, adu=3.3, threshold=0.6)
    else:
        assert_reads(about, values, adu=3.3)


FILLS = [
    ("u1", 0),
    ("u1", 2),
    ("u2", 65535),
    ("f4", np.nan),
    ("f4", 1.9),
    ("i2", -1),
    ("i4", 5),
    ("u4", 70000),
    ("u8", 3),
    ("f8", np.nan),
    ("f8", 3.0),
    (">f4", 2.0),
    (">u2", 7),
]


@pytest.mark.parametrize(("dtype", "fill"), FILLS)
@pytest.mark.parametrize("layout", [{}, WHOLE], ids=["contiguous", "all"])
def test_dataset_never_written(tmp_path, opened, dtype, fill, layout):
    """HDF5 gives the fill value, but nobody has measured it: the frames are missing."""
    shape = (3, SS, FS)
    path = tmp_path / "a.h5"
    about = write_module(path, None, data=None, shape=shape, dtype=dtype, fillvalue=fill, **layout)
    with h5py.File(path) as file:
        values = file[DATASET][:]
        assert file[DATASET].id.get_storage_size() == 0
    assert np.array_equal(values, np.full(shape, fill, dtype), equal_nan=values.dtype.kind == "f")
    assert opened(about).direct, "no dense copy of all frames"
    assert_missing(about, 3, range(3), "chunk was never written")


@pytest.mark.parametrize("layout", [WHOLE, {"chunks": (2, SS, FS)}], ids=["all", "plain of 2"])
def test_chunks_never_written(tmp_path, opened, layout):
    about = write_module(
        tmp_path / "a.h5", None, data=None, shape=(6, SS, FS), dtype="u1", **layout
    )
    with h5py.File(about.path, "r+") as file:
        file[DATASET][2:4] = 1
    place = opened(about).frames(np.arange(6))
    assert (place.offset == NEVER_WRITTEN).tolist() == [True, True, False, False, True, True]
    reading = read([about], make_table({3: (0, np.arange(6))}))
    assert reading.block.sums.modules.tolist() == [0, 0, 8, 8, 0, 0]
    assert len(reading.problems) == 1


def test_broken_chunk_through_h5py(tmp_path):
    """HDF5's own error of one frame is that frame's problem only."""
    values = sparse_images(np.random.default_rng(10), 4, "u1")
    about = write_module(tmp_path / "a.h5", values, chunks=ONE, fletcher32=True)
    with h5py.File(about.path) as file:
        offset = file[DATASET].id.get_chunk_info_by_coord((2, 0, 0)).byte_offset
    with open(about.path, "r+b") as file:
        file.seek(offset + 1000)
        file.write(b"damage")
    reading = read([about], make_table({3: (0, np.arange(4))}))
    assert reading.block.sums.modules.tolist() == [8, 8, 0, 8]
    assert reading.block.sums.photons.tolist() == [*values[:2].sum((1, 2)), 0, values[3].sum()]
    assert [p.what for p in reading.problems] == [
        "1 frames: chunk was never written or cannot be read"
    ]


def behind_link(tmp_path, values, **layout):
    """Return a module file whose frames are a link to another file, in other places there."""
    there = write_module(tmp_path / "there.h5", None, data=values, **layout)
    with h5py.File(tmp_path / "here.h5", "w") as file:
        file["before"] = np.full(values.shape, 9, values.dtype)
        file[DATASET] = h5py.ExternalLink("there.h5", DATASET)
    return there, ModuleFile(str(tmp_path / "here.h5"), 3, DATASET)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_frames_behind_an_external_link(tmp_path, opened, layout):
    values = sparse_images(np.random.default_rng(11), 5, "u2")
    _, about = behind_link(tmp_path, values, **layout)
    assert opened(about).direct, "the offsets count in the file that HDF5 has opened"
    assert_reads(about, values)


ODD_BITS = {
    "12 bits from bit 3 on": (h5py.h5t.STD_U16LE, 12, 3),
    "10 bits": (h5py.h5t.STD_U16LE, 10, 0),
    "7 bits from bit 1 on": (h5py.h5t.STD_U8LE, 7, 1),
}


@pytest.mark.parametrize("kind", ODD_BITS.values(), ids=ODD_BITS)
@pytest.mark.parametrize("layout", [{}, WHOLE], ids=["contiguous", "all"])
def test_numbers_that_do_not_fill_their_bytes(tmp_path, opened, kind, layout):
    """numpy calls them u1 and u2."""
    base, precision, offset = kind
    values = np.minimum(sparse_images(np.random.default_rng(12), 3, "u1"), 127)
    about = write_module(tmp_path / "a.h5", values, **layout)
    with h5py.File(about.path, "r+") as file:
        plist = file[DATASET].id.get_create_plist()
        del file[DATASET]
        odd = base.copy()
        odd.set_precision(precision)
        odd.set_offset(offset)
        space = h5py.h5s.create_simple(values.shape)
        dataset = h5py.h5d.create(file.id, DATASET.encode(), odd, space, plist)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
        assert file[DATASET].dtype.str in ("|u1", "<u2")
    assert not opened(about).direct
    assert_reads(about, values)


def joined(tmp_path, values, *mappings, dtype="u1"):
    """Write a virtual module file of (rows here, file, rows there)."""
    layout = h5py.VirtualLayout(values.shape, dtype)
    for here, name, there in mappings:
        layout[here] = h5py.VirtualSource(name, DATASET, (100, SS, FS))[there]
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file.create_virtual_dataset(DATASET, layout)
    return ModuleFile(str(tmp_path / "all.h5"), 3, DATASET)


def test_sources_of_virtual_frames(tmp_path):
    """One is there, one is too short, one is not there, one row is nobody's."""
    values = sparse_images(np.random.default_rng(13), 9, "u1")
    parts = [(slice(0, 3), "0.h5"), (slice(3, 6), "1.h5"), (slice(6, 8), "2.h5")]
    mappings = [(rows, name, slice(0, rows.stop - rows.start)) for rows, name in parts]
    about = joined(tmp_path, values, *mappings)
    write_module(tmp_path / "0.h5", values[:3], **WHOLE)
    write_module(tmp_path / "1.h5", values[3:5])
    assert_missing(about, 9, {5, 6, 7, 8}, "virtual dataset", values)
    write_module(tmp_path / "1.h5", values[3:6])
    write_module(tmp_path / "2.h5", values[6:8])
    assert_missing(about, 9, {8}, "nothing is mapped there in the virtual dataset", values)
    assert_reads(about, values, rows=[0, 7, 3, 2, 6])


def test_virtual_frames_of_one_source_are_read_directly(tmp_path, opened):
    values = sparse_images(np.random.default_rng(14), 4, "u1")
    about = joined(tmp_path, values, (slice(0, 4), "0.h5", slice(0, 4)))
    write_module(tmp_path / "0.h5", values, **WHOLE)
    assert opened(about).frames(np.arange(4)).fd >= 0
    assert_reads(about, values)


def test_virtual_frames_of_another_type(tmp_path):
    """HDF5 converts them; u1 has no more than 255."""
    values = sparse_images(np.random.default_rng(15), 4, "u2")
    values[2, 7, 7] = 700
    about = joined(tmp_path, values, (slice(0, 4), "0.h5", slice(0, 4)))
    write_module(tmp_path / "0.h5", values, **WHOLE)
    assert_reads(about, np.minimum(values, 255).astype("u1"))


def test_virtual_frames_in_halves(tmp_path):
    values = sparse_images(np.random.default_rng(16), 3, "u1")
    halves = [(slice(None), slice(0, 256)), (slice(None), slice(256, 512))]
    layout = h5py.VirtualLayout(values.shape, "u1")
    for name, half in zip("ab", halves, strict=True):
        layout[half] = h5py.VirtualSource(f"{name}.h5", "d", (3, 256, FS))
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file.create_virtual_dataset(DATASET, layout)
    about = ModuleFile(str(tmp_path / "all.h5"), 3, DATASET)
    for name, half in zip("ab", halves, strict=True):
        assert_missing(about, 3, range(3), "it is not there")
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["d"] = values[half]
    assert_reads(about, values)


def test_virtual_frames_of_themselves(tmp_path):
    """HDF5 1.10 does not survive it."""
    values = np.zeros((3, SS, FS), "u1")
    about = joined(tmp_path, values, (slice(0, 3), "all.h5", slice(0, 3)))
    assert_missing(about, 3, range(3), "it is its own source")


def test_external_storage_that_is_too_short(tmp_path):
    values = sparse_images(np.random.default_rng(17), 4, "u1")
    outside = [(str(tmp_path / "a.raw"), 0, values.nbytes)]
    about = write_module(tmp_path / "a.h5", values, external=outside)
    os.truncate(tmp_path / "a.raw", 3 * PIXELS - 1)
    assert_missing(about, 4, {2, 3}, "external file with its bytes is missing or too short", values)
    (tmp_path / "a.raw").unlink()
    assert_missing(about, 4, range(4), "external file with its bytes is missing or too short")


@pytest.mark.parametrize("layout", INDIRECT.values(), ids=INDIRECT)
def test_chunks_never_written_where_hdf5_reads(tmp_path, layout):
    values = sparse_images(np.random.default_rng(18), 6, "u1")
    about = write_module(tmp_path / "a.h5", None, shape=values.shape, dtype="u1", **layout)
    with h5py.File(about.path, "r+") as file:
        file[DATASET][2:4] = values[2:4]
    assert_missing(about, 6, {0, 1, 4, 5}, "never written", values)


@pytest.mark.parametrize("name", ["Zstd", "LZ4", "Bitshuffle", "Blosc2"])
def test_filters_of_plugins(tmp_path, name):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    values = sparse_images(np.random.default_rng(19), 3, "u2")
    packed = dict(getattr(hdf5plugin, name)())
    about = write_module(tmp_path / "a.h5", values, chunks=ONE, **packed)
    assert_reads(about, values)
