"""Frames kept in memory or read again: the same frames, whatever the budget."""

from dataclasses import dataclass

import h5py
import numpy as np
import pytest
from modulefiles import DATASET, LAYOUTS, make_masks, make_table, sparse_images, write_module
from readers import FRAME_PIXELS
from reference import FS, MODULES, PIXELS, SS, photon_image

from xfelmpi.core import shutdown
from xfelmpi.core.errors import InputError
from xfelmpi.core.sparse_frames import FrameBlock, FrameSums, SparseFrames
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.reduction import frame_buffer
from xfelmpi.reduction.frame_buffer import WORD_BYTES, FrameBuffer
from xfelmpi.reduction.frame_reader import HitReader, _by_file
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.reduction.sparsifier import Sparsifier
from xfelmpi.run.frames.file_pool import FilePool

pytestmark = pytest.mark.slow

TRAINS, PER_TRAIN = 3, 11
N = TRAINS * PER_TRAIN
TABLE_MODULES = (2, 5, 15)
HUGE = 1 << 30


@dataclass
class Run:
    """A rank's frames, on disk and as dense photons (frame, module in TABLE_MODULES, pixel)."""

    files: list
    table: object
    masks: object
    photons: np.ndarray
    bad: np.ndarray

    def lists(self, frame):
        """Return (pixel, count) of a frame as it should come back."""
        pixel, count = [], []
        for i, module in enumerate(TABLE_MODULES):
            at = np.flatnonzero((self.photons[frame, i] > 0) | self.bad[frame, i])
            pixel += (at + module * PIXELS).tolist()
            count += self.photons[frame, i, at].tolist()
        return pixel, count


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Modules with gaps, a chunk never written, bad pixels and masks for two kinds of cells."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(1)
    rows_of_cell = np.zeros(352, np.int32)
    rows_of_cell[1::2] = 1
    good = rng.random((MODULES, 2, SS, FS)) < 0.8
    cell = np.tile(np.arange(PER_TRAIN), TRAINS)
    images = [sparse_images(rng, N, "f4", lit) for lit in (5, 300, 60)]
    images[1][4, 100, 3:40] = np.nan
    files, where = [], {}
    photons, bad = np.zeros((2, N, len(TABLE_MODULES), PIXELS), np.int64)
    for i, module in enumerate(TABLE_MODULES):
        layout = ("contiguous", "shuffle gzip", "chunk of 3")[i]
        files.append(write_module(folder / f"{module}.h5", images[i], module, **LAYOUTS[layout]))
        rows = np.arange(N)
        if i:
            rows[rng.random(N) < 0.2] = -1
        where[module] = (i, rows)
        mask = good[module, rows_of_cell[cell]] & (rows >= 0)[:, None, None]
        counts, wrong = photon_image(images[i])
        photons[:, i] = np.where(mask, counts, 0).reshape(N, -1)
        bad[:, i] = (wrong & mask).reshape(N, -1)
    # frame 20 of module 2 becomes a chunk that was never written
    with h5py.File(files[0].path, "w") as file:
        chunked = file.create_dataset(DATASET, (N, SS, FS), "f4", chunks=(1, SS, FS))
        for row in np.delete(np.arange(N), 20):
            chunked[row] = images[0][row]
    photons[20, 0] = bad[20, 0] = 0
    table = make_table(where, np.repeat(70 + np.arange(TRAINS), PER_TRAIN), cell)
    return Run(files, table, make_masks(good, rows=rows_of_cell), photons, bad)


class FirstPass:
    """A run read train by train, some frames kept, as the main job does it."""

    def __init__(self, run, budget, likely, room=0):
        self.pool = FilePool(tuple(run.files))
        self.sparsifier = Sparsifier(self.pool, run.masks, 1.0, 0.7, room)
        self.kept = FrameBuffer(N, budget)
        self.sums = FrameSums.zeros(N)
        self.powder = PowderSum.zeros(run.masks.good.shape[1], AGIPD_1M)
        for a in range(0, N, PER_TRAIN):
            rows = slice(a, a + PER_TRAIN)
            block = self.sparsifier.frames(run.table[rows], self.powder)
            self.sums.store(a, block.sums)
            self.kept.append(a, block, likely[rows])
            self.kept.append(a, block, ~likely[rows])
        self.reader = HitReader(run.table, self.sums, self.sparsifier, run.masks, self.kept)
        self.bytes_first = self.sparsifier.bytes_read

    @property
    def bytes_again(self):
        return self.sparsifier.bytes_read - self.bytes_first


@pytest.fixture
def first_pass():
    """Read a run for the first time; its files are closed at the end."""
    passes = []

    def read(*args, **options):
        passes.append(FirstPass(*args, **options))
        return passes[-1]

    yield read
    for one in passes:
        one.pool.close()


