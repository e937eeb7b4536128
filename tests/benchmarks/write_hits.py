"""Writing hits, against zlib alone: CXI and EMC of 2000 hits with 20 000 photons each.

    python tests/benchmarks/write_hits.py FOLDER [HITS REPEATS]

Shows rows of the table: CPU time of writing made-up hits into FOLDER as CXI and EMC over that of
zlib level 1 for the same dense frames, in one process; median (of 5) of the ratio. Once with one
mask for all cells, once with 352 different ones, 3 % bad, which cost the same for any number of
hits.
"""

import sys
import zlib
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
from bench import row
from mpi4py import MPI

from xfelmpi.calibration.geometry import load_geometry
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.event_table import EventColumns
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.agipd import AGIPD_1M, MAX_CELLS, N_MODULES
from xfelmpi.output.cxi.writer import CxiFile
from xfelmpi.output.emc import EmcWriter
from xfelmpi.output.hit_columns import hit_columns
from xfelmpi.output.hit_writer import HitHeader
from xfelmpi.reduction.frame_reader import HitReader

PHOTONS = 20_000
KINDS = 100
"""Different hits, which take turns."""


def made_up_hits() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pixels and counts of hits whose photons fall off from the middle of the modules."""
    rng = np.random.default_rng(1)
    weight = np.exp(-np.abs(np.arange(AGIPD_1M.frame_pixels) % 65536 - 32768) / 8000.0)
    hits = []
    for _ in range(KINDS):
        pixels = rng.choice(AGIPD_1M.frame_pixels, PHOTONS, p=weight / weight.sum())
        pixel, count = np.unique(pixels, return_counts=True)
        hits.append((pixel.astype(np.uint32), count.astype(np.uint16)))
    return hits


def columns(hits) -> EventColumns:
    """Return the rows of the events file that the CXI file shows."""
    n = len(hits)
    dtypes = ["u8", "u8", "u2", "u4", "u8", "f4", "?", "?", *["f4"] * 4, "f8", "f8", "u2", "u1"]
    values = [np.ones(n, dtype) for dtype in dtypes]
    values[0], values[2] = np.arange(n, dtype="u8"), (np.arange(n) % MAX_CELLS).astype("u2")
    return EventColumns(*values)


def make_masks(n_cells: int) -> Masks:
    """Return masks of which 3 % are bad, one for every cell, or one for all."""
    bits = np.random.default_rng(2).integers(
        0, 256, (5, N_MODULES, n_cells, AGIPD_1M.module_bytes), "u1"
    )
    good = ~np.bitwise_and.reduce(bits, axis=0)
    row = np.arange(MAX_CELLS, dtype="i4") % n_cells
    return Masks(good, row, np.zeros((N_MODULES, AGIPD_1M.module_bytes), "u1"))


def write(folder: Path, hits, header: HitHeader, masks: Masks) -> float:
    """Write the hits as the main job does; return the CPU time."""
    comm = MPI.COMM_SELF
    frames = columns(hits)
    about = {"command_line": "", "program_version": "", "creation_date": ""}
    start = process_time()
    cxi = CxiFile(comm, folder / "hits.cxi", about, masks, 0xFFFF, AGIPD_1M)
    n = np.arange(len(hits), dtype="u8")
    values = hit_columns("p000000_r0001", frames, n, n.astype("f8"), AGIPD_1M)
    entry = cxi.entry("hits", values, np.dtype("u1"))
    cxi.begin_frames()
    ones = np.array([(count == 1).sum() for _, count in hits])
    multi = np.array([len(count) for _, count in hits]) - ones
    emc = EmcWriter(comm, folder / "hits.emc", ones, multi, AGIPD_1M.frame_pixels)
    for a in range(0, len(hits), HitReader.BLOCK_FRAMES):
        block = hits[a : a + HitReader.BLOCK_FRAMES]
        sparse = SparseFrames(
            np.cumsum([0, *(len(p) for p, _ in block)]).astype(np.int64),
            np.concatenate([p for p, _ in block]),
            np.concatenate([c for _, c in block]),
        )
        entry.write(sparse, frames.cellId[a : a + len(block)])
        emc.write(sparse)
    emc.close()
    cxi.close(header)
    return process_time() - start


def compress(hits) -> float:
    """Return the CPU time of zlib level 1 for the dense frames."""
    spent = 0.0
    for pixel, count in hits:
        frame = np.zeros(AGIPD_1M.frame_pixels, np.uint8)
        frame[pixel] = count
        data = frame.tobytes()
        start = process_time()
        zlib.compress(data, 1)
        spent += process_time() - start
    return spent


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    n_hits, repeats = map(int, sys.argv[2:] or (2000, 5))
    kinds = made_up_hits()
    hits = [kinds[i % KINDS] for i in range(n_hits)]
    geometry, _ = load_geometry(None, AGIPD_1M, None)
    frame = np.zeros((16, 512, 128))
    header = HitHeader("", "", "", "SPB", geometry, frame > 0, frame.astype("u8"), frame)
    for n_cells, target in ((1, "≤ 1.3"), (MAX_CELLS, "")):
        masks = make_masks(n_cells)
        ratio = median(write(folder, hits, header, masks) / compress(hits) for _ in range(repeats))
        row(f"CXI, EMC of {n_hits} hits, {n_cells} masks / zlib level 1 alone", ratio, target)


if __name__ == "__main__":
    main()
