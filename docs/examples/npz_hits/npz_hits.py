"""Hits as COO arrays in one NPZ file: frame, pixel and count of every pixel with photons."""

from pathlib import Path

import numpy as np

from xfelmpi import mpi
from xfelmpi.io.partial_file import begin_partial, create_new
from xfelmpi.output.hit_writer import HitBlock, HitHeader, HitsToWrite, HitWriter

COLUMNS = ("trainId", "cellId", "pulse_energy", "hit_score")


class NpzWriter(HitWriter):
    """``npz/rRRRR_hits.npz``. Every rank keeps its photons in memory; rank 0 writes them."""

    @classmethod
    def paths(cls, files) -> list[Path]:
        """Return the name of the file."""
        return [files.hit_file("npz", "_hits.npz")]

    def __init__(self, hits: HitsToWrite):
        own = hits.sets["hits"]
        self._comm = hits.comm
        (self._path,) = self.paths(hits.files)
        # the number of this rank's first hit among those of all ranks
        self._first, _ = mpi.exscan_and_total(hits.comm, len(own.cell_id))
        self._arrays = {name: [own.column(name)] for name in COLUMNS}
        self._arrays |= {
            "frame": [np.empty(0, np.int64)],
            "pixel": [np.empty(0, np.uint32)],
            "count": [np.empty(0, np.uint16)],
        }

    def write(self, block: HitBlock) -> None:
        """Keep the photons of a block; count 0 marks a pixel that is bad in this frame only."""
        frames = block.frames
        number = np.repeat(np.arange(len(frames)), np.diff(frames.indptr))
        lit = frames.count > 0
        self._arrays["frame"].append(self._first + block.rows.start + number[lit])
        self._arrays["pixel"].append(frames.pixel[lit])
        self._arrays["count"].append(frames.count[lit])

    def close(self, header: HitHeader | None) -> list[Path]:
        """Write the file, still under its temporary name."""
        own = {name: np.concatenate(parts) for name, parts in self._arrays.items()}
        of_ranks = mpi.gather_objects(self._comm, [own])
        mpi.run_on_root(self._comm, lambda: self._save(of_ranks))
        return [self._path]

    def _save(self, of_ranks: list[dict[str, np.ndarray]]) -> None:
        arrays = {n: np.concatenate([own[n] for own in of_ranks]) for n in of_ranks[0]}
        with open(create_new(begin_partial(self._path)), "wb") as file:
            np.savez(file, **arrays)