SELECTIONS = {
    "none": [],
    "all": range(N),
    "first": [0],
    "last": [N - 1],
    "every third": range(1, N, 3),
    "some": np.flatnonzero(np.random.default_rng(2).random(N) < 0.5),
}
LIKELY = {
    "none": np.zeros(N, bool),
    "all": np.ones(N, bool),
    "in turns": np.arange(N) % 2 == 0,
    "some": np.random.default_rng(3).random(N) < 0.3,
}


def total_bytes(run):
    """All frames packed: a word an entry, two for every long gap, one for every large count."""
    words = 0
    for pixel, count in map(run.lists, range(N)):
        gaps = np.diff(pixel, prepend=0)
        words += len(pixel) + 2 * (gaps >= 0xFFF).sum() + (np.array(count) >= 0xF).sum()
    return WORD_BYTES * int(words)


@pytest.mark.parametrize("share", [0, 0.2, 0.6, 1, 1000])
@pytest.mark.parametrize("likely", LIKELY)
@pytest.mark.parametrize("selection", SELECTIONS)
def test_any_budget_gives_the_same_frames(run, first_pass, share, likely, selection):
    wanted = np.array(SELECTIONS[selection], int)
    done = first_pass(run, int(share * total_bytes(run)), LIKELY[likely])
    powder = PowderSum.zeros(2, AGIPD_1M)
    seen = []
    for frames, sparse in done.reader.stream(wanted, powder):
        assert 0 < len(frames) == len(sparse) <= HitReader.BLOCK_FRAMES
        for i, frame in enumerate(frames):
            own = slice(*sparse.indptr[i : i + 2])
            pixel, count = run.lists(frame)
            assert sparse.pixel[own].tolist() == pixel
            assert sparse.count[own].tolist() == count
        seen += frames.tolist()
    assert seen == wanted.tolist()
    modules = list(TABLE_MODULES)
    assert np.array_equal(powder.photons[modules], run.photons[wanted].sum(axis=0))
    assert np.array_equal(powder.invalid[modules], run.bad[wanted].sum(axis=0))
    rows = run.masks.row_of_cell[run.table.cell_id]
    for m in modules:
        has = done.sums.modules[wanted] >> m & 1 == 1
        expected = np.bincount(rows[wanted][has], minlength=2)
        assert powder.frames[m].tolist() == expected.tolist()


@pytest.mark.parametrize("likely", LIKELY)
def test_without_a_budget_everything_is_read_again(run, first_pass, likely):
    done = first_pass(run, 0, LIKELY[likely])
    assert not done.kept.has(np.arange(N)).any()
    for _ in done.reader.stream(np.arange(N), PowderSum.zeros(2, AGIPD_1M)):
        pass
    assert done.bytes_again == done.bytes_first > 0


@pytest.mark.parametrize("likely", LIKELY)
def test_with_a_large_budget_nothing_is_read_again(run, first_pass, likely):
    done = first_pass(run, total_bytes(run), LIKELY[likely])
    assert done.kept.has(np.arange(N)).all()
    for _ in done.reader.stream(np.arange(N), PowderSum.zeros(2, AGIPD_1M)):
        pass
    assert done.bytes_again == 0


@pytest.mark.parametrize(("share", "loaded"), [(1, "all"), (0.7, "some"), (0.0, "none")])
def test_frames_are_loaded_if_there_is_room_for_all(run, first_pass, monkeypatch, share, loaded):
    """All of a selection are read once, together; else all of the next one, or nothing."""
    monkeypatch.setattr(HitReader, "LOADED_FRAMES", 4)
    done = first_pass(run, int(share * total_bytes(run)), LIKELY["none"])
    done.reader.keep_only(np.arange(2))
    done.reader.load(np.arange(N), np.flatnonzero(LIKELY["some"]))
    assert done.kept.has(np.flatnonzero(LIKELY[loaded])).all()
    assert done.kept.has(np.arange(2, N)).sum() == LIKELY[loaded][2:].sum()
    read = done.bytes_again
    assert (read > 0) == (loaded != "none")
    for frames, sparse in done.reader.stream(np.flatnonzero(LIKELY[loaded])):
        pixel = [p for frame in frames for p in run.lists(frame)[0]]
        assert sparse.pixel.tolist() == pixel
    assert done.bytes_again == read


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ([[0, 1]] * 5, [5]),
        ([[0, 2], [0, 2], [1, 3], [1, 3], [1, 3]], [2, 3]),
        # a module goes on later than the other, or has no frame
        ([[0, 2], [1, 2], [1, 3], [1, 3], [1, 3]], [1, 1, 3]),
        ([[0, 2], [-1, 2], [0, -1], [-1, 3], [1, 3]], [3, 1, 1]),
        ([[-1, -1], [0, -1], [-1, -1], [0, -1], [0, -1]], [1, 4]),
        (np.empty((0, 2), int), [0]),
    ],
)
def test_frames_are_read_file_by_file(files, parts):
    frames = 7 + np.arange(len(files))
    cut = _by_file(frames, np.array(files))
    assert [len(part) for part in cut] == parts
    assert np.concatenate(cut).tolist() == frames.tolist()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.9, 1.0])
