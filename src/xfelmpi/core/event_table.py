"""What passes between the stages: one row per frame, and one record per problem found."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

_NUMBER = re.compile(r"\d+")


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


def _kind(problem: Problem) -> tuple:
    return _NUMBER.sub("#", problem.what), problem.file, problem.module, problem.action


def foremost(problems: list[Problem], n: int) -> list[Problem]:
    """Return n of the problems, in their order: of every kind the first ones."""
    seen: Counter[tuple] = Counter()
    ranks = []
    for i, problem in enumerate(problems):
        ranks.append((seen[_kind(problem)], i))
        seen[_kind(problem)] += 1
    return [problems[i] for _, i in sorted(sorted(ranks)[:n], key=lambda rank: rank[1])]


MOST_ALIKE = 20
"""Problems of one kind in one file that are recorded one by one."""


def summarised(problems: Iterable[Problem]) -> list[Problem]:
    """Return every problem once, sorted; of many that differ in numbers only, the first and a sum.

    A module full of garbage would otherwise be told in thousands of lines. Which frames are
    concerned stands in the ``modules`` column of the events file.
    """
    kinds: dict[tuple, list[Problem]] = {}
    for p in set(problems):
        kinds.setdefault(_kind(p), []).append(p)
    result = []
    for alike in kinds.values():
        alike.sort(key=lambda p: (p.train, p.what))
        result += alike[:MOST_ALIKE]
        if rest := alike[MOST_ALIKE:]:
            first, last = rest[0], rest[-1]
            trains = f", trains {first.train} … {last.train}" if last.train else ""
            result.append(replace(first, what=f"{len(rest)} more{trains}, such as: {first.what}"))
    return sorted(result)


@dataclass(frozen=True)
class UsedFile:
    """A mask, constants or a geometry that a job has read.

    Parameters
    ----------
    role : str
        What it is, e.g. ``global mask``.
    path : str
    """

    role: str
    path: str


@dataclass(frozen=True)
class AddedColumn:
    """One more value per frame, which the user asked for (``--add``).

    Parameters
    ----------
    name : str
        Of the column in the events file.
    values : ndarray, float64 (frame,)
        In `units`, NaN where unknown.
    source : str
        ``SOURCE/KEY`` as the user wrote it.
    units : str
        SI where the run's files tell the unit; empty where not, or for plain numbers.
    """

    name: str
    values: np.ndarray
    source: str
    units: str = ""

    def attributes(self) -> dict[str, str]:
        """Return the attributes of the column's dataset in the output files."""
        return {"source": self.source, **({"units": self.units} if self.units else {})}


@dataclass(frozen=True)
class QuadrantMotors:
    """Where the motors of the detector's quadrants stood during the run.

    Parameters
    ----------
    device : str
        Start of the motors' names, e.g. ``SPB_IRU_AGIPD1M/MOTOR/``.
    positions : ndarray, float64 (4, 2)
        Median over the run's trains, in m, of motors 1 and 2 of every quadrant; NaN where the
        run does not have it.
    travel : ndarray, float64 (4, 2)
        Largest less smallest position during the run, in m.
    """

    device: str
    positions: np.ndarray
    travel: np.ndarray


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
    notes, warnings : tuple of str
        What the log should say: which sources were used, and what was missing or assumed.
    added : tuple of AddedColumn
    motors : QuadrantMotors or None
        None if no motors of this detector are known.
    files : tuple of str
        Paths of the files that were looked into.
    problems : tuple of Problem
        Pulse energies that should be known, and are not.
    """

    pulse_energy: np.ndarray
    wavelength: np.ndarray
    sample: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    added: tuple[AddedColumn, ...] = ()
    motors: QuadrantMotors | None = None
    files: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class EventColumns:
    """The columns of the events file, for some frames in ascending (trainId, cellId) order.

    Parameters
    ----------
    trainId, pulseId : ndarray, uint64 (frame,)
    cellId : ndarray, uint16 (frame,)
    litpixels : ndarray, uint32 (frame,)
        Good pixels with at least one photon.
    photons : ndarray, uint64 (frame,)
        Sum of photons over good pixels.
    hitscore : ndarray, float32 (frame,)
        The number the hit decision used.
    is_hit, is_miss : ndarray, bool (frame,)
    hit_median, hit_std, hit_threshold, hit_sigma : ndarray, float32 (frame,)
        Statistics of the decision, NaN where undecidable.
    pulse_energy, wavelength : ndarray, float64 (frame,)
        In J and m, NaN where unknown.
    modules : ndarray, uint16 (frame,)
        Bit m set: module m has this frame.
    gain_switched : ndarray, uint32 (frame, 2) or None
        Good pixels in medium and in low gain; raw data only.
    added : tuple of AddedColumn
        What the user asked for besides.
    """

    trainId: np.ndarray  # noqa: N815, names as in the file
    pulseId: np.ndarray  # noqa: N815
    cellId: np.ndarray  # noqa: N815
    litpixels: np.ndarray
    photons: np.ndarray
    hitscore: np.ndarray
    is_hit: np.ndarray
    is_miss: np.ndarray
    hit_median: np.ndarray
    hit_std: np.ndarray
    hit_threshold: np.ndarray
    hit_sigma: np.ndarray
    pulse_energy: np.ndarray
    wavelength: np.ndarray
    modules: np.ndarray
    gain_switched: np.ndarray | None = None
    added: tuple[AddedColumn, ...] = ()

    def take(self, rows: np.ndarray) -> "EventColumns":
        """Return some of the rows."""
        added = tuple(replace(column, values=column.values[rows]) for column in self.added)
        return replace(self, added=added, **{name: c[rows] for name, c in self.columns()})

    def columns(self) -> list[tuple[str, np.ndarray]]:
        """Return (name, values) of every column but the added, in the order of the file."""
        names = [name for name in self.__dataclass_fields__ if name != "added"]
        named = [(name, getattr(self, name)) for name in names]
        return [(name, column) for name, column in named if column is not None]
