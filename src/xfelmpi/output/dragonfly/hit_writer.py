"""The files for Dragonfly, written with the hits by all ranks: EMC, detector file, folder."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.core import fault_injection
from xfelmpi.core.config.parts import OutputSettings
from xfelmpi.core.errors import UsageError
from xfelmpi.core.log import log, size_text
from xfelmpi.core.paths import Experiment, MergedFiles
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.output.beam import beam_wavelength
from xfelmpi.output.cxi.reader import read_hit_columns
from xfelmpi.output.dragonfly.binning import bin_frames, n_blocks
from xfelmpi.output.dragonfly.detector import (
    background_of_blocks,
    make_detector,
    usable_pixels,
)
from xfelmpi.output.dragonfly.folder import (
    check_folder,
    uses_background,
    write_detector,
    write_folder,
)
from xfelmpi.output.dragonfly.hit_list import HitList
from xfelmpi.output.dragonfly.scale import fixed_scale
from xfelmpi.output.dragonfly.settings import background_config, class_config, volume_config
from xfelmpi.output.emc import EmcWriter
from xfelmpi.output.hit_writer import HitBlock, HitHeader, HitsToWrite, HitWriter

_THREADS, _MUCH_MEMORY = 4, 32 << 30
"""Of Dragonfly, for the log; with more bytes there is a warning."""


def _check_options(settings: OutputSettings, geometry: DetectorGeometry, wavelength: float) -> None:
    """Check that a folder can be written and a detector be made, as far as asked for; one rank."""
    if settings.dragonfly is not None:
        check_folder(settings.dragonfly, settings.recon)
    asked = settings.dragonfly or settings.roi_qmax or settings.ewald_rad
    if asked and not make_detector(settings, geometry, wavelength).n_used:
        value, unit = settings.roi_qmax
        raise UsageError(f"--roi-qmax {value:g}{unit or ' voxels'}: no pixel is within")


def _radius(path: Path) -> float:
    """Return the largest |q| of a detector file in voxels."""
    with h5py.File(path) as file:
        return float(np.sqrt(sum(file[name][()] ** 2 for name in ("qx", "qy", "qz")).max()))


def _has_background(path: Path) -> bool:
    """Return whether a detector file has a background, which merged hits of several runs lack."""
    with h5py.File(path) as file:
        return "background" in file


class DragonflyWriter(HitWriter):
    """EMC and detector file, and the folder to start Dragonfly in."""

    def __init__(self, hits: HitsToWrite):
        self._hits = hits
        self._n = hits.settings.bin
        own = hits.sets["hits"]
        ones, multi = own.ones, own.multi
        if self._n > 1:
            # which photons are summed depends on how often each pixel is good, and the EMC file
            # wants to know the numbers first
            self._usable = hits.comm.bcast(self._usable_pixels(hits.good_in_hits()))
            with mpi.fail_together(hits.comm):
                ones, multi = self._count(own.read())
        num_pix = n_blocks(hits.detector.frame_pixels, self._n)
        self._emc = EmcWriter(hits.comm, hits.files.emc, ones, multi, num_pix)

    @classmethod
    def paths(cls, files: Experiment | MergedFiles) -> list[Path]:
        """Return the names of the EMC file and of the detector file."""
        return [files.emc, files.dragonfly_detector]

    @classmethod
    def check(
        cls,
        comm,
        settings: OutputSettings,
        geometry: DetectorGeometry | None,
        wavelength: np.ndarray,
    ) -> tuple[str, ...]:
        """Check that the detector file can be made, and the folder; see `HitWriter.check`.

        Raises
        ------
        InputError, UsageError, OutputError
            On all ranks, if options ask for what cannot be made.
        """
        middle, warning = beam_wavelength(comm, settings.photon_energy, wavelength)
        mpi.run_on_root(comm, lambda: _check_options(settings, geometry, middle))
        if comm.rank:
            return ()
        if np.isnan(geometry.distance):
            return ("no detector file for Dragonfly, because the distance is unknown",)
        return (warning,) if warning else ()

    def _usable_pixels(self, good_in_hits: np.ndarray | None) -> np.ndarray | None:
        """Return the pixels that Dragonfly may use, bool (module, ss, fs); rank 0."""
        if good_in_hits is None:
            return None
        n_hits = self._hits.sets["hits"].n_frames
        good_in_hits = good_in_hits.reshape(self._hits.detector.frame_shape)
        return usable_pixels(good_in_hits, n_hits, self._hits.settings.max_bad)

    def _count(self, blocks: Iterator[SparseFrames]) -> tuple[np.ndarray, np.ndarray]:
        ones, multi = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for block in blocks:
            binned = bin_frames(block, self._n, self._usable)
            for parts, own in zip((ones, multi), binned.ones_and_multi(), strict=True):
                parts.append(own)
        return np.concatenate(ones), np.concatenate(multi)

    def write(self, block: HitBlock) -> None:
        """Append a block of this rank's hits, possibly none."""
        hits = block.frames
        if self._n > 1:
            hits = bin_frames(hits, self._n, self._usable)
        self._emc.write(hits)

    def close(self, header: HitHeader | None) -> list[Path]:
        """Close the EMC file and write the detector file, if the distance is known."""
        fault_injection.inject(self._hits.comm, "detector")
        self._emc.close()
        own = self._hits.sets["hits"].column("background_weighting")
        weighting = mpi.allgather_concat(self._hits.comm, own)
        written = mpi.bcast_from_root(
            self._hits.comm, lambda: self._write_detector(header, weighting)
        )
        return [self._hits.files.emc, *written]

    @classmethod
    def published(
        cls, settings: OutputSettings, files: Experiment | MergedFiles, written: list[Path]
    ) -> None:
        """Make the folder to start Dragonfly in, if wanted; without hits there is nothing to do."""
        if settings.dragonfly is None:
            return
        if settings.where and isinstance(files, Experiment):
            # it starts with the selection, which is merged hits
            return
        if files.emc not in written:
            log.warning(f"no hits: {settings.dragonfly} is not ready for Dragonfly")
            return
        columns = read_hit_columns(files.cxi)
        train, cell = (columns[name].values for name in ("trainId", "cellId"))
        run = columns["run"].values if "run" in columns else np.full(len(train), files.run)
        detector = files.dragonfly_detector
        text, more = volume_config, background_config if _has_background(detector) else None
        background = more is not None
        if settings.recon == "2d":
            text = partial(class_config, n_hits=len(train), radius=_radius(detector))
            background, more = uses_background(settings.dragonfly), None
        scale = fixed_scale(files.emc, detector, background=background)
        hits = HitList.of(run, train, cell, files.emc)
        done = write_folder(settings.dragonfly, files.emc, detector, text, hits, scale, more)
        log.info(done)

    def _write_detector(self, header: HitHeader, weighting: np.ndarray) -> list[Path]:
        hits, settings = self._hits, self._hits.settings
        if np.isnan(hits.geometry.distance):
            return []
        usable = self._usable_pixels(header.good_in_hits)
        detector = make_detector(settings, hits.geometry, hits.wavelength, usable)
        # those of several runs would be several, of which Dragonfly would take one
        ground = header.background.reshape(-1, *hits.detector.frame_shape)
        if len(ground) == 1:
            background = background_of_blocks(ground[0], usable, self._n)
            detector = replace(detector, background=background, weighting=weighting)
        path = hits.files.dragonfly_detector
        write_detector(path, hits.attributes, detector)
        edge, memory = detector.volume_edge, detector.memory(_THREADS)
        text = (
            f"Dragonfly: {detector.n_used:,} of {len(detector.mask):,} pixels, {edge}³ voxels, "
            f"about {size_text(memory)} in {_THREADS} threads"
        )
        if not detector.n_used:
            log.warning(f"{text}; no pixel is good in enough of the hits, see --max-bad")
        elif memory > _MUCH_MEMORY:
            # of no concern to somebody who has not asked for Dragonfly
            level = logging.WARNING if settings.dragonfly else logging.INFO
            log.log(level, f"{text}; --bin and --roi-qmax make this smaller")
        else:
            log.info(text)
        return [path]