def test_budget_is_kept(run, first_pass, share):
    budget = int(share * total_bytes(run))
    done = first_pass(run, budget, LIKELY["some"])
    kept = np.flatnonzero(done.kept.has(np.arange(N)))
    held = WORD_BYTES * done.kept.used
    assert len(done.kept.take(kept).pixel) == done.sums.entries[kept].sum()
    assert held <= budget
    left_out = np.flatnonzero(LIKELY["some"] & ~done.kept.has(np.arange(N)))
    if len(left_out):
        smallest = WORD_BYTES * int(done.sums.entries[left_out].min())
        assert held + smallest > budget or held > budget / 2, "no more left out than had to be"
    assert (share == 1.0) <= bool(len(kept))


def test_frames_that_were_not_stored_are_not_kept(tmp_path, first_pass, run):
    """Full frames overflow the sparse buffer: they are read again, one at a time."""
    values = np.ones((N, SS, FS), np.uint8)
    values[5:] = 0
    values[5:, 3, 3] = 2
    files = [write_module(tmp_path / f"{m}.h5", values, m) for m in range(MODULES)]
    table = make_table(
        {m: (m, np.arange(N)) for m in range(MODULES)},
        run.table.train_id,
        run.table.cell_id,
    )
    full = Run(files, table, make_masks(), None, None)
    done = first_pass(full, HUGE, np.ones(N, bool))
    assert done.sparsifier.capacity == FRAME_PIXELS
    assert done.kept.has(np.arange(N)).tolist() == [False] * 5 + [True] * (N - 5)
    powder = PowderSum.zeros(1, AGIPD_1M)
    blocks = [
        (frames.tolist(), len(sparse.pixel))
        for frames, sparse in done.reader.stream(np.array([0, 1, 4, 5, 6, 30]), powder)
    ]
    full_blocks = [([i], FRAME_PIXELS) for i in (0, 1, 4)]
    assert blocks == [*full_blocks, ([5, 6, 30], 3 * MODULES)]
    assert powder.photons.sum() == 3 * FRAME_PIXELS + 3 * 2 * MODULES


@pytest.mark.parametrize("selection", [[], [4], [3, 4, 20]])
def test_kept_frames_alone(run, first_pass, selection):
    done = first_pass(run, HUGE, LIKELY["in turns"])
    sparse = done.kept.take(np.array(selection, int))
    assert len(sparse) == len(selection)
    expected = [run.lists(i) for i in selection]
    assert sparse.pixel.tolist() == [p for pixel, _ in expected for p in pixel]
    assert sparse.count.tolist() == [c for _, count in expected for c in count]


def test_no_frames():
    """A rank without frames keeps nothing, and reads nothing again."""
    empty = make_table({0: (0, [])})
    sparsifier = Sparsifier(FilePool(()), make_masks(), 1.0, 0.7, 0)
    kept = FrameBuffer(0, HUGE)
    kept.append(0, sparsifier.frames(empty, PowderSum.zeros(1, AGIPD_1M)), np.zeros(0, bool))
    reader = HitReader(empty, FrameSums.zeros(0), sparsifier, make_masks(), kept)
    assert list(reader.stream(np.empty(0, int), PowderSum.zeros(1, AGIPD_1M))) == []


@pytest.mark.parametrize(
    "change", ["other counts", "other pixels", "same lit and sum", "fewer", "cut"]
)
def test_file_changes_between_the_readings(tmp_path, first_pass, run, change):
    """Counts that differ the second time stop the job: the files would contradict each other."""
    values = np.zeros((N, SS, FS), np.uint8)
    values[:, 0, :4] = 1, 1, 2, 5
    about = write_module(tmp_path / "a.h5", values, 0)
    table = make_table({0: (0, np.arange(N))}, run.table.train_id, run.table.cell_id)
    done = first_pass(Run([about], table, make_masks(), None, None), 0, np.ones(N, bool))
    done.pool.close()
    if change == "cut":
        with h5py.File(about.path, "w") as file:
            dataset = file.create_dataset(DATASET, values.shape, "u1", chunks=(1, SS, FS))
            dataset[:2] = values[:2]
    else:
        new = {
            "other counts": (1, 1, 2, 6),
            "other pixels": (0, 2, 2, 5),
            "same lit and sum": (2, 2, 2, 3),
            "fewer": (1, 1, 2, 0),
        }
        with h5py.File(about.path, "r+") as file:
            file[DATASET][PER_TRAIN + 3, 0, :4] = new[change]
    with pytest.raises(InputError, match=r"train 71: .* differently"):
        list(done.reader.stream(np.array([1, PER_TRAIN + 3]), PowderSum.zeros(1, AGIPD_1M)))


