"""Masks of which every different one is stored once: added by all ranks, read back with h5py."""

import h5py
import numpy as np
import pytest
from readers import FRAME_PIXELS, FRAME_SHAPE

from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.errors import OutputError, PeerError
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.agipd import AGIPD_1M, MAX_CELLS, N_MODULES
from xfelmpi.detectors.pixel_bits import unpack
from xfelmpi.io import chunk_writer, parallel_hdf5
from xfelmpi.io.chunk_writer import ChunkAppender
from xfelmpi.io.parallel_hdf5 import ParallelFile
from xfelmpi.io.partial_file import begin_partial
from xfelmpi.output.cxi.mask_writer import MaskDeduplicator

pytestmark = pytest.mark.mpi

IN_RUN = 0xFFFF & ~(1 << 9)
BLOCK = 8
NAMES = ("entry_1/mask", "entry_2/mask")


def cell_masks(rows):
    """Return random masks of some rows; the last row is as the first, where there are several."""
    rng = np.random.default_rng(4)
    # one pixel of 32 is bad
    bits = rng.integers(0, 256, (5, N_MODULES, rows, AGIPD_1M.module_bytes), np.uint8)
    good = ~np.bitwise_and.reduce(bits, axis=0)
    good[:, -1] = good[:, 0]
    row_of_cell = (np.arange(MAX_CELLS) % rows).astype(np.int32)
    return Masks(good, row_of_cell, np.zeros((N_MODULES, AGIPD_1M.module_bytes), np.uint8))


def frames_of(bad):
    """Return frames with one photon each and, count 0, the bad pixels of each."""
    pixels = [np.append(p, FRAME_PIXELS - 1) for p in bad]
    counts = [np.append(np.zeros(len(p)), 1) for p in bad]
    return SparseFrames(
        np.cumsum([0, *map(len, pixels)], dtype=np.int64),
        np.concatenate([[], *pixels]).astype(np.uint32),
        np.concatenate([[], *counts]).astype(np.uint16),
    )


def write(comm, path, masks, datasets, per_rank):
    """Write datasets, given as a list of (cell, bad pixels) each, distributed by `per_rank`.

    Returns
    -------
    Exception or None
        What went wrong, on every rank.
    """
    ParallelFile(comm, path, {"run": 50}).close()
    packed = ChunkAppender(comm, path, FRAME_SHAPE)
    store = MaskDeduplicator(comm, packed, masks, IN_RUN)
    firsts = [
        packed.dataset(n, len(d), np.uint32, axes="a:b")
        for n, d in zip(NAMES, datasets, strict=False)
    ]
    for first, frames in zip(firsts, datasets, strict=True):
        start, stop = per_rank(len(frames))
        for a in range(0, len(frames) + 1, BLOCK):  # more rounds than any rank needs
            rows = range(min(start + a, stop), min(start + a + BLOCK, stop))
            cells = np.array([frames[i][0] for i in rows], np.uint16)
            bad = frames_of([frames[i][1] for i in rows])
            packed.add(*store.chunks(first + rows.start, bad, cells))
    try:
        packed.close(lambda file: file.attrs.update(filled=True))
    except (OutputError, PeerError) as error:
        return error
    return None


def dense(masks, cell, bad):
    good = unpack(masks.good[:, masks.row_of_cell[cell]]).astype(bool).reshape(-1)
    good[np.asarray(bad, int)] = False
    mask = np.where(good, 0, 0x80).astype(np.uint32).reshape(FRAME_SHAPE)
    mask[9] |= 0x200
    return mask


def check(path, masks, datasets, distinct, look_at=None):
    """Assert that the masks are right, and how many are stored."""
    places = set()
    with h5py.File(begin_partial(path)) as file:
        assert file.attrs["run"] == 50
        assert file.attrs["filled"]
        for name, frames in zip(NAMES, datasets, strict=False):
            mask = file[name]
            assert mask.shape == (len(frames), *FRAME_SHAPE)
            assert mask.dtype == np.uint32
            assert mask.attrs["axes"] == "a:b"
            for row in range(len(frames)) if look_at is None else look_at:
                np.testing.assert_array_equal(mask[row], dense(masks, *frames[row]))
            infos = [mask.id.get_chunk_info(i) for i in range(len(frames))]
            assert [info.chunk_offset[0] for info in infos] == list(range(len(frames)))
            places |= {(info.byte_offset, info.size) for info in infos}
    assert len(places) == distinct
    # besides, an entry of the index for every frame, and what every file has
    frames = sum(map(len, datasets))
    assert begin_partial(path).stat().st_size < sum(n for _, n in places) + 100 * frames + 20_000


def evenly(comm):
    return lambda n: (n * comm.rank // comm.size, n * (comm.rank + 1) // comm.size)


def only_last(comm):
    return lambda n: (0, n) if comm.rank == comm.size - 1 else (0, 0)


rng = np.random.default_rng(9)
own = [np.unique(rng.integers(0, FRAME_PIXELS, 40)) for _ in range(11)]
CASES = {
    "no frames": (3, [[]], 0),
    "no frames in one dataset": (3, [[], [(0, []), (1, [])]], 2),
    "one frame": (1, [[(7, [])]], 1),
    "cells, two with the same mask": (4, [[(i % 4, []) for i in range(13)]], 3),
    "every frame another mask": (2, [[(0, pixels) for pixels in own]], 11),
    "bad in every frame": (3, [[(i % 3, own[0]) for i in range(9)]], 2),
    "shared by two datasets": (
        3,
        [[(i % 3, own[i % 2] if i % 5 == 0 else []) for i in range(14)],
         [(i % 2, own[i % 3] if i % 4 == 0 else []) for i in range(11)]],
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "deal"), [*((name, evenly) for name in CASES), ("shared by two datasets", only_last)]
)
def test_masks(comm, shared_path, name, deal):
    rows, datasets, distinct = CASES[name]
    masks = cell_masks(rows)
    error = write(comm, shared_path / "a.h5", masks, datasets, deal(comm))
    if comm.rank == 0:
        assert error is None
        if distinct is None:
            all_frames = [frame for frames in datasets for frame in frames]
            distinct = len({dense(masks, *frame).tobytes() for frame in all_frames})
        check(shared_path / "a.h5", masks, datasets, distinct)


def test_index_of_several_levels(comm, shared_path):
    frames = [(i % 5, own[i % 7] if i % 11 == 0 else []) for i in range(5000)]
    masks = cell_masks(5)
    error = write(comm, shared_path / "a.h5", masks, [frames], evenly(comm))
    if comm.rank == 0:
        assert error is None
        look_at = np.random.default_rng(2).integers(0, 5000, 20)
        check(shared_path / "a.h5", masks, [frames], 4 + 4 * 7, [*look_at, 0, 4999])


def test_another_kind_of_index_is_refused(comm, shared_path, monkeypatch):
    monkeypatch.setattr(chunk_writer, "LIBVER", ("latest", "latest"))
    error = write(comm, shared_path / "a.h5", cell_masks(1), [[(0, []), (1, [])]], evenly(comm))
    assert "a.h5: frames cannot be written (layout message of version" in str(error)


def test_another_superblock_is_refused(comm, shared_path, monkeypatch):
    monkeypatch.setattr(parallel_hdf5, "LIBVER", ("latest", "latest"))
    error = write(comm, shared_path / "a.h5", cell_masks(1), [[(0, [])]], evenly(comm))
    assert "a.h5: frames cannot be written (superblock of another version)" in str(error)
