"""Modules joined by the ids of their frames, for detectors with more memory cells than AGIPD."""

import numpy as np
import pytest

from xfelmpi.core.frame_table import ModuleFile
from xfelmpi.run.index.file_index import FileFrames
from xfelmpi.run.index.merge_modules import ModuleOrder, drop_foreign_trains, join_modules

FIRST = 1_500_000_000


def frames_of(train, cell) -> FileFrames:
    pulse = cell.astype(np.uint64) * 2
    return FileFrames(train, cell, pulse, np.arange(len(train), dtype=np.int32))


@pytest.mark.parametrize("n_cells", [352, 512, 800, 65536])
def test_every_frame_of_every_module_stays_apart(n_cells):
    trains = np.arange(FIRST, FIRST + 3, dtype=np.uint64)
    cells = np.unique(np.linspace(0, n_cells - 1, 800).astype(np.uint16))
    train, cell = np.repeat(trains, len(cells)), np.tile(cells, len(trains))
    files = [ModuleFile(f"{m}", m, "data") for m in range(2)]
    problems = []
    joined = ModuleOrder(files, problems)
    order = np.random.default_rng(1).permutation(len(train))
    for m, rows in enumerate((order, order[::-1][: len(order) // 2])):
        joined.add(m, [(m, frames_of(train[rows], cell[rows]))])
    drop_foreign_trains(joined.modules, files, problems)
    table = join_modules(joined.modules, 2, problems)
    assert not problems
    assert table.cell_id.dtype == np.uint16
    assert table.train_id.tolist() == train.tolist()
    assert table.cell_id.tolist() == cell.tolist()
    assert table.pulse_id.tolist() == (cell.astype(int) * 2).tolist()
    assert (table.row[order, 0] == np.arange(len(order))).all()
    assert (table.file[:, 1] == 1).sum() == len(order) // 2


@pytest.mark.parametrize("train", [2**47, 2**53 - 1, 2**53, 2**63, 2**64 - 1])
def test_train_that_cannot_be_is_left_out_and_named(train):
    trains = np.array([FIRST, train, FIRST + 1], np.uint64)
    problems = []
    files = [ModuleFile("a.h5", 0, "data")]
    joined = ModuleOrder(files, problems)
    joined.add(0, [(0, frames_of(trains, np.array([799, 799, 799], np.uint16)))])
    assert [(p.file, p.train) for p in problems] == [("a.h5", train)]
    assert join_modules(joined.modules, 1, problems).train_id.tolist() == [FIRST, FIRST + 1]


@pytest.mark.parametrize("in_order", [True, False])
def test_modules_whose_files_have_the_same_frames(in_order):
    """What they share is kept once; what is out of order, or repeated, is settled for each."""
    train = np.repeat(np.arange(FIRST, FIRST + 4, dtype=np.uint64), 3)
    cell = np.tile(np.arange(3, dtype=np.uint16), 4)
    halves = [slice(0, 6), slice(6, 12)]
    if not in_order:
        halves = [slice(6, 12), slice(3, 9)]
    problems = []
    files = [ModuleFile(f"{m}-{s}.h5", m, "data") for m in range(3) for s in range(2)]
    joined = ModuleOrder(files, problems)
    same = [frames_of(train[half], cell[half]) for half in halves]
    copies = [frames_of(train[half].copy(), cell[half].copy()) for half in halves]
    for m, frames in enumerate((same, copies, same)):
        joined.add(m, [(2 * m + s, frames[s]) for s in range(2)])
    first, *others = joined.modules.values()
    for m, module in enumerate(others, 1):
        assert module.key is first.key
        assert module.pulse is first.pulse
        assert (module.row is first.row) == in_order
        assert (module.row == first.row).all()
        assert (module.file == first.file + 2 * m).all()
    assert [p.module for p in problems] == ([] if in_order else [0, 1, 2])
    table = join_modules(joined.modules, 3, problems)
    n = len(table)
    assert n == (12 if in_order else 9)
    assert table.file[:, 1].tolist() == [n + 2 for n in table.file[:, 0].tolist()]
