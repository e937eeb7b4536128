"""Checkpoints of a run that gets more memory cells, or other masks."""

import numpy as np
import pytest

from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.io.checkpoint_file import DamagedError
from xfelmpi.mpi.one_process import OneProcess
from xfelmpi.reduction.checkpoint import add_powder, by_cell
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.reduction.resume import CheckpointInfo, ResumePlan, without_other_masks

NONE = np.zeros((0, 1), np.uint8)


def rows_of(cells):
    """Return a mask row for each cell, in the order of the cells."""
    rows = np.zeros(AGIPD_1M.max_cells, np.int32)
    rows[list(cells)] = np.arange(len(cells))
    return rows


@pytest.mark.parametrize("early", [(5,), (2, 5, 9)])
def test_frames_are_those_of_the_same_cells_when_there_are_more(early):
    cells = np.repeat(np.array(early, np.uint16), 3)
    before = PowderSum.zeros(len(early), AGIPD_1M)
    before.add_frames(4, rows_of(early)[cells])
    kept, frames = by_cell(before.frames, rows_of(early), cells)
    powder, late = PowderSum.zeros(12, AGIPD_1M), rows_of(range(12))
    add_powder(powder, late, NONE, NONE, frames.astype(np.uint8), kept)
    assert powder.frames[4].tolist() == [3 * (cell in early) for cell in range(12)]
    assert powder.frames.sum() == len(cells)


def test_powder_of_other_shape_is_refused():
    powder, cells = PowderSum.zeros(10, AGIPD_1M), np.arange(10, dtype=np.uint16)
    for frames, photons in (
        (np.ones((16, 1), np.uint8), NONE),
        (np.ones((1, 10), np.uint8), NONE),
        (np.ones((16, 10), np.uint8), np.ones((16, 1), np.uint8)),
    ):
        with pytest.raises(DamagedError, match="powder of shape"):
            add_powder(powder, rows_of(range(10)), photons, NONE, frames, cells)
    with pytest.raises(DamagedError, match="cells of the powder"):
        add_powder(powder, rows_of(range(10)), NONE, NONE, NONE, cells + 1000)
    assert not powder.frames.any()
    assert not powder.photons.any()


def test_files_of_other_masks_are_removed(tmp_path):
    good, other = (
        CheckpointInfo(tmp_path / name, rows=((n, n + 1),), masks={"3": name})
        for n, name in enumerate(("good", "other"))
    )
    for file in (good, other):
        file.path.touch()
    plan = without_other_masks(OneProcess(), ResumePlan({}, (good, other), 2), {"3": "good"})
    assert (plan.files, plan.n_done) == ((good,), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["good"]
