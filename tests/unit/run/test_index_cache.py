"""The index kept from an earlier job: the same as indexing again, or not used."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from damagedcache import DAMAGES, damage_cache
from mockrun import tiny_run

from xfelmpi.run.index import cache
from xfelmpi.run.index.cache import cached_index
from xfelmpi.run.index.run_index import index_run

pytestmark = pytest.mark.slow

RUN = {
    "trains": 6,
    "cells": (0, 3, 4),
    "veto": 0.3,
    "reorder_cells": True,
    "sequence_length": 2,
    "ragged_sequences": True,
    "missing": ((2, 1), (5, 3)),
    "absent_modules": (9,),
    "pulse_step": 4,
}


@pytest.fixture
def run(tmp_path):
    return tiny_run(tmp_path / "p007927", **RUN).paths.proc


@pytest.fixture
def counted(monkeypatch):
    """How often the files were really indexed."""
    calls = []

    def index_files(*arguments):
        calls.append(arguments)
        return indexcache_index_files(*arguments)

    indexcache_index_files = cache.index_files
    monkeypatch.setattr(cache, "index_files", index_files)
    return calls


def get(path, run, trains=(None, None), detector=None):
    return cached_index(path, run, "proc", detector, trains)


def assert_same(found, expected):
    for name in expected.frames.__dataclass_fields__:
        a, b = getattr(found.frames, name), getattr(expected.frames, name)
        assert a.dtype == b.dtype, name
        there = expected.frames.file >= 0 if name == "row" else ...
        np.testing.assert_array_equal(a[there], b[there], name)
    assert replace(found, frames=None, notes=()) == replace(expected, frames=None, notes=())


def test_second_time_is_the_same(run, tmp_path, counted):
    path = tmp_path / "index" / "i.h5"
    for trains in ((None, None), (1, 4), (None, None), (3, None)):
        assert_same(get(path, run, trains), index_run(run, "proc", None, trains))
    assert len(counted) == 1
    assert sorted(p.name for p in path.parent.iterdir()) == ["i.h5"]
    assert get(path, run).notes[-1] == f"index of an earlier job: {path}"


def test_any_change_of_the_files_counts(run, tmp_path, counted):
    path = tmp_path / "i.h5"
    get(path, run)
    victim = sorted(run.glob("CORR-*-AGIPD03-*.h5"))[0]
    victim.touch()
    get(path, run)
    assert len(counted) == 2
    victim.unlink()
    assert_same(get(path, run), index_run(run, "proc"))
    assert len(counted) == 3
    get(path, run, detector="SPB_DET_AGIPD1M-1")
    assert len(counted) == 4
    elsewhere = tmp_path / "copy" / run.name
    shutil.copytree(run, elsewhere)
    get(path, elsewhere)
    assert len(counted) == 5


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_not_used(run, tmp_path, counted, damage):
    path = tmp_path / "i.h5"
    get(path, run)
    damage_cache(path, damage, "cell", "segments", 40)
    assert_same(get(path, run), index_run(run, "proc"))
    assert len(counted) == 2
    get(path, run)
    assert len(counted) == 2


def test_what_could_not_be_opened_is_tried_again(run, tmp_path, counted):
    victim = sorted(run.glob("CORR-*-AGIPD03-*.h5"))[0]
    content = victim.read_bytes()
    victim.write_text("no HDF5")
    path = tmp_path / "i.h5"
    for _ in range(2):
        assert_same(get(path, run), index_run(run, "proc"))
    assert len(counted) == 2
    victim.write_bytes(content)
    for _ in range(2):
        assert_same(get(path, run), index_run(run, "proc"))
    assert len(counted) == 3


def test_a_link_to_nowhere_is_a_problem(run, tmp_path):
    victim = sorted(run.glob("CORR-*-AGIPD03-*.h5"))[0]
    victim.unlink()
    victim.symlink_to(tmp_path / "nowhere")
    index = get(tmp_path / "i.h5", run)
    assert any(problem.file == victim.name for problem in index.problems)


def test_a_folder_that_cannot_be_written_does_no_harm(run, tmp_path, counted):
    (tmp_path / "file").touch()
    for _ in range(2):
        assert_same(get(tmp_path / "file" / "i.h5", run), index_run(run, "proc"))
    assert len(counted) == 2
