"""What passes between the stages: one row per frame, and one record per problem found."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, order=True)
class Problem:
    """Something of the run that could not be used, and what was done about it.

    A damaged train, module, chunk or file is a record, not an exception: the rest of the run is
    processed and the job ends with exit status 3.

    Parameters
    ----------
    what : str
        What was found, in one sentence.
    file : str
        Name of the file it was found in, or empty.
    module : int
        Module number, or -1 if it does not concern one module.
    train : int
        Train ID, or 0 if it does not concern one train.
    action : str
        What was done, e.g. ``train excluded`` or ``frame counts as missing in this module``.
    """

    what: str
    file: str = ""
    module: int = -1
    train: int = 0
    action: str = "excluded"


@dataclass(frozen=True)
class MachineData:
    """Per-frame values of the machine, NaN where unknown.

    Parameters
    ----------
    pulse_energy : ndarray, float64 (frame,)
        X-ray pulse energy in J.
    wavelength : ndarray, float64 (frame,)
        Photon wavelength in m.
    sample : str
        Sample name from the run's metadata, empty if none.
    notes : tuple of str
        What the log should say: which sources were used, what was missing.
    """

    pulse_energy: np.ndarray
    wavelength: np.ndarray
    sample: str = ""
    notes: tuple[str, ...] = ()
