"""The beam of a whole run, as the files of its hits have it."""

import numpy as np

from xfelmpi.core.frame_table import differs_from_last
from xfelmpi.core.units import PLANCK_TIMES_C

_SPREAD = 0.01
"""Relative range of the wavelength in a run that is worth a warning."""


def beam_wavelength(comm, photon_energy: float | None, wavelength: np.ndarray) -> tuple[float, str]:
    """Return the wavelength of a run in m, NaN if unknown, and a warning; collective.

    Parameters
    ----------
    comm : Intracomm
    photon_energy : float or None
        In J; if given, it counts.
    wavelength : ndarray, float64 (frame,)
        Of the frames of this rank, in m; their median over all ranks is taken.
    """
    if photon_energy is not None:
        return PLANCK_TIMES_C / photon_energy, ""
    parts = comm.gather(_repeats(wavelength))
    joined = parts and map(np.concatenate, zip(*parts, strict=True))
    return comm.bcast(_median(*joined) if joined else None)


def _repeats(wavelength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the known values, each once where frames in a row share it, and for how many frames.

    All frames of a train share it: to gather and to sort these takes next to no memory.
    """
    first = np.flatnonzero(differs_from_last(wavelength))
    values, number = wavelength[first], np.diff(first, append=len(wavelength))
    known = np.isfinite(values)
    return values[known], number[known]


def _median(values: np.ndarray, number: np.ndarray) -> tuple[float, str]:
    """Return the median over frames, of which `number` have each value, and a warning."""
    if not len(values):
        return float("nan"), ""
    order = np.argsort(values)
    values, ends = values[order], np.cumsum(number[order])
    middle = np.array([ends[-1] - 1, ends[-1]]) // 2
    median = float(np.mean(values[np.searchsorted(ends, middle, side="right")]))
    spread = float(values[-1] - values[0])
    if spread <= _SPREAD * median:
        return median, ""
    percent = 100 * spread / median
    return median, f"the wavelength varies by {percent:.1f} %; Dragonfly gets the median"
