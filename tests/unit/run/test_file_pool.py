"""Open files of a rank: closed in time, within the system's limit, and no descriptor is lost."""

import os
import resource
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from modulefiles import DATASET, make_masks, make_table, write_module
from reference import FS, SS

from xfelmpi.core.errors import InputError, OutOfFilesError
from xfelmpi.core.frame_table import ModuleFile
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.io.input_file import ChangedFileError, file_stamp
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.reduction.sparsifier import Sparsifier
from xfelmpi.run.frames.file_pool import FilePool


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def many_files(tmp_path, n):
    values = np.zeros((1, SS, FS), np.uint8)
    files = []
    for i in range(n):
        values[0, 0, 0] = i + 1
        files.append(write_module(tmp_path / f"{i}.h5", values, module=i % 16))
    return tuple(files)


def first_byte(file) -> int:
    place = file.frames(np.array([0]))
    return os.pread(place.fd, 1, int(place.offset[0]))[0]


def test_pool_closes_the_least_recently_used(tmp_path):
    files = many_files(tmp_path, 4)
    before = open_descriptors()
    pool = FilePool(files, limit=2)
    a, b = pool.get(0), pool.get(1)
    per_file = (open_descriptors() - before) // 2
    assert pool.get(0) is a
    pool.get(2)
    assert open_descriptors() == before + 2 * per_file
    assert pool.get(0) is a, "used more recently than 1"
    again = pool.get(1)
    assert again is not b
    assert first_byte(again) == 2
    assert pool.name(3) == Path(files[3].path).name
    pool.close()
    assert open_descriptors() == before


def test_pool_keeps_within_the_limit_of_open_files(tmp_path):
    """As many files as a rank meets in a long run, with few descriptors to have."""
    files = many_files(tmp_path, 48)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(entry.name) for entry in Path("/proc/self/fd").iterdir()}
    free = [fd for fd in range(len(taken) + 24) if fd not in taken][:24]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1] + 1, hard))
    try:
        greedy = FilePool(files)
        with pytest.raises(OutOfFilesError, match="Too many open files"):
            [greedy.get(i) for i in range(48)]
        greedy.close()
        pool = FilePool(files, limit=8)
        found = [first_byte(pool.get(i)) for i in [*range(48), *range(48)]]
        pool.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found == [*range(1, 49), *range(1, 49)]


def test_limit_of_a_pool_stays_far_below_the_usual_1024():
    files = tuple(ModuleFile("", 0, "") for _ in range(2000))
    assert 2 * FilePool(files)._limit < 512


def test_read_through_a_pool_of_one(tmp_path):
    """Frames are read before their file is closed again."""
    files = many_files(tmp_path, 16)
    table = make_table({m: (m, [0, 0]) for m in range(16)})
    pool = FilePool(files, limit=1)
    sums = (
        Sparsifier(pool, make_masks(), 1.0, 0.7, 0).frames(table, PowderSum.zeros(1, AGIPD_1M)).sums
    )
    pool.close()
    assert sums.photons.tolist() == [136, 136]
    assert sums.modules.tolist() == [65535, 65535]


@pytest.mark.parametrize("what", ["no file", "no dataset", "no HDF5"])
def test_file_that_cannot_be_opened_leaves_nothing_open(tmp_path, what):
    about = write_module(tmp_path / "a.h5", np.zeros((1, SS, FS), np.uint8))
    if what == "no file":
        about = ModuleFile(str(tmp_path / "b.h5"), 3, DATASET)
    elif what == "no dataset":
        about = ModuleFile(about.path, 3, "INSTRUMENT/other")
    else:
        (tmp_path / "a.h5").write_bytes(b"not HDF5" * 100)
    pool = FilePool((about,))
    before = open_descriptors()
    for _ in range(3):
        with pytest.raises((OSError, KeyError)):
            pool.get(0)
    assert open_descriptors() == before


def stamped(about):
    """Return a module file as the index has it."""
    return replace(about, stamp=file_stamp(Path(about.path).stat()))


def test_a_file_that_was_replaced_since_it_was_indexed(tmp_path):
    """The index tells rows of another file."""
    (about,) = many_files(tmp_path, 1)
    about = stamped(about)
    values = np.ones((1, SS, FS), np.uint8)
    write_module(tmp_path / "new.h5", values, module=0)
    (tmp_path / "new.h5").rename(about.path)
    pool = FilePool((about,))
    with pytest.raises(ChangedFileError, match="being corrected again"):
        pool.get(0)
    pool.close()


@pytest.mark.parametrize("how", ["replaced", "written to", "removed"])
@pytest.mark.parametrize("what", ["named", "linked", "source"])
def test_a_file_that_changes_while_it_is_read(tmp_path, how, what):
    (about,) = many_files(tmp_path, 1)
    there = Path(about.path)
    if what != "named":
        about = replace(about, path=str(tmp_path / "other.h5"))
        with h5py.File(about.path, "w") as file:
            if what == "linked":
                file[DATASET] = h5py.ExternalLink(there.name, DATASET)
            else:
                layout = h5py.VirtualLayout((1, SS, FS), "u1")
                layout[:] = h5py.VirtualSource(there.name, DATASET, (1, SS, FS))
                file.create_virtual_dataset(DATASET, layout)
    pool = FilePool((stamped(about),))
    assert first_byte(pool.get(0)) == 1
    pool.check_unchanged()
    if how == "replaced":
        (tmp_path / "new").write_bytes(there.read_bytes())
        (tmp_path / "new").rename(there)
    elif how == "removed":
        there.unlink()
    else:
        os.utime(there, ns=(0, there.stat().st_mtime_ns + 1))
    with pytest.raises(InputError, match=f"{there.name}: changed while it was read"):
        pool.check_unchanged()
    pool.close()
