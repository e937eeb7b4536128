"""Files of detector modules made by hand, and what the program reads in them."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from reference import EMPTY, FS, MODULES, PIXELS, SS, module_twin

from xfelmpi._kernels._frames import Inflater
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.frame_table import FrameTable, ModuleFile
from xfelmpi.core.problems import Problem
from xfelmpi.core.sparse_frames import FrameBlock
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.detectors.pixel_bits import pack
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.reduction.sparsifier import Sparsifier
from xfelmpi.run.frames.file_pool import FilePool

DATASET = "INSTRUMENT/SPB_DET_AGIPD1M-1/CORR/3CH0:output/image/data"

LAYOUTS = {
    "contiguous": {},
    "chunk": {"chunks": (1, SS, FS)},
    "chunk of 3": {"chunks": (3, SS, FS)},
    "gzip": {"chunks": (1, SS, FS), "compression": "gzip", "compression_opts": 1},
    "shuffle": {"chunks": (1, SS, FS), "shuffle": True},
    "shuffle gzip": {"chunks": (1, SS, FS), "shuffle": True, "compression": "gzip"},
    "shuffle gzip of 4": {"chunks": (4, SS, FS), "shuffle": True, "compression": "gzip"},
    "gzip of 20": {"chunks": (20, SS, FS), "maxshape": (None, SS, FS), "compression": "gzip"},
}
"""What the facility writes, and every combination that the kernel reads by itself."""


def write_module(path: Path, values, module=3, **layout) -> ModuleFile:
    """Write frames of one module, (frame, 512, 128), as h5py would."""
    layout.setdefault("data", values)
    with h5py.File(path, "w") as file:
        file.create_dataset(DATASET, **layout)
    return ModuleFile(str(path), module, DATASET)


def write_streams(path: Path, streams: list[bytes], module=3) -> ModuleFile:
    """Write one frame of u1 for every stream, which stands in its chunk as it is."""
    shape = (len(streams), SS, FS)
    about = write_module(path, None, module, **LAYOUTS["gzip"], shape=shape, dtype="u1")
    with h5py.File(path, "r+") as file:
        for i, stream in enumerate(streams):
            file[DATASET].id.write_direct_chunk((i, 0, 0), stream)
    return about


def sparse_images(rng, n, dtype, lit=200) -> np.ndarray:
    """Return frames with some photons, at the edges too; floats have noise and negatives."""
    dtype = np.dtype(dtype)
    images = np.zeros((n, PIXELS), np.int64)
    for image in images:
        image[rng.integers(0, PIXELS, lit)] = rng.poisson(1.5, lit)
        image[[0, 7, 8, 63, 64, PIXELS - 1]] = rng.integers(0, 250, 6)
    images = images.reshape(n, SS, FS)
    if dtype.kind == "f":
        return (images + rng.normal(0, 0.2, images.shape)).astype(dtype)
    return images.astype(dtype)


def make_masks(good=None, region=None, rows=None) -> Masks:
    """Return masks of boolean images: good (16, row, 512, 128), region (16, 512, 128).

    `rows` gives the row of every cell; all use row 0 if not given.
    """
    good = np.ones((MODULES, 1, SS, FS), bool) if good is None else good
    region = np.ones((MODULES, SS, FS), bool) if region is None else region
    rows = np.zeros(352, np.int32) if rows is None else np.asarray(rows, np.int32)
    return Masks(pack(good), rows, pack(region))


def make_table(where, train=None, cell=None) -> FrameTable:
    """Return a frame table; `where` is {module: (file number, rows)}, row -1: module lacks it."""
    n = len(next(iter(where.values()))[1])
    file = np.full((n, MODULES), -1, np.int32)
    row = np.zeros((n, MODULES), np.int32)
    for module, (number, rows) in where.items():
        rows = np.asarray(rows, np.int32)
        file[:, module] = np.where(rows >= 0, number, -1)
        row[:, module] = np.maximum(rows, 0)
    train = np.full(n, 1000) if train is None else train
    cell = np.arange(n) if cell is None else cell
    train = np.asarray(train, np.uint64)
    return FrameTable.of_places(
        train, np.asarray(cell, np.uint16), np.asarray(cell, np.uint64), file, row
    )


@dataclass(frozen=True)
class Reading:
    """What reading gave."""

    block: FrameBlock
    powder: PowderSum
    problems: list[Problem]
    bytes_read: int
    n_sparse: int = 0

    def lists(self, frame) -> tuple[np.ndarray, np.ndarray]:
        """Return (pixel number in the detector, count) of one frame."""
        sparse = self.block.take(np.array([frame]))
        return sparse.pixel, sparse.count


def read(files, table, masks=None, adu=1.0, threshold=0.7, room=0, sparse_bytes=None) -> Reading:
    """Read frames as the program does, or with another limit of chunks that are never dense."""
    masks = masks or make_masks()
    pool = FilePool(tuple(files))
    powder = PowderSum.zeros(masks.good.shape[1], AGIPD_1M)
    inflater = None if sparse_bytes is None else Inflater(sparse_bytes)
    sparsifier = Sparsifier(pool, masks, adu, threshold, room, inflater=inflater)
    try:
        block = sparsifier.frames(table, powder)
    finally:
        pool.close()
    n_sparse = sparsifier.n_sparse
    return Reading(block, powder, sparsifier.problems, sparsifier.bytes_read, n_sparse)


def assert_reads(about: ModuleFile, values, rows=None, adu=1.0, threshold=0.7) -> Reading:
    """Assert that the program reads one module's frames like the twin; returns what it read."""
    rows = np.arange(len(values)) if rows is None else np.asarray(rows)
    reading = read([about], make_table({about.module: (0, rows)}), adu=adu, threshold=threshold)
    everywhere = np.ones((SS, FS), bool)
    twin = module_twin(
        values[rows],
        np.broadcast_to(everywhere, (len(rows), SS, FS)),
        everywhere,
        adu,
        threshold,
    )
    assert reading.problems == []
    assert_same_as_twin(reading, about.module, twin)
    return reading


def assert_same_as_twin(reading: Reading, module: int, twin) -> None:
    """Assert that frames of a single module were read like the twin."""
    sums = reading.block.sums
    for name in (*EMPTY, "entries"):
        assert getattr(sums, name).tolist() == getattr(twin, name), name
    assert (sums.modules == 1 << module).all()
    for i, (pixel, count) in enumerate(zip(twin.pixel, twin.count, strict=True)):
        found_pixel, found_count = reading.lists(i)
        assert np.array_equal(found_pixel, pixel + module * PIXELS)
        assert np.array_equal(found_count, count)
    for found, expected in (
        (reading.powder.photons, twin.powder),
        (reading.powder.invalid, twin.invalid),
    ):
        assert np.array_equal(found[module], expected)
        assert not np.delete(found, module, axis=0).any()
