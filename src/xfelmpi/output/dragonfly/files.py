"""The files for Dragonfly, written with the hits by all ranks: EMC, detector file, folder."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.core.config.options import Config
from xfelmpi.core.errors import UsageError
from xfelmpi.core.log import log, size_text
from xfelmpi.core.paths import Experiment, MergedFiles
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.core.units import PLANCK_TIMES_C
from xfelmpi.detectors.agipd import FRAME_SHAPE
from xfelmpi.io.parallel_hdf5 import check_writable
from xfelmpi.output.dragonfly.binning import bin_frames, n_blocks
from xfelmpi.output.dragonfly.detector import make_detector
from xfelmpi.output.dragonfly.folder import write_detector, write_folder
from xfelmpi.output.emc import EmcWriter

_SPREAD = 0.01
"""Relative range of the wavelength in a run that is worth a warning."""

_THREADS, _MUCH_MEMORY = 4, 32 << 30


def beam_wavelength(comm, config: Config, wavelength: np.ndarray) -> tuple[float, str]:
    """Return the wavelength of the detector file in m, NaN if unknown, and a warning; collective.

    Parameters
    ----------
    comm : Intracomm
    config : Config
        ``photon_energy`` comes first.
    wavelength : ndarray, float64 (frame,)
        Of the frames of this rank, in m; their median over all ranks is taken.
    """
    known = mpi.allgather_concat(comm, wavelength[np.isfinite(wavelength)])
    if config.photon_energy is not None:
        return PLANCK_TIMES_C / config.photon_energy, ""
    if not len(known):
        return float("nan"), ""
    median, spread = float(np.median(known)), float(np.ptp(known))
    if spread <= _SPREAD * median:
        return median, ""
    percent = 100 * spread / median
    return median, f"the wavelength varies by {percent:.1f} %; Dragonfly gets the median"


def check_before(
    comm, config: Config, geometry: DetectorGeometry | None, wavelength: np.ndarray
) -> tuple[str, ...]:
    """Check, before the frames are read, that the detector file can be made; collective.

    Parameters
    ----------
    comm : Intracomm
    config : Config
    geometry : DetectorGeometry or None
        On rank 0.
    wavelength : ndarray, float64 (frame,)
        As in `beam_wavelength`.

    Returns
    -------
    tuple of str
        Warnings, on rank 0.

    Raises
    ------
    InputError, UsageError, OutputError
        On all ranks, if options ask for what cannot be made.
    """
    middle, warning = beam_wavelength(comm, config, wavelength)
    mpi.run_on_root(comm, lambda: _check_options(config, geometry, middle))
    if comm.rank:
        return ()
    if np.isnan(geometry.distance):
        return ("no detector file for Dragonfly, because the distance is unknown",)
    return (warning,) if warning else ()


def _check_options(config: Config, geometry: DetectorGeometry, wavelength: float) -> None:
    """Check that a folder can be written and a detector be made, as far as asked for; one rank."""
    if config.dragonfly is not None:
        check_writable(config.dragonfly / "config.ini")
    asked = config.dragonfly or config.roi_qmax or config.ewald_rad
    if asked and not make_detector(config, geometry, wavelength).n_used:
        value, unit = config.roi_qmax
        raise UsageError(f"--roi-qmax {value:g}{unit or ' voxels'}: no pixel is within")


class DragonflyFiles:
    """EMC and detector file, fed block by block; every method is collective.

    Parameters
    ----------
    comm : Intracomm
    config : Config
    files : Experiment or MergedFiles
        Says where the files lie.
    ones, multi : ndarray, int64 (hit,)
        Pixels with one and with more photons in the hits of this rank.
    read_hits : callable
        Returns an iterator over blocks of these hits; to count them when pixels are summed, because
        the EMC file wants to know the numbers first.
    usable : ndarray, bool (1048576,), or None
        See `usable_pixels`; needed only when pixels are summed.
    """

    def __init__(
        self,
        comm,
        config: Config,
        files: Experiment | MergedFiles,
        ones: np.ndarray,
        multi: np.ndarray,
        read_hits: Callable[[], Iterator[SparseFrames]],
        usable: np.ndarray | None,
    ):
        self._comm = comm
        self._config = config
        self._files = files
        self._usable = usable
        self._n = config.bin
        if self._n > 1:
            with mpi.fail_together(comm):
                ones, multi = self._count(read_hits())
        self._emc = EmcWriter(comm, files.emc, ones, multi, n_blocks(self._n))

    def _count(self, blocks: Iterator[SparseFrames]) -> tuple[np.ndarray, np.ndarray]:
        ones, multi = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for block in blocks:
            binned = bin_frames(block, self._n, self._usable)
            frame = np.repeat(np.arange(len(block)), np.diff(binned.indptr))
            ones.append(np.bincount(frame[binned.count == 1], minlength=len(block)))
            multi.append(np.bincount(frame[binned.count > 1], minlength=len(block)))
        return np.concatenate(ones), np.concatenate(multi)

    def write(self, hits: SparseFrames) -> None:
        """Append a block of this rank's hits, possibly none."""
        if self._n > 1:
            hits = bin_frames(hits, self._n, self._usable)
        self._emc.write(hits)

    def close(
        self,
        attributes: dict,
        geometry: DetectorGeometry | None,
        wavelength: float,
        usable: np.ndarray | None,
    ) -> list[Path]:
        """Close the EMC file and write the detector file, if the distance is known.

        Parameters
        ----------
        attributes : dict
            Root attributes of the detector file.
        geometry : DetectorGeometry or None
            On rank 0.
        wavelength : float
            In m, NaN if unknown.
        usable : ndarray, bool (1048576,), or None
            See `usable_pixels`; on rank 0.

        Returns
        -------
        list of Path
            What was written, still under temporary names.
        """
        self._emc.close()
        written = mpi.bcast_from_root(
            self._comm, lambda: self._write_detector(attributes, geometry, wavelength, usable)
        )
        return [self._files.emc, *written]

    def _write_detector(self, attributes, geometry, wavelength: float, usable) -> list[Path]:
        if np.isnan(geometry.distance):
            return []
        usable = usable.reshape(FRAME_SHAPE)
        detector = make_detector(self._config, geometry, wavelength, usable)
        path = self._files.dragonfly_detector
        write_detector(path, attributes, detector)
        edge, memory = detector.volume_edge, detector.memory(_THREADS)
        text = (
            f"Dragonfly: {detector.n_used:,} of {len(detector.mask):,} pixels, {edge}³ voxels, "
            f"about {size_text(memory)} in {_THREADS} threads"
        )
        if not detector.n_used:
            log.warning(f"{text}; no pixel is good in enough of the hits, see --max-bad")
        elif memory > _MUCH_MEMORY:
            # of no concern to somebody who has not asked for Dragonfly
            level = logging.WARNING if self._config.dragonfly else logging.INFO
            log.log(level, f"{text}; --bin and --roi-qmax make this smaller")
        else:
            log.info(text)
        return [path]


def make_folder(config: Config, files: Experiment | MergedFiles, written: list[Path]) -> None:
    """Make the folder to start Dragonfly in, if wanted, once the files have their names; one rank.

    Without hits there is nothing to start with.
    """
    if config.dragonfly is None:
        return
    if files.emc not in written:
        log.warning(f"no hits: {config.dragonfly} is not ready for Dragonfly")
        return
    log.info(write_folder(config.dragonfly, files.emc, files.dragonfly_detector))
