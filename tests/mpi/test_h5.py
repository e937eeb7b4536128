"""The parallel HDF5 file: written by all ranks, read back with h5py alone."""

import os
import stat
from datetime import datetime

import h5py
import numpy as np
import pytest

from xfelmpi.core.event_table import EventColumns
from xfelmpi.core.job import agree_on_process_id
from xfelmpi.core.problems import Problem
from xfelmpi.core.shutdown import stop_plan
from xfelmpi.core.sparse_frames import FrameSums
from xfelmpi.io import parallel_hdf5
from xfelmpi.io.parallel_hdf5 import ParallelFile
from xfelmpi.io.partial_file import begin_partial, end_partial, part_name
from xfelmpi.io.publish import publish
from xfelmpi.output.events import write_events
from xfelmpi.output.powder import write_powder

pytestmark = pytest.mark.mpi

EVENT_TYPES = ("u8", "u8", "u2", "u4", "u8", "f4", "?", "?", *["f4"] * 4, "f8", "f8", "u2", "u1")


def write(comm, path, work, attributes=None):
    """Have all ranks write a file and return its final path."""
    file = ParallelFile(comm, path, attributes or {})
    work(file)
    file.close()
    comm.Barrier()
    if comm.rank == 0:
        publish(path)
    comm.Barrier()
    return path


def share(comm, counts):
    """Return (first row, number of rows) of this rank; ranks beyond the list have none."""
    counts = [*counts, *[0] * comm.size][: comm.size]
    return sum(counts[: comm.rank]), counts[comm.rank], sum(counts)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "f4", "f8", "?", "S20"])
@pytest.mark.parametrize("counts", [(3, 0, 5, 1, 2), (0, 7), (0, 0, 0, 0, 4), (6,)])
def test_columns(comm, shared_path, dtype, counts):
    start, n, total = share(comm, counts)
    values = (np.arange(total) % 2 if dtype == "?" else np.arange(total) * 3).astype(dtype)

    def work(file):
        dataset = file.create("entry/x", (total,), dtype, units="m")
        file.write(dataset, start, values[start : start + n])

    with h5py.File(write(comm, shared_path / "a.h5", work)) as file:
        assert file["entry/x"].dtype == np.dtype(dtype)
        assert file["entry/x"].attrs["units"] == "m"
        np.testing.assert_array_equal(file["entry/x"][:], values)


@pytest.mark.parametrize("round_bytes", [1, 3 * 24, 1 << 20])
def test_images_in_several_rounds(comm, shared_path, monkeypatch, round_bytes):
    """Ranks with more rounds than others."""
    monkeypatch.setattr(parallel_hdf5, "ROUND_BYTES", round_bytes)
    start, n, total = share(comm, (2, 9, 0, 5, 1))
    values = np.random.default_rng(1).integers(0, 2**16, (total, 3, 4), np.uint16)

    def work(file):
        dataset = file.create("data", values.shape, "u2")
        file.write(dataset, start, values[start : start + n])

    with h5py.File(write(comm, shared_path / "a.h5", work)) as file:
        np.testing.assert_array_equal(file["data"][:], values)


@pytest.mark.parametrize("round_bytes", [1, 24, 1 << 20])
def test_columns_together(comm, shared_path, monkeypatch, round_bytes):
    """Columns whose rows differ in size, so that some take more rounds than others."""
    monkeypatch.setattr(parallel_hdf5, "ROUND_BYTES", round_bytes)
    start, n, total = share(comm, (2, 9, 0, 5, 1))
    values = np.random.default_rng(1).integers(0, 2**16, (total, 3), np.uint16)
    mine = slice(start, start + n)

    def work(file):
        columns = [("a/wide", values[mine], {"units": "m"}), ("b", values[mine, 1], {})]
        file.columns(start, total, columns)
        file.columns(start, total, [])

    with h5py.File(write(comm, shared_path / "a.h5", work)) as file:
        np.testing.assert_array_equal(file["a/wide"][:], values)
        assert file["a/wide"].attrs["units"] == "m"
        np.testing.assert_array_equal(file["b"][:], values[:, 1])
        assert not file["b"].attrs


def test_no_rows_at_all(comm, shared_path):
    def work(file):
        dataset = file.create("data", (0, 3, 4), "u1")
        file.write(dataset, 0, np.empty((0, 3, 4), "u1"))
        file.write(dataset, 0, None)

    with h5py.File(write(comm, shared_path / "a.h5", work)) as file:
        assert file["data"].shape == (0, 3, 4)
        assert file["data"][:].size == 0


def test_only_one_rank_has_rows(comm, shared_path):
    last = comm.size - 1
    values = np.arange(12, dtype="f4").reshape(2, 6)

    def work(file):
        dataset = file.create("data", (2, 6), "f4")
        file.write(dataset, 0, values if comm.rank == last else None)

    with h5py.File(write(comm, shared_path / "a.h5", work)) as file:
        np.testing.assert_array_equal(file["data"][:], values)


