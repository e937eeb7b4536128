"""Where bytes of a dataset lie: what HDF5 would make up is found before anything is read."""

import os

import h5py
import numpy as np
import pytest

from xfelmpi.core.errors import InputError
from xfelmpi.io.dataset_storage import (
    has_offsets,
    home_descriptor,
    is_plain,
    require_filters,
    require_readable,
    require_whole_readable,
    written_rows,
)
from xfelmpi.io.plain_values import plain_form, plain_values
from xfelmpi.io.virtual_sources import lacking, map_rows

VALUES = np.arange(60, dtype="u1").reshape(10, 6)


def test_the_descriptor_is_that_of_the_file_behind_a_link(tmp_path):
    with h5py.File(tmp_path / "there.h5", "w") as file:
        file["group/d"] = VALUES
    with h5py.File(tmp_path / "here.h5", "w") as file:
        file["own"] = VALUES
        file["link"] = h5py.ExternalLink("there.h5", "group/d")
        file["group"] = h5py.ExternalLink("there.h5", "group")
        file["soft"] = h5py.SoftLink("/group/d")
    with h5py.File(tmp_path / "here.h5") as file:
        for name, home in {
            "own": "here.h5",
            "link": "there.h5",
            "group/d": "there.h5",
            "soft": "there.h5",
        }.items():
            descriptor, data = home_descriptor(file[name]), file[name]
            assert os.fstat(descriptor).st_ino == (tmp_path / home).stat().st_ino
            found = os.pread(descriptor, VALUES.nbytes, data.id.get_offset())
            assert found == VALUES.tobytes()


def _integer(base, precision=None, offset=0, order=None):
    kind = base.copy()
    if order is not None:
        kind.set_order(order)
    if precision is not None:
        kind.set_precision(precision)
    kind.set_offset(offset)
    return kind


def _odd_float():
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(31, 22, 9, 0, 22)
    return kind


def _biased_float():
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_ebias(126)
    return kind


ODD_TYPES = {
    "12 bits": lambda: _integer(h5py.h5t.STD_U16LE, 12),
    "12 bits from bit 4 on": lambda: _integer(h5py.h5t.STD_U16LE, 12, 4),
    "6 bits": lambda: _integer(h5py.h5t.STD_U8LE, 6),
    "big-endian": lambda: h5py.h5t.STD_U16BE,
    "signed": lambda: h5py.h5t.STD_I16LE,
    "other float": _odd_float,
    "other bias": _biased_float,
}


@pytest.mark.parametrize("make", ODD_TYPES.values(), ids=ODD_TYPES)
def test_types_whose_bytes_are_not_the_numbers(tmp_path, make):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5py.h5d.create(file.id, b"d", make(), h5py.h5s.create_simple((3, 4)))
        assert not is_plain(file["d"])


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", "<f4"])
def test_plain_types(tmp_path, dtype):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["d"] = np.zeros((2, 3), dtype)
        assert is_plain(file["d"])
        assert has_offsets(file["d"])


def test_no_offsets_where_there_is_a_user_block(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=1024) as file:
        file["d"] = VALUES
        assert not has_offsets(file["d"])


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("chunks", [(2, 6), (2, 3), (3, 4)])
def test_rows_of_which_a_chunk_was_never_written(tmp_path, libver, chunks):
    with h5py.File(tmp_path / "a.h5", "w", libver=libver) as file:
        data = file.create_dataset("d", (10, 6), "u1", chunks=chunks)
        assert written_rows(data).tolist() == [False] * 10
        data[4:6] = 1
        data[0, 0] = 1
        # the first chunk is whole only if chunks hold whole rows
        first = list(range(chunks[0])) if chunks[1] == 6 else []
    # an index that the library has not written yet is not in the file
    with h5py.File(tmp_path / "a.h5") as file:
        touched = {4, 5} if chunks[0] == 2 else {3, 4, 5}
        assert np.flatnonzero(written_rows(file["d"])).tolist() == sorted({*first, *touched})
        assert lacking(file["d"], np.array([4, 5])) == ""
        assert "rows were never written" in lacking(file["d"])


def test_external_storage_that_is_missing_or_short(tmp_path):
    parts = [(str(tmp_path / "a"), 3, 30), (str(tmp_path / "b"), 0, 30)]
    with h5py.File(tmp_path / "f.h5", "w") as file:
        data = file.create_dataset("d", (10, 6), "u1", external=parts)
        data[:] = VALUES
        assert written_rows(data) is None
        os.truncate(tmp_path / "b", 20)
        assert np.flatnonzero(~written_rows(data)).tolist() == [8, 9]
        os.truncate(tmp_path / "a", 3)
        assert np.flatnonzero(written_rows(data)).tolist() == [5, 6, 7]
        (tmp_path / "b").unlink()
        os.mkfifo(tmp_path / "b")
        assert not written_rows(data).any()


def virtual(tmp_path, *mappings, shape=(10, 6)):
    """Write a virtual dataset of (rows here, file, rows there), and open it."""
    layout = h5py.VirtualLayout(shape, "u1")
    for here, name, there in mappings:
        layout[here] = h5py.VirtualSource(name, "d", (10, 6))[there]
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("d", layout)
    return h5py.File(tmp_path / "v.h5")


