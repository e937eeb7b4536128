"""Modules joined by the ids of their frames, for detectors with more memory cells than AGIPD."""

import numpy as np
import pytest

from xfelmpi.core.frame_table import ModuleFile
from xfelmpi.run.index.file_index import ModuleRows
from xfelmpi.run.index.merge_modules import drop_foreign_trains, join_modules, order_frames

FIRST = 1_500_000_000


def frames_of(train, cell, number) -> ModuleRows:
    n = len(train)
    pulse = cell.astype(np.uint64) * 2
    return ModuleRows(
        train, cell, pulse, np.full(n, number, np.int32), np.arange(n, dtype=np.int32)
    )


@pytest.mark.parametrize("n_cells", [352, 512, 800, 65536])
def test_every_frame_of_every_module_stays_apart(n_cells):
    trains = np.arange(FIRST, FIRST + 3, dtype=np.uint64)
    cells = np.unique(np.linspace(0, n_cells - 1, 800).astype(np.uint16))
    train, cell = np.repeat(trains, len(cells)), np.tile(cells, len(trains))
    files = [ModuleFile(f"{m}", m, "data") for m in range(2)]
    problems, modules = [], {}
    order = np.random.default_rng(1).permutation(len(train))
    for m, rows in enumerate((order, order[::-1][: len(order) // 2])):
        modules[m] = order_frames(
            m, [frames_of(train[rows], cell[rows], m)], files, problems, modules
        )
    drop_foreign_trains(modules, files, problems)
    table = join_modules(modules, 2, problems)
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
    rows = frames_of(trains, np.array([799, 799, 799], np.uint16), 0)
    frames = order_frames(0, [rows], files, problems, {})
    assert [(p.file, p.train) for p in problems] == [("a.h5", train)]
    assert join_modules({0: frames}, 1, problems).train_id.tolist() == [FIRST, FIRST + 1]
