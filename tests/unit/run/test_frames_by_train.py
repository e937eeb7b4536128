"""Frames of a detector whose rows are trains, (train, cell, ss, fs), as a JUNGFRAU has them."""

import h5py
import numpy as np
import pytest
from mockrun import tiny_run
from modulefiles import assert_reads, make_table, read

from xfelmpi.core.frame_table import ModuleFile
from xfelmpi.run.frames.file_pool import OpenModuleFile
from xfelmpi.run.index.run_index import index_run
from xfelmpi.run.virtual_layout import find_mappings

TRAINS, CELLS, SS, FS = 3, 5, 512, 128
NAME = "INSTRUMENT/SPB_IRDA_JF4M/CORR/JNGFR04:output/data"
GZIP = {"compression": "gzip", "compression_opts": 1, "shuffle": True}

DIRECT = {
    "contiguous": {},
    "a frame": {"chunks": (1, 1, SS, FS), **GZIP},
    "a frame, not packed": {"chunks": (1, 1, SS, FS)},
    "a train": {"chunks": (1, CELLS, SS, FS), **GZIP},
    "two cells": {"chunks": (1, 2, SS, FS), **GZIP},
    "two trains, three cells": {"chunks": (2, 3, SS, FS), **GZIP},
    "two cells of two trains, not packed": {"chunks": (2, 2, SS, FS)},
    "more than all": {"chunks": (4, 7, SS, FS), "maxshape": (None, None, SS, FS)},
}
OTHERS = {
    "parts of frames": {"chunks": (1, 2, SS, FS // 2), **GZIP},
    "another filter": {"chunks": (2, 2, SS, FS), "fletcher32": True},
}


@pytest.fixture(scope="module")
def values():
    rng = np.random.default_rng(3)
    images = np.zeros((TRAINS, CELLS, SS * FS), "u2")
    for image in images.reshape(-1, SS * FS):
        image[rng.integers(0, SS * FS, 200)] = rng.integers(1, 5, 200)
    return images.reshape(TRAINS, CELLS, SS, FS)


def write(path, **layout):
    with h5py.File(path, "w") as file:
        file.create_dataset(f"{NAME}/adc", **layout)
    return ModuleFile(str(path), 3, f"{NAME}/adc", frames_per_train=CELLS)


@pytest.mark.parametrize("layout", {**DIRECT, **OTHERS}.values(), ids={**DIRECT, **OTHERS})
def test_every_layout(tmp_path, values, layout):
    about = write(tmp_path / "a.h5", data=values, **layout)
    assert_reads(about, values.reshape(-1, SS, FS))
    file = OpenModuleFile(about)
    assert (len(file), file.direct) == (TRAINS * CELLS, layout in DIRECT.values())
    file.close()


@pytest.mark.parametrize("layout", [*DIRECT, "another filter"])
def test_frames_never_written(tmp_path, values, layout):
    """What a chunk that was never written has is missing, and nothing else."""
    options = {**DIRECT, **OTHERS}[layout]
    if not options:
        written = np.zeros((TRAINS, CELLS), bool)
    else:
        high, wide = options["chunks"][:2]
        written = np.zeros((TRAINS, CELLS), bool)
        written[high : 2 * high, wide : 2 * wide] = True
    about = write(tmp_path / "a.h5", shape=values.shape, dtype="u2", **options)
    with h5py.File(about.path, "r+") as file:
        for train, cell in np.argwhere(written):
            file[about.dataset][train, cell] = values[train, cell]
    found = read([about], make_table({3: (0, np.arange(TRAINS * CELLS))}))
    there = found.block.sums.modules > 0
    np.testing.assert_array_equal(there, written.reshape(-1))
    photons = values.sum(axis=(2, 3), dtype=int) * written
    np.testing.assert_array_equal(found.block.sums.photons, photons.reshape(-1))


@pytest.mark.parametrize("kind", ["trains", "cells of trains"])
def test_virtual_datasets(tmp_path, values, kind):
    source = write(tmp_path / "source.h5", data=values, **DIRECT["two cells"])
    layout = h5py.VirtualLayout(values.shape, "u2")
    from_file = h5py.VirtualSource(source.path, source.dataset, values.shape)
    turned = np.roll(values, 1, axis=0)
    if kind == "trains":
        layout[0], layout[1:] = from_file[TRAINS - 1], from_file[: TRAINS - 1]
    else:
        for cell in range(CELLS):
            layout[0, cell] = from_file[TRAINS - 1, cell]
            layout[1:, cell] = from_file[: TRAINS - 1, cell]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset(f"{NAME}/adc", layout)
    about = ModuleFile(str(tmp_path / "a.h5"), 3, source.dataset, frames_per_train=CELLS)
    assert_reads(about, turned.reshape(-1, SS, FS))


def test_mappings_never_cross_trains():
    """The frames of a virtual dataset are cells of some trains, which HDF5 can select."""
    rows = np.array([0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 15, 16, 17, 18, 24])
    table = make_table({3: (0, rows)})
    mappings = find_mappings(table, np.ones(1, bool), np.array([CELLS]))
    found = {}
    for _, _, frame, row, frame_step, row_step, count, length in mappings:
        assert row % CELLS + length <= CELLS
        assert count == 1 or row_step % CELLS == 0
        for block in range(count):
            for i in range(length):
                found[frame + block * frame_step + i] = row + block * row_step + i
    assert [found[i] for i in range(len(rows))] == rows.tolist()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "p007927"
    return tiny_run(folder, detector="JUNGFRAU-4M", trains=3, cells=(0, 1, 2)).paths.proc


def edit(run, module, change):
    with h5py.File(run / f"CORR-R0050-JNGFR{module:02}-S00000.h5", "r+") as file:
        source = f"SPB_IRDA_JF4M/CORR/JNGFR{module:02}:output/data"
        change(file[f"INDEX/{source}"], file[f"INSTRUMENT/{source}"])


def test_ids(run):
    index = index_run(run, "proc")
    assert not index.problems
    assert index.source == "SPB_IRDA_JF4M/CORR/JNGFR*:output"
    assert index.frames.cell_id.tolist() == [0, 1, 2] * 3
    assert index.frames.pulse_id.tolist() == [0, 1, 2] * 3
    assert (index.frames.row == np.arange(9)[:, None]).all()
    assert {file.frames_per_train for file in index.files} == {3}


@pytest.fixture
def copied(run, tmp_path):
    import shutil

    return shutil.copytree(run, tmp_path / "r0050")


def test_pulses_are_in_the_order_of_frames(copied):
    """The first frame of a burst may be that of any memory cell."""

    def turn(index, data):
        data["memoryCell"][:] = np.tile([15, 0, 1], (3, 1))

    for module in range(1, 9):
        edit(copied, module, turn)
    frames = index_run(copied, "proc").frames
    assert frames.cell_id.tolist() == [0, 1, 15] * 3
    assert frames.pulse_id.tolist() == [1, 2, 0] * 3
    assert frames.row[:, 0].tolist() == [1, 2, 0, 4, 5, 3, 7, 8, 6]


def lose_train(index, data):
    index["count"][1] = 0


def other_cells(index, data):
    data["memoryCell"][1, 2] = 255


def other_shape(index, data):
    del data["memoryCell"]
    data["memoryCell"] = np.zeros((3, 2), "u1")


def beyond(index, data):
    index["count"][2] = 2


@pytest.mark.parametrize(
    ("damage", "lost", "what"),
    [
        (lose_train, [3, 4, 5], "lacks 1 train"),
        (other_cells, [5], "cellId 255, expected 0 … 15"),
        (other_shape, range(9), "has shape (3, 2), expected 3 numbers in each of N rows"),
        (beyond, [], "INDEX names rows 6 … 11, but there are 9"),
    ],
)
def test_damage_is_named_by_module(copied, damage, lost, what):
    edit(copied, 4, damage)
    index = index_run(copied, "proc")
    assert np.flatnonzero(index.frames.file[:, 3] < 0).tolist() == list(lost)
    assert {p.module for p in index.problems} == {3}
    assert any(what in p.what for p in index.problems), index.problems


@pytest.mark.slow
def test_one_cell(tmp_path):
    """A frame per train, which is not of the first memory cell."""
    mock = tiny_run(tmp_path / "p007927", detector="JUNGFRAU-4M", trains=2, cells=(0,))
    for module in range(1, 9):
        edit(
            mock.paths.proc,
            module,
            lambda _, data: data["memoryCell"].write_direct(np.full((2, 1), 15, "u1")),
        )
    frames = index_run(mock.paths.proc, "proc").frames
    assert frames.cell_id.tolist() == [15, 15]
    assert frames.pulse_id.tolist() == [0, 0]
    assert (frames.row == [[0] * 8, [1] * 8]).all()
