"""The chunk index read from the file's own B-tree, against what HDF5 says."""

import os

import h5py
import numpy as np
import pytest

from xfelmpi.io.chunk_index import ChunkIndex, UnknownLayoutError

N_CHUNKS = 5000  # a tree of three levels


def write(path, *, rows=N_CHUNKS, per_chunk=1, order=None, libver="earliest", **layout):
    """Write a dataset of small chunks, each with its own size and place in the file."""
    layout = layout or {"compression": "gzip", "shuffle": True}
    rng = np.random.default_rng(3)
    with h5py.File(path, "w", libver=libver) as file:
        data = file.create_dataset(
            "a/data", (rows, 3, 5), "u2", chunks=(per_chunk, 3, 5), maxshape=(None, 3, 5), **layout
        )
        # attributes push messages into continuation blocks of the object header
        for i in range(20):
            data.attrs[f"note {i}"] = "x" * i
        for row in range(0, rows, per_chunk) if order is None else order:
            data[row : row + per_chunk] = rng.integers(0, 1 + row % 7, (1, 3, 5))
    return path


def located(path, numbers):
    fd = os.open(path, os.O_RDONLY)
    try:
        with h5py.File(path) as file:
            return ChunkIndex(fd, file["a/data"]).find(np.asarray(numbers))
    finally:
        os.close(fd)


