"""Files kept for the next job: what is loaded is what was saved, or nothing."""

import os

import numpy as np
import pytest

from xfelmpi.io import cache_file

ARRAYS = {"a": np.arange(40, dtype=np.uint32), "b": np.zeros((0, 3)), "c": np.eye(3)}
ABOUT = {"sample": "lysozyme", "modules": 65535, "notes": []}


def load(path, key="key", build=lambda arrays, about: (arrays, about)):
    return cache_file.load(path, key, ARRAYS, build)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "index" / "a.h5"
    cache_file.save(path, "key", ARRAYS, ABOUT)
    return path


def test_comes_back(path):
    arrays, about = load(path)
    assert about == ABOUT
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype
    assert [p.name for p in path.parent.iterdir()] == ["a.h5"]


def test_another_key(path):
    assert load(path, "other") is None


def test_any_wrong_bit_is_noticed(path):
    """Before HDF5 sees the file, which does not survive all of them."""
    good = path.read_bytes()
    for at in range(0, len(good), 3):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        path.write_bytes(bad)
        assert load(path) is None, at
    for length in (0, 1, 32, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:length])
        assert load(path) is None, length
    path.write_bytes(good)
    assert load(path) is not None


def test_pipe_in_its_place(path):
    path.unlink()
    os.mkfifo(path)
    assert load(path) is None


def test_what_cannot_be_built_is_not_used(path):
    def build(_arrays, about):
        return about["what an older version kept"]

    assert load(path, build=build) is None


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path):
    (tmp_path / "index").write_text("")
    cache_file.save(tmp_path / "index" / "a.h5", "key", ARRAYS, ABOUT)
    assert (tmp_path / "index").read_text() == ""
