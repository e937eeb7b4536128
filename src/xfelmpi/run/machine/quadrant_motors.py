"""Where the detector's motors stood during a run: those of its quadrants, and along the beam."""

from itertools import product

import numpy as np

from xfelmpi.core.machine_records import BeamlineSource, QuadrantMotors, ZMotor
from xfelmpi.detectors.known import detectors_of, names_another
from xfelmpi.run.machine.control_data import BeamlineFiles, data_selectors
from xfelmpi.run.machine.findings import Damage, Findings
from xfelmpi.run.machine.possible import MOTOR_POSITION, without_impossible
from xfelmpi.run.machine.train_table import TrainTable, read_table
from xfelmpi.run.machine.xgm import Frames

_MOTORS = tuple(product(range(1, 5), (1, 2)))
_KEY = "actualPosition"


def quadrant_motors(files: BeamlineFiles, frames: Frames, found: Findings) -> QuadrantMotors | None:
    """Read the positions of the eight motors that move the quadrants.

    Sources are those of the detector's `DetectorMotors`, e.g. ``SPB_IRU_AGIPD1M/MOTOR/Q1M1`` and so
    on, ``actualPosition`` in mm, or keys of a slow data selector that carry the same name,
    ``spbIruAgipd1MMotorQ1M1.actualPosition``.

    Parameters
    ----------
    files : BeamlineFiles
    frames : Frames
        Of whose trains.
    found : Findings

    Returns
    -------
    QuadrantMotors or None
        None if the files have none of them.
    """
    device = detectors_of(frames.detector)[0].motors.quadrants.get(frames.topic)
    if device is None or names_another(device, frames.detector):
        return None
    positions, travel = np.full((4, 2), np.nan), np.full((4, 2), np.nan)
    selectors = data_selectors(files, found.damage)
    trains = np.unique(frames.train_id)
    for quadrant, motor in _MOTORS:
        table = motor_table(files, f"{device}Q{quadrant}M{motor}", selectors, found.damage)
        if table is None or table.values.ndim != 1:
            continue
        values = _metres(table, trains, f"{device}Q{quadrant}M{motor} {_KEY}", found)
        if values.size:
            positions[quadrant - 1, motor - 1] = np.median(values)
            travel[quadrant - 1, motor - 1] = np.ptp(values)
    if np.isnan(positions).all():
        return None
    rule = "median of the run; used if the geometry has positions of the motors"
    found.sources.append(BeamlineSource("quadrants", f"{device}Q1M1 … Q4M2 {_KEY}", rule))
    return QuadrantMotors(device, positions, travel)


def z_motor(files: BeamlineFiles, frames: Frames, found: Findings) -> ZMotor | None:
    """Read the position of the motor that moves the detector along the beam.

    Parameters
    ----------
    files : BeamlineFiles
    frames : Frames
        Of whose trains.
    found : Findings

    Returns
    -------
    ZMotor or None
        None if the files do not have it.
    """
    motors = detectors_of(frames.detector)[0].motors
    name, keys = motors.along_beam.get(frames.topic, ("", ()))
    for key in () if names_another(name, frames.detector) else keys:
        selectors = data_selectors(files, found.damage)
        table = motor_table(files, name, selectors, found.damage, key)
        if table is None or table.values.ndim != 1:
            continue
        values = _metres(table, np.unique(frames.train_id), f"{name} {key}", found)
        if values.size:
            return ZMotor(f"{name} {key}", float(np.median(values)), float(np.ptp(values)))
    return None


def _metres(table: TrainTable, trains: np.ndarray, source: str, found: Findings) -> np.ndarray:
    """Return where a motor was in the trains in m, as far as that is known."""
    row, unit = table.rows(trains), table.unit()
    factor = unit.factor if unit and unit.symbol == "m" else 1e-3
    values = table.values[row[row >= 0]].astype(np.float64)
    values = without_impossible(values, factor, MOTOR_POSITION, source, found)
    return values[np.isfinite(values)] * factor


def motor_table(
    files: BeamlineFiles, name: str, selectors: list[str], damage: Damage, key: str = _KEY
) -> TrainTable | None:
    """Return the positions of a motor, recorded as itself or by a slow data selector."""
    places = [(name, f"CONTROL/{name}/{key}/value")]
    words = "".join(c if c.isalnum() else " " for c in name)
    camel = "".join(words.title().split())
    for selector, form in product(
        selectors, (camel[0].lower() + camel[1:], words.replace(" ", "_"))
    ):
        places.append((selector, f"CONTROL/{selector}/{form}/{key}/value"))
    for index, path in places:
        table = read_table(files, index, path, damage)
        if table is not None:
            return table
    return None
