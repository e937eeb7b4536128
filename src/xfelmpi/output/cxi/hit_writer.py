"""The CXI file as one of the output formats of hits."""

from pathlib import Path

import numpy as np

from xfelmpi.core import fault_injection
from xfelmpi.core.paths import Experiment, MergedFiles
from xfelmpi.output.cxi.writer import CxiFile
from xfelmpi.output.hit_writer import HitBlock, HitHeader, HitsToWrite, HitWriter


class CxiWriter(HitWriter):
    """Hits as the first entry of a CXI file, misses as the second."""

    takes = ("hits", "misses")
    without_hits = True

    def __init__(self, hits: HitsToWrite):
        self._comm = hits.comm
        self._path = hits.files.cxi
        about = (hits.attributes, hits.masks, hits.modules_in_run, hits.detector)
        self._file = CxiFile(hits.comm, self._path, *about)
        self._entries = {
            kind: self._file.entry(
                frames.title,
                frames.columns,
                np.dtype(np.uint16 if frames.peak > 255 else np.uint8),
            )
            for kind, frames in hits.sets.items()
        }
        self._file.begin_frames()

    @classmethod
    def paths(cls, files: Experiment | MergedFiles) -> list[Path]:
        """Return the name of the file."""
        return [files.cxi]

    def write(self, block: HitBlock) -> None:
        """Append a block of frames to their entry."""
        self._entries[block.kind].write(block.frames, block.cell_id)

    def close(self, header: HitHeader | None) -> list[Path]:
        """Write what stands once in the file, and close it."""
        fault_injection.inject(self._comm, "frames")
        self._file.close(header)
        return [self._path]
