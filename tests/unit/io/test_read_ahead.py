"""What is read soon is in memory before somebody asks for it."""

import ctypes
import mmap
import os
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import numpy as np
import pytest
from launch import limit

from xfelmpi.io import read_ahead
from xfelmpi.io.read_ahead import read_soon, with_read_ahead


def is_cached(path) -> bool:
    """Whether the first page of a file is in memory."""
    return 0 in pages_in_memory(path)


def pages_in_memory(path) -> set[int]:
    """Return the pages of a file that are in memory; asking does not bring them there."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as bytes_of_it:
        start = ctypes.addressof(ctypes.c_char.from_buffer(bytes_of_it))
        there = (ctypes.c_uint8 * (len(bytes_of_it) // mmap.PAGESIZE))()
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(start), len(bytes_of_it), there) == 0
    return {number for number, page in enumerate(there) if page & 1}


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
def on_disk():
    """A folder on a disk: other files of the tests may be in memory."""
    with TemporaryDirectory(dir="/var/tmp") as name:
        yield Path(name)


@pytest.fixture
def files(on_disk):
    paths = [on_disk / f"{n:02}.h5" for n in range(read_ahead._FILES + 6)]
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
    for number in range(1, len(files)):
        assert next(paths) == files[number]
        ahead = files[1 : number + read_ahead._FILES]
        assert_soon(lambda ahead=ahead: all(map(is_cached, ahead)))


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


def test_files_in_memory_need_no_thread(files):
    if not all(map(is_cached, files)):
        pytest.skip("this file system does not keep what was written")
    before = readers()
    for path in with_read_ahead(files):
        assert path.exists()
        assert not readers() - before


def test_nobody_wants_the_rest(files):
    for path in files:
        drop(path)
    if any(map(is_cached, files)):
        pytest.skip("this file system is in memory")
    before = readers()
    paths = with_read_ahead(files)
    next(paths)
    assert readers() - before
    paths.close()
    assert_soon(lambda: not readers() - before)


@pytest.mark.parametrize("number", [0, 1])
def test_few_files(files, number):
    assert [*with_read_ahead(files[:number])] == files[:number]


@pytest.mark.parametrize("scattered", [True, False])
def test_parts_of_a_file(on_disk, scattered):
    """Those that lie together are left to the system, which reads ahead by itself."""
    path = on_disk / "file"
    path.write_bytes(bytes(1 << 20))
    drop(path)
    if pages_in_memory(path):
        pytest.skip("this file system is in memory")
    pages = np.array([100, 7, 200] if scattered else [7, 8, 9])
    offset, size = pages * mmap.PAGESIZE, np.full(3, mmap.PAGESIZE)
    with path.open("rb") as file:
        read_soon(file.fileno(), np.append(offset, -1), np.append(size, 0))
    if scattered:
        assert_soon(lambda: pages_in_memory(path) == set(pages.tolist()))
    else:
        assert not pages_in_memory(path)


@pytest.mark.parametrize("offsets", [[], [-1], [-1, -2], [0], [0, 0]])
def test_parts_that_need_no_hint(on_disk, offsets):
    path = on_disk / "file"
    path.write_bytes(bytes(1 << 13))
    drop(path)
    if pages_in_memory(path):
        pytest.skip("this file system is in memory")
    with path.open("rb") as file:
        read_soon(file.fileno(), np.array(offsets, np.int64), np.full(len(offsets), 4096))
    assert not pages_in_memory(path)
