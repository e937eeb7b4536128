"""How bright each hit is, for Dragonfly's classification in 2-D.

Dragonfly can fit the scale of each frame, but normalises its mean in 3-D only (``recon.pyx``,
``normalize_scale``): in 2-D, scales and averages drift apart until all frames are in one class.
"""

from pathlib import Path

import h5py
import numpy as np

from xfelmpi.output.dragonfly.detector import USE
from xfelmpi.output.emc import EmcFile

_FEWEST = 1.0
"""Photons: a scale of zero or less has no meaning."""


def fixed_scale(emc: Path, detector: Path, *, background: bool) -> np.ndarray:
    """Return the photons of every hit on the pixels in use over their mean, float64 (hit,).

    Parameters
    ----------
    emc, detector : Path
        Dragonfly's photons and detector file.
    background : bool
        Whether the background is part of Dragonfly's model: what is expected of it in each hit is
        then taken off, if the detector file has one.

    Raises
    ------
    OSError, ValueError
        If a file cannot be read.
    """
    with h5py.File(detector) as file:
        use = file["mask"][()] == USE
        photons = EmcFile(emc).photons(use).astype(np.float64)
        if background and "background" in file:
            photons -= file["scale"][()] * file["background"][()][use].sum()
    photons = np.maximum(photons, _FEWEST)
    return photons / photons.mean()
