"""The frames of finished files with further bad pixels: which are whose, their sums."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.mask_files import MaskFile
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.config.options import Config
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.module_bits import modules_of
from xfelmpi.detectors.pixel_bits import unpack
from xfelmpi.output.cxi.hit_stream import stream_masked
from xfelmpi.output.hit_writer import FrameColumn
from xfelmpi.workflows.patch.finished_set import ENTRIES, FinishedSet


@dataclass(frozen=True)
class SetFacts:
    """What all ranks must know of a set.

    Parameters
    ----------
    config, detector, bad, cell_mask, cells, analyses
        As in `FinishedSet`.
    proposal : str
        E.g. ``p007927``; empty if the files do not say it.
    modules : int
        Bit m set: module m is there.
    titles : dict of (str, int)
        Title and number of frames of every entry, by ``hits`` and ``misses``.
    columns : dict of list of (str, dict)
        Path below the entry and attributes of every column, likewise.
    has_classes : bool
        Columns of classes are to be added.
    merged : bool
        The hits are of several runs.
    """

    config: Config
    proposal: str
    detector: Detector
    modules: int
    bad: np.ndarray
    cell_mask: MaskFile | None
    cells: np.ndarray
    titles: dict[str, tuple[str, int]]
    columns: dict[str, list[tuple[str, dict]]]
    analyses: tuple[str, ...]
    has_classes: bool
    merged: bool


def facts_of(finished: FinishedSet) -> SetFacts:
    """Return what all ranks must know of a set; one rank."""
    entries = finished.entries.items()
    return SetFacts(
        config=finished.config,
        proposal=str(finished.attributes.get("proposal", "")),
        detector=finished.detector,
        modules=finished.modules,
        bad=finished.bad,
        cell_mask=finished.cell_mask,
        cells=finished.cells,
        titles={k: (title, len(columns["trainId"].values)) for k, (title, columns) in entries},
        columns={k: [(p, c.attributes) for p, c in cols.items()] for k, (_, cols) in entries},
        analyses=finished.analyses,
        has_classes=bool(finished.classes),
        merged=finished.run is None,
    )


def good_frames(facts: SetFacts, n_frames: int, bad: np.ndarray) -> np.ndarray:
    """Return in how many frames every pixel is good, int64 (pixel,)."""
    detector = facts.detector
    there = np.repeat(modules_of(facts.modules, detector.n_modules), detector.module_pixels)
    return np.where(there, n_frames - bad, 0)


class PatchedFrames:
    """The frames of one kind that this rank writes: a part of them, in order.

    Parameters
    ----------
    comm : Intracomm
    path : Path
        Of the CXI file.
    facts : SetFacts
    kind : str
        ``hits`` or ``misses``.
    finished : FinishedSet or None
        On rank 0.
    masks : Masks or None
        Of a new mask per cell.

    Attributes
    ----------
    title : str
    n_frames : int
        Of all ranks.
    rows : range
        Which of them are those of this rank.
    columns : list of FrameColumn
        Of these.
    """

    def __init__(
        self,
        comm,
        path: Path,
        facts: SetFacts,
        kind: str,
        finished: FinishedSet | None,
        masks: Masks | None,
    ):
        self.title, self.n_frames = facts.titles[kind]
        bounds = self.n_frames * np.arange(comm.size + 1) // comm.size
        self.rows = range(int(bounds[comm.rank]), int(bounds[comm.rank + 1]))
        self._path, self._entry, self._bad = path, ENTRIES[kind], facts.bad
        columns = finished.entries[kind][1] if finished else None
        self.columns = [
            FrameColumn(
                name, mpi.scatter_rows(comm, columns and columns[name].values, bounds), attributes
            )
            for name, attributes in facts.columns[kind]
        ]
        self._masks = masks
        self._cells = next(c.values for c in self.columns if c.path == "cellId")

    def stream(self) -> Iterator[SparseFrames]:
        """Yield the frames in blocks, newly bad pixels left out."""
        return stream_masked(self._path, self._entry, self.rows, self._bad_in)

    def _bad_in(self, row: int) -> np.ndarray:
        if self._masks is None:
            return self._bad
        cell = self._cells[row - self.rows.start]
        good = unpack(self._masks.good[:, self._masks.row_of_cell[cell]]).reshape(-1)
        return self._bad | (good == 0)


class FrameTally:
    """Sums over the pixels of a rank's frames, and over the frames of every pixel.

    Parameters
    ----------
    frames : PatchedFrames
        Are read here.
    detector : Detector

    Attributes
    ----------
    lit, photons, ones, peak : ndarray, int64 (frame,)
        As in `FrameSums`.
    bad, of_pixel : ndarray, int64 (pixel,)
        In how many frames a pixel is bad, and its photons in all of them.
    """

    def __init__(self, frames: PatchedFrames, detector: Detector):
        sums, n_pixels = [np.empty((4, 0), np.int64)], detector.frame_pixels
        self.bad, self.of_pixel = (np.zeros(n_pixels, np.int64) for _ in range(2))
        for block in frames.stream():
            n, frame = len(block), block.frame_of_entry
            peak = np.zeros(n, np.int64)
            np.maximum.at(peak, frame, block.count)
            ones, multi = block.ones_and_multi()
            photons = np.bincount(frame, block.count.astype(np.float64), n).astype(np.int64)
            sums.append(np.stack([ones + multi, photons, ones, peak]))
            self.bad += np.bincount(block.pixel[block.count == 0], minlength=n_pixels)
            self.of_pixel += np.bincount(block.pixel, block.count, n_pixels).astype(np.int64)
        self.lit, self.photons, self.ones, self.peak = np.concatenate(sums, axis=1)

    def gathered(self, comm) -> dict[str, np.ndarray]:
        """Return the sums of all frames, int64 (frame,), by the names in the events file."""
        names = {"litpixels": self.lit, "photons": self.photons}
        names |= {"sums/ones": self.ones, "sums/peak": self.peak}
        return {name: mpi.allgather_concat(comm, values) for name, values in names.items()}
