"""Datasets of our own files that are read back: HDF5 neither makes up values nor takes memory."""

import h5py
import numpy as np
import pytest

from xfelmpi.core.errors import InputError
from xfelmpi.io.checked import checked_array, checked_text
from xfelmpi.io.input_file import finished_file

N = 1000


def never_written(file):
    file.create_dataset("values", (N,), "u4", chunks=(100,))


def half_written(file):
    never_written(file)
    file["values"][: N // 2] = 1


def contiguous_never_written(file):
    file.create_dataset("values", (N,), "u4")


def virtual(file):
    layout = h5py.VirtualLayout((N,), "u4")
    layout[:] = h5py.VirtualSource("gone.h5", "values", (N,))
    file.create_virtual_dataset("values", layout)


def external(file):
    file.create_dataset("values", (N,), "u4", external=[("gone.bin", 0, 4 * N)])


def asks_for_memory(file):
    file.create_dataset("values", (1 << 40,), "u4", chunks=(1 << 24,))


def compressed(file):
    """Of a length that nobody knows: a thousand times the bytes of the file."""
    file.create_dataset("values", data=np.zeros(1_000_000, "u4"), compression=1)


def large_chunk(file):
    file.create_dataset("values", (N,), "u4", chunks=(1 << 24,), maxshape=(None,), compression=1)
    file["values"][:] = 1


DAMAGED = (
    *(never_written, half_written, contiguous_never_written, virtual, external),
    *(asks_for_memory, compressed, large_chunk),
)


@pytest.mark.parametrize("damage", DAMAGED)
def test_values_that_are_not_in_the_file(tmp_path, damage):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        damage(file)
    missing = pytest.raises(InputError, match="values are not in the file")
    with missing, finished_file(path, "a file") as file:
        checked_array(file, "values", np.uint32, (None,))


def test_values_that_are_in_the_file(tmp_path):
    values = np.arange(6, dtype=np.uint32)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["plain"] = values
        file.create_dataset("packed", data=values.reshape(2, 3), compression=1)
        file.create_dataset("none", (0,), "u4", chunks=(10,), maxshape=(None,))
        file["scalar"] = np.uint32(3)
        file["text"] = "x"
    with finished_file(path, "a file") as file:
        assert checked_array(file, "plain", np.uint32, (None,)).tolist() == values.tolist()
        assert checked_array(file, "packed", np.uint32, (2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]
        assert checked_array(file, "none", np.uint32, (None,)).size == 0
        assert checked_array(file, "scalar", np.uint32, ()) == 3
        assert checked_text(file, "text") == "x"


def test_output_of_another_run(tmp_path):
    path = tmp_path / "r0050_events.h5"
    with h5py.File(path, "w") as file:
        file.attrs["run"] = 51
    with pytest.raises(InputError, match="is of run 51"), finished_file(path, "an events file"):
        pass
    path.rename(tmp_path / "r0051_events.h5")
    with finished_file(tmp_path / "r0051_events.h5", "an events file") as file:
        assert file.attrs["run"] == 51