def test_sources_by_rows(tmp_path):
    some = (slice(0, 4), "a.h5", slice(0, 4)), (slice(5, 10), "b.h5", slice(0, 10, 2))
    with virtual(tmp_path, *some) as file:
        found = map_rows(file["d"])
        assert [(s.file, s.rows.tolist(), s.source_rows.tolist()) for s in found] == [
            ("a.h5", [0, 1, 2, 3], [0, 1, 2, 3]),
            ("b.h5", [5, 6, 7, 8, 9], [0, 2, 4, 6, 8]),
        ]
        assert lacking(file["d"]) == "1 of its 10 rows are mapped to nothing"
        assert lacking(file["d"], np.array([1])) == "source a.h5: it is not there"
        with h5py.File(tmp_path / "a.h5", "w") as source:
            source["d"] = VALUES[:3]
        assert lacking(file["d"], np.array([1])) == ""
        assert lacking(file["d"], np.array([3])) == "source a.h5: it has only 3 rows"


def test_sources_of_sources(tmp_path):
    whole = slice(0, 10), "v2.h5", slice(0, 10)
    with virtual(tmp_path, whole) as file:
        file.close()
        (tmp_path / "v.h5").rename(tmp_path / "v1.h5")
    with virtual(tmp_path, (slice(0, 10), "a.h5", slice(0, 10))) as file:
        file.close()
        (tmp_path / "v.h5").rename(tmp_path / "v2.h5")
    with h5py.File(tmp_path / "v1.h5") as file:
        assert lacking(file["d"]) == "source v2.h5: source a.h5: it is not there"
        with h5py.File(tmp_path / "a.h5", "w") as source:
            source["d"] = VALUES
        assert lacking(file["d"]) == ""


def test_a_dataset_that_is_its_own_source(tmp_path):
    with virtual(tmp_path, (slice(0, 10), "v.h5", slice(0, 10))) as file:
        assert lacking(file["d"]) == "source v.h5: it is its own source"


def test_sources_found_by_the_prefix(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    with h5py.File(tmp_path / "elsewhere/a.h5", "w") as source:
        source["d"] = VALUES
    with virtual(tmp_path, (slice(0, 10), "a.h5", slice(0, 10))) as file:
        assert lacking(file["d"]) == "source a.h5: it is not there"
        monkeypatch.setenv("HDF5_VDS_PREFIX", "${ORIGIN}/elsewhere")
        assert lacking(file["d"]) == ""


def test_pieces_of_rows(tmp_path):
    halves = ((slice(None), slice(0, 3)), "a.h5"), ((slice(None), slice(3, 6)), "b.h5")
    with virtual(tmp_path, *((here, name, here) for here, name in halves)) as file:
        assert map_rows(file["d"]) is None
        assert lacking(file["d"]) == "source a.h5: it is not there"
        for name in ("a.h5", "b.h5"):
            with h5py.File(tmp_path / name, "w") as source:
                source["d"] = VALUES
        assert lacking(file["d"]) == ""
    with virtual(tmp_path, (halves[0][0], "a.h5", halves[0][0])) as file:
        assert lacking(file["d"]) == "its pieces leave gaps or overlap"


def test_sources_with_numbers(tmp_path):
    """As printf would name them."""
    with h5py.File(tmp_path / "v.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        space = h5py.h5s.create_simple((6, 6), (h5py.h5s.UNLIMITED, 6))
        space.select_hyperslab((0, 0), (h5py.h5s.UNLIMITED, 1), (2, 1), (2, 6))
        source = h5py.h5s.create_simple((2, 6))
        plist.set_virtual(space, b"part%b.h5", b"d", source)
        h5py.h5d.create(file.id, b"d", h5py.h5t.STD_U8LE, space, plist)
    for number in range(3):
        with h5py.File(tmp_path / f"part{number}.h5", "w") as file:
            file["d"] = VALUES[2 * number : 2 * number + 2]
    with h5py.File(tmp_path / "v.h5") as file:
        assert [s.file for s in map_rows(file["d"])] == ["part0.h5", "part1.h5", "part2.h5"]
        assert lacking(file["d"]) == ""
        assert np.array_equal(file["d"][:], VALUES[:6])


def test_a_filter_of_a_plugin_and_one_that_nobody_has(tmp_path):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("d", data=VALUES, chunks=(1, 6), **hdf5plugin.Zstd())
        require_filters(data)
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((1, 6))
        plist.set_filter(40000, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((10, 6))
        h5py.h5d.create(file.id, b"odd", h5py.h5t.STD_U8LE, space, plist)
        with pytest.raises(InputError, match="filter 40000"):
            require_filters(file["odd"])


def test_chunk_that_asks_for_memory(tmp_path):
    """HDF5 takes memory for a whole chunk, of which a small file may have next to nothing."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        shape, chunks = (3, 512, 128), (20_000, 512, 128)
        data = file.create_dataset(
            "data", shape, "u1", chunks=chunks, maxshape=(None, 512, 128), compression=1
        )
        column = file.create_dataset("ids", (3,), "u8", chunks=(1 << 26,), maxshape=(None,))
        for dataset in (data, column):
            with pytest.raises(ValueError, match="is in chunks of"):
                require_readable(dataset)
            with pytest.raises(InputError, match="is in chunks of"):
                require_whole_readable(dataset)
        assert plain_form(file, "data") is None
        assert plain_values(file, "ids", "u", 1000) is None


def test_constants_in_one_chunk_are_read(tmp_path):
    """What is needed as a whole may be in one chunk, however large."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        shape = (3, 352, 512, 128)
        data = file.create_dataset("AnalogOffset", shape, "f8", chunks=shape, compression=1)
        require_whole_readable(data)
        with pytest.raises(ValueError, match="is in chunks of"):
            require_readable(data)