def assert_as_hdf5_says(path, per_chunk=1):
    with h5py.File(path) as file:
        data = file["a/data"]
        infos = [data.id.get_chunk_info(i) for i in range(0, data.id.get_num_chunks(), 37)]
    numbers = np.array([info.chunk_offset[0] // per_chunk for info in infos])
    offset, size, skipped = located(path, numbers)
    assert len(numbers)
    assert offset.tolist() == [info.byte_offset for info in infos]
    assert size.tolist() == [info.size for info in infos]
    assert skipped.tolist() == [info.filter_mask for info in infos]


@pytest.mark.parametrize("libver", ["earliest", ("earliest", "v110"), ("v108", "v108")])
@pytest.mark.slow
def test_many_chunks(tmp_path, libver):
    assert_as_hdf5_says(write(tmp_path / "f.h5", libver=libver))


@pytest.mark.slow
def test_written_in_any_order(tmp_path):
    order = np.random.default_rng(1).permutation(N_CHUNKS)
    assert_as_hdf5_says(write(tmp_path / "f.h5", order=order))


@pytest.mark.parametrize("rows", [1, 2, 63, 64, 65, 130])
def test_few_chunks(tmp_path, rows):
    path = write(tmp_path / "f.h5", rows=rows)
    offset, size, _ = located(path, np.arange(rows))
    with h5py.File(path) as file:
        infos = [file["a/data"].id.get_chunk_info(i) for i in range(rows)]
    assert offset.tolist() == [i.byte_offset for i in infos]
    assert size.tolist() == [i.size for i in infos]


@pytest.mark.slow
def test_a_search_reads_only_the_way_to_its_chunks(tmp_path):
    """Hits are few and far apart: a search must not read the leaves between them."""
    path = write(tmp_path / "f.h5")
    fd = os.open(path, os.O_RDONLY)
    with h5py.File(path) as file:
        index = ChunkIndex(fd, file["a/data"])
        infos = [file["a/data"].id.get_chunk_info(i) for i in (4999, 17, 2500, 17)]
        offset, _, _ = index.find(np.array([4999, 17, 2500, 17]))
        assert offset.tolist() == [info.byte_offset for info in infos]
        assert 3 <= index.nodes_read <= 1 + 2 * 3
    os.close(fd)


def test_chunks_of_several_rows(tmp_path):
    assert_as_hdf5_says(write(tmp_path / "f.h5", per_chunk=7, rows=700), per_chunk=7)


@pytest.mark.slow
def test_plain_chunks(tmp_path):
    assert_as_hdf5_says(write(tmp_path / "f.h5", track_times=False))


@pytest.mark.slow
def test_any_selection_and_order(tmp_path):
    path = write(tmp_path / "f.h5")
    everything = located(path, np.arange(N_CHUNKS))
    rng = np.random.default_rng(5)
    for numbers in (rng.permutation(N_CHUNKS)[:900], [7], [4999, 0], [3, 3, 2500], []):
        some = located(path, numbers)
        for a, b in zip(some, everything, strict=True):
            assert a.tolist() == b[np.asarray(numbers, int)].tolist()


def test_chunks_never_written(tmp_path):
    path = write(tmp_path / "f.h5", rows=300, order=[5, 200])
    offset, size, _ = located(path, np.arange(300))
    assert np.flatnonzero(offset >= 0).tolist() == [5, 200]
    assert (size[[5, 200]] > 0).all()
    path = write(tmp_path / "g.h5", rows=300, order=[])
    assert (located(path, np.arange(300))[0] == -1).all()


def test_beyond_the_end(tmp_path):
    assert located(write(tmp_path / "f.h5", rows=10), [9, 10, 10**9])[0][1:].tolist() == [-1, -1]


def test_other_indices_are_left_to_hdf5(tmp_path):
    path = write(tmp_path / "f.h5", rows=10, libver="latest")
    with pytest.raises(UnknownLayoutError):
        located(path, [0])


def test_chunks_of_parts_of_frames_are_left_to_hdf5(tmp_path):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a/data", data=np.ones((20, 3, 5)), chunks=(1, 3, 2))
    with pytest.raises(UnknownLayoutError, match="whole frames"):
        located(path, [0, 19])


def test_damaged_index_never_hangs_or_crashes(tmp_path):
    """Bytes of the metadata changed at random: another answer or an error, nothing else."""
    path = write(tmp_path / "f.h5", rows=400, order=range(0, 400, 3))
    good = path.read_bytes()
    fd = os.open(path, os.O_RDWR)
    rng = np.random.default_rng(11)
    nodes = [i for i in range(len(good) - 4) if good[i : i + 4] == b"TREE"]
    refused = 0
    with h5py.File(path) as file:
        data = file["a/data"]
        index = ChunkIndex(fd, data)
        for _ in range(2000):
            at = int(rng.choice(nodes)) + int(rng.integers(0, 200))
            os.pwrite(fd, rng.integers(0, 256, 4, np.uint8).tobytes(), at)
            try:
                offset, size, _ = index.find(np.arange(400))
                assert offset.shape == size.shape == (400,)
            except UnknownLayoutError:
                refused += 1
            os.pwrite(fd, good[at : at + 4], at)
        assert index.find(np.arange(400))[0].max() > 0
    os.close(fd)
    assert refused > 50


def redirect(path, sources):
    """Have every chunk read from the place of another one."""
    fd = os.open(path, os.O_RDWR)
    try:
        with h5py.File(path) as file:
            index = ChunkIndex(fd, file["a/data"])
        places = index.find(np.arange(len(sources)))
        index.redirect(*(values[sources] for values in places))
    finally:
        os.close(fd)


@pytest.mark.parametrize("rows", [0, 1, 64, 65, N_CHUNKS])
@pytest.mark.parametrize("per_chunk", [1, 3])
@pytest.mark.slow
def test_chunks_that_share_a_place(tmp_path, rows, per_chunk):
    path = write(tmp_path / "f.h5", rows=rows * per_chunk, per_chunk=per_chunk)
    with h5py.File(path) as file:
        before = file["a/data"][:].reshape(rows, per_chunk * 15)
    sources = np.random.default_rng(5).integers(0, max(1, rows // 9), rows)
    redirect(path, sources)
    with h5py.File(path) as file:
        data = file["a/data"]
        np.testing.assert_array_equal(data[:].reshape(before.shape), before[sources])
        for chunk in np.random.default_rng(6).integers(0, max(rows, 1), min(rows, 50)):
            found = data[chunk * per_chunk : (chunk + 1) * per_chunk]
            np.testing.assert_array_equal(found.reshape(-1), before[sources[chunk]])
    if rows:
        assert_as_hdf5_says(path, per_chunk)


def test_chunks_that_are_not_there_cannot_share(tmp_path):
    path = write(tmp_path / "f.h5", rows=100, order=range(0, 100, 2))
    with pytest.raises(UnknownLayoutError, match="50 of 100 chunks"):
        redirect(path, np.zeros(100, int))
    with pytest.raises(UnknownLayoutError):
        redirect(write(tmp_path / "g.h5", rows=4), np.arange(5))


@pytest.mark.parametrize("chunks", [(1, 3, 5), (1, 3, 2), (7, 2, 1)])
def test_chunks_that_were_written_are_counted(tmp_path, chunks):
    path, written = tmp_path / "f.h5", [0, 1, 7, 399, 250]
    with h5py.File(path, "w") as file:
        data = file.create_dataset("a/data", (400, 3, 5), "u2", chunks=chunks)
        for row in written:
            data[row] = 1
    per_row = -(-3 // chunks[1]) * -(-5 // chunks[2])
    right = np.zeros(-(-400 // chunks[0]), int)
    right[np.array(written) // chunks[0]] = per_row
    fd = os.open(path, os.O_RDONLY)
    with h5py.File(path) as file:
        assert ChunkIndex(fd, file["a/data"]).count_chunks(len(right)).tolist() == right.tolist()
    os.close(fd)
