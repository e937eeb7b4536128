"""Files that cannot be read, or that HDF5 does not survive: named; no job hangs or dies mute."""

import errno
import fcntl
import os
import shutil
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
from changes import overwrite
from launch import run_python
from mockrun import tiny_run

from xfelmpi.core import hdf5_locks
from xfelmpi.core.errors import InputError
from xfelmpi.io.facility_file import _check_strings, open_access
from xfelmpi.io.input_file import (
    check_input,
    finished_file,
    guarded_call,
    input_file,
    open_hdf5,
)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files") / "p007927"
    mock = tiny_run(folder, trains=1, cells=(0,), absent_modules=tuple(range(1, 16)))
    return next(mock.paths.proc.glob("*AGIPD00*"))


@pytest.fixture
def path(good, tmp_path):
    return shutil.copy(good, tmp_path / good.name)


def number(value: int) -> bytes:
    """Return a number as HDF5 stores it."""
    return value.to_bytes(8, "little")


def heap_address(path) -> int:
    raw = path.read_bytes()
    assert raw.count(b"GCOL") == 1
    return raw.index(b"GCOL")


@pytest.mark.parametrize("opened", [input_file, finished_file])
def test_file_that_is_no_hdf5(opened, path):
    path.write_bytes(b"a mask")
    message = rf"^{path}: .*; expected a mask file"
    with pytest.raises(InputError, match=message), opened(path, "a mask file"):
        raise AssertionError("it was opened")


@pytest.mark.parametrize("opened", [input_file, finished_file])
def test_chunk_that_does_not_inflate(opened, tmp_path):
    path = tmp_path / "mask.h5"
    with h5py.File(path, "w") as file:
        good = file.create_dataset("good", data=range(100), chunks=(100,), compression="gzip")
        good.id.write_direct_chunk((0,), b"garbage")
    message = rf"^{path}: .*; expected a mask file"
    with pytest.raises(InputError, match=message), opened(path, "a mask file") as file:
        file["good"][()]


def test_dataset_that_is_not_there(path):
    message = rf"^{path}: .*photons.*; expected an events file of this version; process the run"
    with pytest.raises(InputError, match=message), finished_file(path, "an events file") as file:
        file["photons"]
    with pytest.raises(KeyError), input_file(path, "a mask file") as file:
        file["photons"]


def test_run_that_was_not_processed(tmp_path):
    path = tmp_path / "r0050_events.h5"
    message = f"^{path}: no such file; process the run first$"
    with pytest.raises(InputError, match=message), finished_file(path, "an events file"):
        raise AssertionError("it was opened")


def test_good_file(path):
    access = open_access(path)
    assert access.instrument_sources
    access.close()


HEAPS = {
    # on which HDF5 1.10.8 reads for ever
    "first object cleared": lambda path, at: overwrite(path, at + 16, bytes(16)),
    "objects cleared": lambda path, at: overwrite(path, at + 24, bytes(2000)),
    "object of no end": lambda path, at: overwrite(path, at + 24, b"\xff" * 8),
    "object that ends behind": lambda path, at: overwrite(path, at + 24, number(5000)),
    "no heap": lambda path, at: overwrite(path, at, b"GCOB"),
    "another version": lambda path, at: overwrite(path, at + 4, b"\x07"),
    "size 0": lambda path, at: overwrite(path, at + 8, bytes(8)),
    "size garbage": lambda path, at: overwrite(path, at + 8, b"\xff" * 8),
    "longer than the file": lambda path, at: overwrite(path, at + 8, number(1 << 25)),
}


@pytest.mark.parametrize("name", HEAPS)
def test_damaged_heap(name, path):
    at = heap_address(path)
    HEAPS[name](path, at)
    with pytest.raises(ValueError, match=f"heap of strings at {at} is damaged"):
        open_access(path)


def test_string_that_lies_nowhere(path):
    with h5py.File(path) as file:
        place = file["METADATA/dataFormatVersion"].id.get_offset()
    overwrite(path, place + 4, (1 << 62).to_bytes(8, "little"))
    with pytest.raises(ValueError, match="heap of strings"):
        open_access(path)


def test_errors_pass_through(tmp_path):
    with pytest.raises(ZeroDivisionError):
        guarded_call(tmp_path, lambda: 1 / 0)
    assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0


