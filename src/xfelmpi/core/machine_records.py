"""Beamline data of a run as records."""

import json
from dataclasses import asdict, dataclass, field

import numpy as np

from xfelmpi.core.event_table import AddedColumn
from xfelmpi.core.problems import Problem


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
class ZMotor:
    """Where the motor stood that moves the detector along the beam.

    Parameters
    ----------
    source : str
        Source and key.
    position, travel : float
        Median over the run's trains, and largest less smallest position; m.
    """

    source: str
    position: float
    travel: float


def motors_as_json(quadrants: QuadrantMotors | None, along: ZMotor | None) -> str:
    """Return the detector's motors as text, for the events file; numbers are kept exactly."""
    about: dict = {"quadrants": None, "along": asdict(along) if along else None}
    if quadrants:
        about["quadrants"] = {
            "device": quadrants.device,
            "positions": quadrants.positions.tolist(),
            "travel": quadrants.travel.tolist(),
        }
    return json.dumps(about)


def motors_from_json(text: str) -> tuple[QuadrantMotors | None, ZMotor | None]:
    """Return what `motors_as_json` wrote.

    Raises
    ------
    ValueError, KeyError, TypeError
        If it is no such text.
    """
    about = json.loads(text)
    quadrants, along = about["quadrants"], about["along"]
    if quadrants:
        positions, travel = (
            np.array(quadrants[name], np.float64).reshape(4, 2) for name in ("positions", "travel")
        )
        quadrants = QuadrantMotors(str(quadrants["device"]), positions, travel)
    return quadrants, ZMotor(**along) if along else None


@dataclass(frozen=True)
class FacilityHits:
    """What the facility's hit finder says of every frame.

    Parameters
    ----------
    known : ndarray, bool (frame,)
        It says something of the frame.
    is_hit, is_miss : ndarray, bool (frame,)
    score : ndarray, float64 (frame,)
        NaN where it says nothing; so the following.
    threshold, median, width : ndarray, float64 (frame,)
        Of the frame's train.
    """

    known: np.ndarray
    is_hit: np.ndarray
    is_miss: np.ndarray
    score: np.ndarray
    threshold: np.ndarray
    median: np.ndarray
    width: np.ndarray


@dataclass(frozen=True)
class RunReduction:
    """What the facility left out of a run.

    Parameters
    ----------
    recorded, before : int
        Frames that are there, and that the detector took; 0: not known.
    rules : tuple of str
        By which frames were left out.
    errata : dict of str to int
        Known faults of the recording, and how many events of each.
    """

    recorded: int
    before: int
    rules: tuple[str, ...] = ()
    errata: dict[str, int] = field(default_factory=dict)

    def words(self) -> list[tuple[str, str]]:
        """Return what summary and report say: pairs of a title and a text."""
        said = []
        if self.rules:
            of = f"of {self.before:,} frames" if self.before else "of an unknown number of frames"
            said.append(("reduced", f"{self.recorded:,} {of} recorded, by {', '.join(self.rules)}"))
        said += [("errata", f"{name}: {n:,} events") for name, n in self.errata.items()]
        return said


@dataclass(frozen=True)
class BeamlineSource:
    """Where a value of the beamline came from.

    Parameters
    ----------
    value : str
        Name of the value, e.g. ``pulse_energy``.
    source : str
        Source and key, or what else it was taken from.
    rule : str
        How it was matched with the frames, or what was assumed; empty if there is nothing to say.
    """

    value: str
    source: str
    rule: str = ""


UNKNOWN_PULSES = 255
"""Instead of a number of pulses."""


@dataclass(frozen=True, kw_only=True)
class MachineData:
    """Per-frame values of the machine, NaN where unknown.

    Parameters
    ----------
    pulse_energy : ndarray, float64 (frame,)
        Energy of the X-ray pulses of the frame in J, 0 if it has none.
    wavelength : ndarray, float64 (frame,)
        Photon wavelength in m.
    n_pulses : ndarray, uint8 (frame,)
        X-ray pulses of the frame; `UNKNOWN_PULSES` where nothing tells.
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
    sources : tuple of BeamlineSource
    pumped : ndarray, uint8 (frame,), or None
        1: with a pulse of the pump laser, 0: without, 255: not known. None if there is no laser.
    z_motor : ZMotor or None
        None if its position is not known.
    reduction : RunReduction or None
        None if the files say nothing of it.
    run_type : str
        From the run's metadata, empty if none.
    """

    pulse_energy: np.ndarray
    wavelength: np.ndarray
    n_pulses: np.ndarray
    sample: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    added: tuple[AddedColumn, ...] = ()
    motors: QuadrantMotors | None = None
    files: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    sources: tuple[BeamlineSource, ...] = ()
    pumped: np.ndarray | None = None
    z_motor: ZMotor | None = None
    reduction: RunReduction | None = None
    run_type: str = ""
