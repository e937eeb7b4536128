"""The CXI file as one of the output formats of hits."""

from pathlib import Path

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.core import fault_injection
from xfelmpi.core.config.parts import OutputSettings
from xfelmpi.core.errors import InputError
from xfelmpi.core.paths import Experiment, MergedFiles
from xfelmpi.output.beam import beam_wavelength
from xfelmpi.output.cxi.profile_writer import rings_of
from xfelmpi.output.cxi.writer import CxiFile
from xfelmpi.output.hit_writer import HitBlock, HitHeader, HitsToWrite, HitWriter


def _check_rings(geometry: DetectorGeometry, wavelength: float) -> None:
    distance, there = np.isfinite(geometry.distance), np.isfinite(wavelength)
    if not (distance and there):
        what = "wavelength" if distance else "distance"
        option = "--photon-energy" if distance else "--distance"
        raise InputError(f"--profiles: the {what} is unknown; give {option}")


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
        if hits.settings.profiles:
            rings = rings_of(hits)
            for kind, frames in hits.sets.items():
                self._entries[kind].write_profiles(frames, rings)
        self._file.begin_frames()

    @classmethod
    def check(
        cls,
        comm,
        settings: OutputSettings,
        geometry: DetectorGeometry | None,
        wavelength: np.ndarray,
    ) -> tuple[str, ...]:
        """Check that the rings of profiles are known; see `HitWriter.check`.

        Raises
        ------
        InputError
            If profiles are asked for, and the distance or the wavelength is unknown.
        """
        if settings.profiles:
            median, _ = beam_wavelength(comm, settings.photon_energy, wavelength)
            mpi.run_on_root(comm, lambda: _check_rings(geometry, median))
        return ()

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
