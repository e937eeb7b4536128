"""The beam of a whole run, as the files of its hits have it."""

import numpy as np

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
    parts = comm.gather(wavelength[np.isfinite(wavelength)])
    return comm.bcast(None if parts is None else _median(np.concatenate(parts)))


def _median(known: np.ndarray) -> tuple[float, str]:
    if not len(known):
        return float("nan"), ""
    median, spread = float(np.median(known)), float(np.ptp(known))
    if spread <= _SPREAD * median:
        return median, ""
    percent = 100 * spread / median
    return median, f"the wavelength varies by {percent:.1f} %; Dragonfly gets the median"
