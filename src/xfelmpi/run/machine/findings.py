"""What the log should say of the beamline data, and which files could not be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from xfelmpi.core.machine_records import BeamlineSource
from xfelmpi.core.problems import Problem

_WORDS = {"pulse_energy": "pulse energy", "facility_hits": "facility's hits"}
"""What the log calls values."""


Damage = dict[str, str]
"""What could not be read: file name → first line of the first error."""


@dataclass
class Findings:
    """What the log should say of the beamline data, filled on the way.

    Parameters
    ----------
    notes, warnings : list of str
    damage : dict
    problems : list of Problem
        Pulse energies that are unknown.
    sources : list of BeamlineSource
        Where values came from.
    """

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    damage: Damage = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    sources: list[BeamlineSource] = field(default_factory=list)

    def use(self, value: str, source: str, rule: str) -> None:
        """Say where a value came from, and how it was matched with the frames."""
        self.sources.append(BeamlineSource(value, source, rule))
        what = _WORDS.get(value, value)
        self.notes.append(f"{what} from {source}{': ' if rule else ''}{rule}")

    def warn_missing(self, what: str, values: np.ndarray) -> None:
        """Say of how many frames a value is unknown, if of any."""
        missing = int(np.isnan(values).sum())
        if missing:
            self.warnings.append(f"{what} unknown for {missing} of {values.size} frames")


@contextmanager
def tolerated(name: str, damage: Damage) -> Iterator[None]:
    """Note whatever a damaged file raises instead of raising it.

    Parameters
    ----------
    name : str
        The file.
    damage : dict
        Gets the first error of every file.
    """
    try:
        yield
    # HDF5 and EXtra-data raise almost any class on damaged files.
    except Exception as error:
        damage.setdefault(name, str(error).split("\n")[0].strip() or type(error).__name__)