def test_rows_that_are_not_contiguous(comm, shared_path):
    values = np.arange(24, dtype="u4").reshape(4, 6)

    def work(file):
        dataset = file.create("data", (6, 4), "u4")
        file.write(dataset, 0, values.T if comm.rank == 0 else None)

    with h5py.File(write(comm, shared_path / "a.h5", work)) as file:
        np.testing.assert_array_equal(file["data"][:], values.T)


def test_another_dtype_is_refused(comm, shared_path):
    file = ParallelFile(comm, shared_path / "a.h5", {})
    dataset = file.create("data", (comm.size,), "f4")
    try:
        file.write(dataset, comm.rank, np.zeros(1, "f8"))
    except TypeError as error:
        message = str(error)
    else:
        message = "nothing"
    file.write(dataset, comm.rank, np.zeros(1, "f4"))
    file.close()
    assert "float64 rows for a float32 dataset" in message


SINGLE = {
    "number": 160,
    "float": 0.7,
    "bool": True,
    "text": "SPB",
    "no text": "",
    "long text": "ä sample of 40 µm " * 30,
    "texts": ["AGIPD00", "AGIPD15", ""],
    "array": np.arange(24, dtype="u2").reshape(2, 3, 4),
    "flags": np.array([[True, False]]),
    "nothing": np.zeros((0, 3)),
    "in another order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "table": np.array([(b"a", 3)], [("what", "S4"), ("n", "i2")]),
    "no table": np.zeros(0, [("what", "S4"), ("n", "i2")]),
}


def test_what_only_rank_0_has(comm, shared_path):
    def work(file):
        for name, value in SINGLE.items():
            file.store(name, value if comm.rank == 0 else None, note=name)

    with h5py.File(write(comm, shared_path / "a.h5", work)) as file:
        for name, value in SINGLE.items():
            found = file[name][()]
            right = np.asarray(value)
            assert file[name].shape == right.shape, name
            assert file[name].attrs["note"] == name
            if right.dtype.kind == "U":
                found = np.char.decode(found, "utf-8")
            np.testing.assert_array_equal(found, right, name)


def test_attributes_groups_and_links(comm, shared_path):
    attributes = {"run": 50, "configuration": "{}", "input_files": "x" * 200_000, "empty": ""}

    def work(file):
        file.group("entry/data", NX_class="NXdata", axes=[".", "."])
        file.group("entry", NX_class="NXentry")
        file.store("entry/x", 5)
        file.link("entry/data/x", "/entry/x")

    with h5py.File(write(comm, shared_path / "a.h5", work, attributes)) as file:
        found = dict(file.attrs)
        assert datetime.fromisoformat(found.pop("end_time")).tzinfo is not None
        assert found == attributes
        assert file["entry"].attrs["NX_class"] == "NXentry"
        assert file["entry/data"].attrs["axes"].tolist() == [".", "."]
        assert file["entry/data/x"][()] == 5
        assert isinstance(file.get("entry/data/x", getlink=True), h5py.SoftLink)


def test_name_only_when_complete(comm, shared_path):
    path = shared_path / "a.h5"
    if comm.rank == 0:
        path.write_text("old")
        begin_partial(path).write_bytes(b"left over" * 10000)
    comm.Barrier()
    file = ParallelFile(comm, path, {})
    file.store("x", 1)
    file.close()
    comm.Barrier()
    before = path.read_text()
    comm.Barrier()
    if comm.rank == 0:
        old = os.umask(0o077)
        publish(path)
        os.umask(old)
    comm.Barrier()
    assert before == "old"
    assert not begin_partial(path).exists()
    assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444
    with h5py.File(path) as file:
        assert list(file) == ["x"]


def test_problems_are_cut_between_characters(comm, shared_path):
    path = shared_path / "events.h5"
    columns = [np.zeros(0, dtype) for dtype in EVENT_TYPES]
    problems = [Problem("a" * 199 + "µ", "f" * 79 + "µ", 3, 2**64 - 1, "…" * 40)]
    write_events(
        comm, path, {}, EventColumns(*columns), FrameSums.zeros(0), 0, 0, problems=problems
    )
    comm.Barrier()
    with h5py.File(begin_partial(path)) as file:
        (row,) = file["problems"][:]
    assert row["what"].decode() == "a" * 199
    assert row["file"].decode() == "f" * 79
    assert row["action"].decode() == "…" * 26
    assert (row["module"], row["train"]) == (3, 2**64 - 1)


def test_first_rank_knows_of_the_powder_file(comm, shared_path):
    """The last one writes it; the first removes what is unfinished if the job is stopped."""
    agree_on_process_id(comm)
    zeros = np.zeros((1, 64), np.uint64)
    part = part_name(shared_path / "powder.h5")
    write_powder(comm, shared_path / "powder.h5", {}, {"": (zeros, zeros)}, (1, 8, 8))
    known, written = part in stop_plan.unfinished, part.exists()
    end_partial(part)
    comm.Barrier()
    assert written
    assert known == (comm.rank in (0, comm.size - 1))
