"""Beginnings of the next files, in memory before somebody reads them."""

import ctypes
import mmap
import os
import threading
from time import monotonic, sleep

import pytest
from launch import limit

from xfelmpi.io import read_ahead
from xfelmpi.io.read_ahead import with_read_ahead


def is_cached(path) -> bool:
    """Whether the first page of a file is in memory; asking does not bring it there."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as bytes_of_it:
        start = ctypes.addressof(ctypes.c_char.from_buffer(bytes_of_it))
        there = ctypes.create_string_buffer(len(bytes_of_it) // mmap.PAGESIZE)
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(start), len(bytes_of_it), there) == 0
    return bool(there[0][0] & 1)


def drop(path) -> None:
    """Have the system forget a file."""
    with open(path, "r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def readers() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t._target is read_ahead._read}


def assert_soon(condition) -> None:
    end = monotonic() + limit()
    while not condition():
        assert monotonic() < end
        sleep(0.01)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{n:02}.h5" for n in range(read_ahead._FILES + 6)]
    for path in paths:
        path.write_bytes(bytes(1 << 16))
    return paths


def test_next_files_are_in_memory(files):
    for path in files:
        drop(path)
    if any(map(is_cached, files)):
        pytest.skip("this file system is in memory")
    paths = with_read_ahead(files)
    assert next(paths) == files[0]
    ahead = files[1 : 1 + read_ahead._FILES]
    assert_soon(lambda: all(map(is_cached, ahead)))
    assert not any(map(is_cached, files[len(ahead) + 1 :]))
    assert [*paths] == files[1:]
    assert_soon(lambda: all(map(is_cached, files[1:])))


def test_whatever_cannot_be_read(tmp_path, files):
    """A pipe without a writer is not waited for."""
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "nowhere.h5").symlink_to(tmp_path / "none")
    odd = [tmp_path / name for name in ("pipe.h5", "folder.h5", "nowhere.h5", "none.h5")]
    paths = [files[0], *odd, files[1]]
    before = readers()
    assert [*with_read_ahead(paths)] == paths
    assert_soon(lambda: not readers() - before)


@pytest.mark.parametrize("number", [0, 1])
def test_few_files(files, number):
    assert [*with_read_ahead(files[:number])] == files[:number]
