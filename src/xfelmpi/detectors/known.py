"""All detectors that are known, and how the facility's files tell which one they are of."""

import re
from functools import lru_cache

from xfelmpi.detectors.agipd import AGIPD_1M, AGIPD_500K
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.dssc import DSSC_1M
from xfelmpi.detectors.jungfrau import JUNGFRAU_4M
from xfelmpi.detectors.lpd import LPD_1M

DETECTORS = (AGIPD_1M, AGIPD_500K, DSSC_1M, LPD_1M, JUNGFRAU_4M)
"""In the order in which they are chosen where a run has several."""

DEVICES = {
    "AGIPD-1M": "SPB_DET_AGIPD1M-1",
    "AGIPD-500K": "HED_DET_AGIPD500K2G",
    "DSSC-1M": "SCS_DET_DSSC1M-1",
    "LPD-1M": "FXE_DET_LPD1M-1",
    "JUNGFRAU-4M": "SPB_IRDA_JF4M",
}
"""The facility's name of a detector of every kind, for simulated runs."""

MAX_CELLS = max(detector.max_cells for detector in DETECTORS)
"""Most memory cells of any of them."""

MAX_MODULES = max(detector.n_modules for detector in DETECTORS)
"""Most modules of any of them."""

_FIRST_MODULE = {detector.file_name: detector.first_module for detector in DETECTORS}

MODULE_NAMES = "|".join(sorted({detector.file_name for detector in DETECTORS}))
"""Regular expression of the starts of the modules' names in names of files."""

MODULE_FILE = re.compile(
    rf"(?P<kind>RAW|CORR)-R\d{{4,}}-(?P<detector>{MODULE_NAMES})(?P<module>\d\d)"
    r"-S(?P<sequence>\d{5,})\.h5"
)
"""Names of the files of detector modules."""


def detectors_of(device: str | None) -> tuple[Detector, ...]:
    """Return the detectors that may have a name of the facility's: one, or all without a name.

    Parameters
    ----------
    device : str or None
        E.g. ``SPB_DET_AGIPD1M-1``.
    """
    fitting = tuple(d for d in DETECTORS if device and re.fullmatch(d.device, device))
    return fitting or DETECTORS


def detector_of_modules(names: list[str]) -> Detector:
    """Return the detector of all its modules' names, as the CXI has them.

    Raises
    ------
    ValueError
        If there is none.
    """
    for detector in DETECTORS:
        if list(detector.module_names) == names:
            return detector
    raise ValueError(f"modules {', '.join(names)[:80]} are of no known detector")


@lru_cache(maxsize=4096)
def find_source(source: str) -> tuple[str, int] | None:
    """Return detector and module, from 0, of a source; None if it is no module's.

    Parameters
    ----------
    source : str
        E.g. ``SPB_DET_AGIPD1M-1/CORR/3CH0:output``.
    """
    for detector in DETECTORS:
        if match := re.fullmatch(f"({detector.device}){detector.source}", source):
            module = int(match[2]) - detector.first_module
            if 0 <= module < detector.n_modules:
                return match[1], module
    return None


def names_another(source: str, device: str) -> bool:
    """Return whether the name of a source is of another kind of detector.

    Parameters
    ----------
    source : str
        E.g. ``SPB_IRU_AGIPD1M1/REDU/LITFRM``.
    device : str
        The facility's name of the detector, e.g. ``SPB_IRDA_JF4M``; of an unknown one none is.
    """
    own = {detector.module_name for detector in detectors_of(device)}
    others = {detector.module_name for detector in DETECTORS} - own
    return any(name in source.partition("/")[0] for name in others)


def module_of_file(name: str) -> int:
    """Return the module, from 0, of a file's name; -1 if it is of none."""
    match = MODULE_FILE.fullmatch(name)
    return int(match["module"]) - _FIRST_MODULE[match["detector"]] if match else -1
