"""The pass as a loop: every frame once, observers in their order, feedback to the source."""

from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
from mockrun import tiny_run

from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.sparse_frames import FrameSums
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.reduction.frame_loop import Observer, run_pass, train_source
from xfelmpi.reduction.observers import SumKeeper
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.reduction.sparsifier import Sparsifier
from xfelmpi.run.frames.file_pool import FilePool
from xfelmpi.run.index.run_index import index_run


@pytest.fixture(scope="module")
def mock(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("loop") / "p007927", absent_modules=tuple(range(2, 16)))


@pytest.fixture
def index(mock):
    return index_run(mock.paths.proc, "proc", None)


@pytest.fixture
def sparsifier(index):
    bits = np.full((16, 1, 8192), 0xFF, np.uint8)
    masks = Masks(bits, np.zeros(352, np.int32), bits[:, 0])
    return Sparsifier(FilePool(index.files), masks, 1.0, 0.7, 1 << 21)


class Noted(Observer):
    """Writes down what it is told, and whether the observer before has been told already."""

    def __init__(self, name, log, sums=None):
        self.name, self.log, self.sums = name, log, sums

    def block(self, source, block):
        there = self.sums is not None and (self.sums.photons[source.rows] > 0).all()
        self.log.append((self.name, source.rows.start, source.rows.stop, bool(there)))

    def finish(self):
        self.log.append((self.name, "finish"))


def test_blocks_and_observers(mock, index, sparsifier):
    sums, powder, log = FrameSums.zeros(len(mock)), PowderSum.zeros(1, AGIPD_1M), []
    skip = np.zeros(len(mock), bool)
    skip[6:12] = True
    entered = []

    @contextmanager
    def whole():
        entered.append(len(log))
        yield
        entered.append(len(log))

    run_pass(
        train_source(index.frames, sums, sparsifier.capacity, "proc", skip),
        partial(sparsifier.frames, powder=powder),
        (SumKeeper(sums), Noted("a", log, sums), Noted("b", log)),
        whole,
    )
    assert log == [
        ("a", 0, 6, True),
        ("b", 0, 6, False),
        ("a", 12, 18, True),
        ("b", 12, 18, False),
        ("a", "finish"),
        ("b", "finish"),
    ]
    assert entered == [0, 2, 2, 4]
    images = [mock.frame(i) for i in range(len(mock))]
    expected = [0 if skip[i] else int(image.sum()) for i, image in enumerate(images)]
    assert sums.photons.tolist() == expected
    assert int(powder.photons.sum()) == sum(expected) > 0


def test_what_an_observer_raises_ends_the_pass(index, sparsifier):
    class Broken(Observer):
        def block(self, source, block):
            raise ZeroDivisionError

    log = []
    sums = FrameSums.zeros(len(index.frames))
    source = train_source(index.frames, sums, sparsifier.capacity, "proc")
    read = partial(sparsifier.frames, powder=PowderSum.zeros(1, AGIPD_1M))
    with pytest.raises(ZeroDivisionError):
        run_pass(source, read, (Broken(), Noted("after", log)))
    assert log == []