FAILS = """
import ctypes
from xfelmpi.io import input_file

input_file.CPU_SECONDS = 0.3
input_file.end_with_traceback()

def forever():
    while True:
        pass

def crash():
    ctypes.string_at(0)

def read_it():
    return 5

assert input_file.guarded_call("/run/good.h5", read_it) == 5
input_file.guarded_call("/run/RAW-R0050-AGIPD03-S00000.h5", {what})
"""


def test_file_on_which_hdf5_does_not_return():
    done = run_python(["-c", FAILS.format(what="forever")])
    assert done.returncode == -signal.SIGVTALRM
    assert '"/run/RAW-R0050-AGIPD03-S00000.h5", line' in done.stderr
    assert "HDF5_fails_on_this_file" in done.stderr
    assert "good.h5" not in done.stderr


def test_file_on_which_hdf5_crashes():
    done = run_python(["-c", FAILS.format(what="crash")])
    assert done.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in done.stderr
    assert '"/run/RAW-R0050-AGIPD03-S00000.h5", line' in done.stderr
    assert "HDF5_fails_on_this_file" in done.stderr


MPI_HANDLER = """
import os, signal
from mpi4py import MPI
from xfelmpi.io.input_file import end_with_traceback
end_with_traceback()
os.kill(os.getpid(), signal.{signal})
"""


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT])
def test_no_handler_of_the_mpi_library(number):
    """It takes memory, for which it waits for ever after a crash inside malloc."""
    done = run_python(["-c", MPI_HANDLER.format(signal=number.name)])
    assert done.returncode == -number
    assert "Fatal Python error" in done.stderr
    assert "Process received signal" not in done.stderr


def test_what_the_system_refuses_says_nothing_of_the_content(monkeypatch, tmp_path):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "a.h5").touch()
    monkeypatch.setattr(h5py, "File", refuse)
    with (
        pytest.raises(InputError, match="Permission denied") as found,
        input_file(tmp_path / "a.h5", "a mask file"),
    ):
        pass
    assert "expected" not in str(found.value)


def test_only_regular_files(tmp_path):
    """Whoever opened a FIFO would wait for somebody to write to it."""
    os.mkfifo(tmp_path / "fifo.h5")
    for path in (tmp_path / "fifo.h5", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            open_hdf5(path)
        with (
            pytest.raises(InputError, match="not a regular file"),
            input_file(path, "a mask file"),
        ):
            pass
    with pytest.raises(OSError, match="not a regular file"):
        open_access(tmp_path / "fifo.h5")


def test_a_file_that_is_open_for_writing_elsewhere(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["a"] = 1
    with open(path, "rb") as writer:
        # as HDF5 locks what it writes to
        fcntl.flock(writer, fcntl.LOCK_EX)
        with (
            pytest.raises(InputError, match=r"unable to lock.*HDF5_USE_FILE_LOCKING=FALSE") as told,
            input_file(path, "a mask file"),
        ):
            pass
        assert "expected" not in str(told.value)
        monkeypatch.setattr(hdf5_locks, "site_setting", "FALSE")
        check_input(path)
    monkeypatch.setattr(hdf5_locks, "site_setting", None)
    check_input(path)


@pytest.mark.parametrize("number", [errno.ENOLCK, 524])
def test_a_file_system_without_locks(tmp_path, monkeypatch, number):
    def no_locks(descriptor, how):
        raise OSError(number, "no locks available")

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = 1
    monkeypatch.setattr(fcntl, "flock", no_locks)
    check_input(tmp_path / "a.h5")


def test_no_heap_is_looked_for_at_other_addresses(tmp_path):
    """A user block, or addresses of 4 bytes, are no damage."""
    for name, options in {"block": {"userblock_size": 512}, "narrow": {}}.items():
        path = tmp_path / f"{name}.h5"
        plist = h5py.h5p.create(h5py.h5p.FILE_CREATE)
        plist.set_userblock(options.get("userblock_size", 0))
        if name == "narrow":
            plist.set_sizes(4, 4)
        h5py.h5f.create(str(path).encode(), fcpl=plist).close()
        with h5py.File(path, "r+") as file:
            file["METADATA/dataFormatVersion"] = np.array(["1.2"], h5py.string_dtype())
            for part in ("dataSourceId", "deviceId", "root"):
                file[f"METADATA/dataSources/{part}"] = np.array(["a"], h5py.string_dtype())
            file["INDEX/trainId"] = np.arange(3)
        with h5py.File(path) as file:
            _check_strings(file)
