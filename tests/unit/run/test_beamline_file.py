"""Files with beamline data: how they are opened, and what is looked up once."""

import os
from contextlib import nullcontext

import h5py
import pytest
from extra_data.file_access import FileAccess
from machinerun import write_run

from xfelmpi.io.links import leads_on
from xfelmpi.run.machine import beamline_file
from xfelmpi.run.machine.beamline_file import BeamlineFile
from xfelmpi.run.machine.control_data import opened


@pytest.fixture
def path(tmp_path):
    return write_run(tmp_path / "raw/r0050/RAW-R0050-DA01-S00000.h5")


def sources(file):
    return file.filename, file.control_sources, file.instrument_sources, file.all_sources


@pytest.mark.quick
def test_usual_file_is_opened_once(path, monkeypatch):
    def refuse(path):
        raise AssertionError(f"{path} was opened by EXtra-data")

    monkeypatch.setattr(beamline_file, "open_access", refuse)
    file = BeamlineFile(path)
    assert sources(file) == sources(FileAccess(str(path)))
    assert file.reduction_sources == file.errata_sources == frozenset()
    file.close()


def older(file):
    del file["METADATA/dataFormatVersion"]
    file["METADATA/dataSourceId"] = file["METADATA/dataSources/dataSourceId"]


def virtual_train_ids(file):
    n = len(file["INDEX/trainId"])
    file.move("INDEX/trainId", "ids")
    layout = h5py.VirtualLayout((n,), "u8")
    layout[:] = h5py.VirtualSource(".", "ids", (n,))
    file["INDEX"].create_virtual_dataset("trainId", layout)


@pytest.mark.parametrize("change", [older, virtual_train_ids])
def test_unusual_file_is_opened_by_extra_data(path, change):
    with h5py.File(path, "r+") as file:
        change(file)
    file = BeamlineFile(path)
    assert file._file is None
    assert sources(file) == sources(FileAccess(str(path)))
    file.close()


def test_damage_found_once_is_told_each_time(path):
    calls = []

    def find(damage):
        calls.append(1)
        damage["a"] = "why"
        return 5

    with opened(path.parent, {}) as files:
        for damage in ({}, {"a": "before"}, {}):
            told = {"a": damage.get("a", "why")}
            assert files.once("x", damage, find) == 5
            assert damage == told
    assert len(calls) == 1


def test_what_was_found_ahead_is_kept_until_its_use(path):
    """And found again each time after that: nobody keeps what is large."""
    calls = []

    def find(damage):
        calls.append(1)
        damage["a"] = "why"
        return len(calls)

    with opened(path.parent, {}) as files:
        found = []
        for files.reads_ahead in (True, True, False, False, False):
            damage = {}
            found.append(files.ahead("x", damage, find))
            assert damage == {"a": "why"}
    assert found == [1, 1, 1, 2, 3]


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_kept_is_found_in_whole_tables(path, fails):
    seen = []

    def find(damage):
        seen.append(files.reads_ahead)
        if fails:
            raise KeyError("x")

    with opened(path.parent, {}) as files:
        files.reads_ahead = True
        with pytest.raises(KeyError) if fails else nullcontext():
            files.once("x", {}, find)
        assert files.reads_ahead
    assert seen == [False]


def test_index_is_read_once(path, monkeypatch):
    file = BeamlineFile(path)
    group = next(name for name in sorted(file.control_sources) if f"INDEX/{name}" in file.file)
    first = file.rows_of_trains(group)
    monkeypatch.setattr(beamline_file.train_index, "rows_of_trains", None)
    assert file.rows_of_trains(group) is first
    file.close()


def test_what_links_lead_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["a/b/c"] = 1
        file["soft"] = h5py.SoftLink("/a/b")
        file["gone"] = h5py.SoftLink("/none")
        file["pipe"] = h5py.ExternalLink("pipe", "/x")
        known: set[str] = set()
        for _ in range(2):
            for name in ("a", "a/b/c", "/a/b", "soft/c", "b", "a/c", "a/b/c/d", "gone", "soft/d"):
                assert leads_on(file, name, known) == (name in file), name
            with pytest.raises(OSError, match="not a regular file"):
                leads_on(file, "pipe/x", known)
        assert known == {"a", "a/b", "a/b/c"}
