"""What the tests compare files and arrays with: it finds one value that differs, and only that."""

import h5py
import numpy as np
import pytest
from checks import close, equal
from compare import assert_same_hdf5

VALUES = np.arange(4 * 6 * 5, dtype=np.uint16).reshape(4, 6, 5)


def written(path, values=VALUES, level=4, **how):
    """Return a file with a dataset in chunks."""
    with h5py.File(path, "w") as file:
        how = {"chunks": (1, 6, 5), "compression": "gzip", "compression_opts": level, **how}
        file.create_dataset("data", data=values, **how)
    return path


def with_value(values, where, value):
    values = values.copy()
    values[where] = value
    return values


@pytest.mark.parametrize("where", [(0, 0, 0), (3, 5, 4)])
def test_one_value_in_a_chunk(tmp_path, where):
    one = written(tmp_path / "a.h5")
    assert_same_hdf5(one, written(tmp_path / "b.h5"))
    other = written(tmp_path / "c.h5", with_value(VALUES, where, 7777))
    with pytest.raises(AssertionError, match=f"values differ in {where[0]}"):
        assert_same_hdf5(one, other)


def test_same_values_stored_in_other_bytes(tmp_path):
    one = written(tmp_path / "a.h5")
    assert_same_hdf5(one, written(tmp_path / "b.h5", level=9))
    assert_same_hdf5(one, written(tmp_path / "c.h5", shuffle=True))


def test_chunk_that_was_never_written(tmp_path):
    """It has the fill value, as one that was written may have."""
    values = with_value(VALUES, 2, 0)
    one, other = written(tmp_path / "a.h5", values), tmp_path / "b.h5"
    with h5py.File(other, "w") as file:
        data = file.create_dataset(
            "data", VALUES.shape, VALUES.dtype, chunks=(1, 6, 5), compression=4
        )
        for row in (0, 1, 3):
            data[row] = values[row]
    assert_same_hdf5(one, other)
    with pytest.raises(AssertionError, match="values differ in 2"):
        assert_same_hdf5(written(tmp_path / "c.h5"), other)


def test_same_texts_elsewhere_in_the_file(tmp_path):
    """A chunk of texts only says where they are."""
    kind = h5py.string_dtype()
    for name, texts in (("a", ["one", "two"]), ("b", ["one", "six"])):
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("texts", data=texts, dtype=kind, chunks=(2,))
    assert_same_hdf5(tmp_path / "a", tmp_path / "a")
    with pytest.raises(AssertionError, match="values differ"):
        assert_same_hdf5(tmp_path / "a", tmp_path / "b")


def test_arrays():
    values = np.array([1.0, np.nan, 3.0])
    equal(values, values.copy())
    close(values, values + 1e-9, atol=1e-8)
    for check in (equal, close):
        for other in (values[::-1].copy(), with_value(values, 1, 2.0), np.ones(4)):
            with pytest.raises(AssertionError):
                check(values, other)
    with pytest.raises(AssertionError):
        close(values[[0, 2]], np.array([1.0, 3.1]), atol=0.05)
