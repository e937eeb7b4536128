"""The hits of a CXI file, given to the analyses as the main job gives them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xfelmpi.analysis.hit_analysis import AnalysedHits, AnalysedRun
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.config.parts import AnalysisSettings
from xfelmpi.core.units import PLANCK_TIMES_C
from xfelmpi.mpi import alone
from xfelmpi.output.beam import beam_wavelength
from xfelmpi.output.cxi.hit_stream import stream_hits
from xfelmpi.output.cxi.reader import FinishedHits
from xfelmpi.output.hit_columns import DETECTOR, SOURCE


def median_wavelength(photon_energy: float | None, of_frames: np.ndarray) -> float:
    """Return the wavelength in m, NaN if unknown; of all frames of a run, by one rank alone.

    Parameters
    ----------
    photon_energy : float or None
        In J; if given, it counts.
    of_frames : ndarray, float64 (frame,)
        In m, NaN where unknown.
    """
    return beam_wavelength(alone(), photon_energy, of_frames)[0]


def run_of_file(settings: AnalysisSettings, found: FinishedHits, wavelength: float) -> AnalysedRun:
    """Return what the hits of a CXI file have in common.

    Parameters
    ----------
    settings : AnalysisSettings
    found : FinishedHits
    wavelength : float
        In m.
    """
    detector = found.geometry.detector
    # pixels of absent modules are bad in every hit, as others are
    return AnalysedRun(
        settings,
        found.geometry,
        wavelength,
        found.background.reshape(-1),
        Masks.all_good(detector),
        (1 << detector.n_modules) - 1,
    )


def hits_of_file(
    photon_energy: float | None, path: Path, found: FinishedHits, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, AnalysedHits]]:
    """Yield hits of a CXI file in blocks, with their positions.

    Parameters
    ----------
    photon_energy : float or None
        In J; if given, it counts.
    path : Path
    found : FinishedHits
        Of this file.
    rows : ndarray, int64 (hit,)
        Which hits, ascending.
    """
    weighting = found.columns[f"{DETECTOR}/background_weighting"].values
    wavelength = found.columns[f"{SOURCE}/photon_wavelength"].values
    if photon_energy is not None:
        wavelength = np.full(len(wavelength), PLANCK_TIMES_C / photon_energy)
    done = 0
    for frames in stream_hits([path], np.zeros(len(rows), np.int64), rows):
        part = rows[done : done + len(frames)]
        done += len(frames)
        cells = np.zeros(len(frames), np.int64)
        yield part, AnalysedHits(frames, cells, weighting[part], wavelength[part])
