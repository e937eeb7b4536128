"""Which numbers beamline data can have: others are damage, and count as unknown.

A flipped bit in the type of a dataset makes other numbers of all of its bytes, most of which no
machine ever had. A few of them look possible by chance: so if most numbers of a dataset are
impossible, none of them counts.
"""

from dataclasses import dataclass

import numpy as np

from xfelmpi.core.problems import Problem
from xfelmpi.core.units import ELECTRONVOLT, PLANCK_TIMES_C
from xfelmpi.run.machine.findings import Findings


@dataclass(frozen=True)
class Possible:
    """Numbers that a quantity can have.

    Parameters
    ----------
    what : str
        The quantity.
    low, high : float
        SI.
    unit : str
    smallest : float
        Numbers that are nearer to 0, but not 0, are impossible, too.
    """

    what: str
    low: float
    high: float
    unit: str
    smallest: float = 0.0


PULSE_ENERGY = Possible("pulse energy", -1e-4, 0.1, "J", 1e-13)
"""The strongest pulses have some mJ, and a frame up to 8; monitors show some µJ around no beam."""

_LOWEST, _HIGHEST = 100 * ELECTRONVOLT, 100e3 * ELECTRONVOLT
"""J: the facility's undulators make photons of 0.24 to 30 keV."""

PHOTON_ENERGY = Possible("photon energy", _LOWEST, _HIGHEST, "J")
WAVELENGTH = Possible("wavelength", PLANCK_TIMES_C / _HIGHEST, PLANCK_TIMES_C / _LOWEST, "m")

MOTOR_POSITION = Possible("motor position", -100.0, 100.0, "m")


def without_impossible(
    values: np.ndarray, factor: float, possible: Possible, source: str, found: Findings
) -> np.ndarray:
    """Return the values, NaN instead of impossible ones, of which there is a problem.

    Parameters
    ----------
    values : ndarray, float64
        In the file's unit; 0 and NaN stay as they are.
    factor : float
        Of the file's unit, to SI.
    possible : Possible
    source : str
        Where they came from.
    found : Findings
    """
    with np.errstate(over="ignore", invalid="ignore"):
        si = values * factor
    told = ~np.isnan(values) & (values != 0)
    inside = (possible.low <= si) & (si <= possible.high) & (np.abs(si) >= possible.smallest)
    bad = told & ~inside
    if not bad.any():
        return values
    n, n_told, first = int(bad.sum()), int(told.sum()), float(si[bad][0])
    problem = Problem(
        f"{n:,} of {n_told:,} numbers of {source} are impossible, e.g. {first:g} {possible.unit}; "
        f"expected {possible.what} of {possible.low:.3g} to {possible.high:.3g} {possible.unit}",
        action=f"{possible.what} is unknown there" if 2 * n <= n_told else "none of them is used",
    )
    # several values are made from the same numbers
    if problem not in found.problems:
        found.problems.append(problem)
    return np.where(bad if 2 * n <= n_told else told, np.nan, values)