class WatchedBuffer(FrameBuffer):
    """Notes whether a job that is stopped would wait for what changes the buffer."""

    def __init__(self, budget):
        super().__init__(N, budget)
        self.changes = []

    def keep_only(self, frames):
        self.changes.append(("keep_only", shutdown._busy.locked()))
        super().keep_only(frames)

    def store(self, *args):
        self.changes.append(("store", shutdown._busy.locked()))
        super().store(*args)

    def release(self):
        self.changes.append(("release", shutdown._busy.locked()))
        super().release()


def test_a_stopped_job_waits_for_changes_of_the_buffer(run, first_pass):
    """The thread that ends the job would save frames at places where others are by then."""
    done = first_pass(run, 0, LIKELY["none"])
    kept = WatchedBuffer(HUGE)
    reader = HitReader(run.table, done.sums, done.sparsifier, run.masks, kept)
    reader.load(np.arange(3))
    reader.keep_only(np.arange(2))
    list(reader.stream(np.arange(4)))
    reader.release()
    names = ["store", "keep_only", "store", "release"]
    assert kept.changes == [(name, True) for name in names]


def test_a_copy_is_small_whatever_a_block_keeps(monkeypatch):
    """Frames are copied unpacked, which takes memory that nobody counts, before they are packed."""
    monkeypatch.setattr(frame_buffer, "COPIED_ENTRIES", 4)
    lengths = np.array([2, 1, 0, 9, 3, 3, 1])
    stop = np.cumsum(lengths)[:, None]
    sums = FrameSums.zeros(7)
    sums.entries[:] = lengths
    pixel = np.arange(19, dtype=np.uint32)
    count = (1 + pixel % 13).astype(np.uint16)
    block = FrameBlock(sums, stop - lengths[:, None], stop, pixel, count)
    buffer, copied = FrameBuffer(10, 18 * WORD_BYTES), []

    def store(frames, sparse, most):
        copied.append(len(sparse.pixel))
        FrameBuffer.store(buffer, frames, sparse, most)

    monkeypatch.setattr(buffer, "store", store)
    buffer.append(3, block, np.ones(7, bool))
    assert max(copied) < 9 + 4
    assert sum(copied) == 18
    assert buffer.has(np.arange(10)).tolist() == [False] * 3 + [True] * 6 + [False]
    frames = buffer.take(np.arange(3, 9))
    assert np.diff(frames.indptr).tolist() == lengths[:6].tolist()
    assert frames.pixel.tolist() == pixel[:18].tolist()
    assert frames.count.tolist() == count[:18].tolist()


def test_keep_only_makes_room():
    """Frames that are not wanted go, and the others stay as they were."""
    lists = SparseFrames(
        np.array([0, 2, 3, 6]), np.arange(6, dtype=np.uint32), np.arange(6, dtype=np.uint16)
    )
    buffer = FrameBuffer(4, 6 * WORD_BYTES)
    buffer.store(np.array([2, 0, 3]), lists)
    buffer.keep_only(np.array([0, 1, 3]))
    assert buffer.used == 4
    assert buffer.has(np.arange(4)).tolist() == [True, False, False, True]
    buffer.store(np.array([1]), lists.take(np.array([0])))
    frames = buffer.take(np.array([3, 1, 0]))
    assert frames.indptr.tolist() == [0, 3, 5, 6]
    assert frames.pixel.tolist() == [3, 4, 5, 0, 1, 2]


def resident() -> int:
    """Return the bytes of this process's own memory, without what is shared or of files."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) << 10


def test_memory_of_what_is_not_kept_goes_back():
    """While hits are written, other arrays need it."""
    n = 1 << 25
    lists = SparseFrames(np.array([0, n]), np.arange(n, dtype=np.uint32), np.ones(n, np.uint16))
    buffer = FrameBuffer(1, n * WORD_BYTES)
    before = resident()
    buffer.store(np.array([0]), lists)
    full = resident()
    buffer.keep_only(np.array([], int))
    assert full - before > 0.9 * n * WORD_BYTES
    assert full - resident() > 0.9 * n * WORD_BYTES
