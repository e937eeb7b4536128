"""What the machine did: pulse energy and wavelength of every frame, and the sample's name.

The values come through the run's non-detector files. Whatever is missing or damaged there becomes
NaN and a warning, and for pulse energies a problem; it never stops a run.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from xfelmpi.core.machine_records import MachineData
from xfelmpi.core.paths import Experiment
from xfelmpi.core.units import ELECTRONVOLT, PLANCK_TIMES_C, Unit
from xfelmpi.run.machine.control_data import (
    Damage,
    Findings,
    first_text,
    opened,
    read_table,
    tolerated,
)
from xfelmpi.run.machine.extra_columns import read_added
from xfelmpi.run.machine.quadrant_motors import quadrant_motors
from xfelmpi.run.machine.xgm import (
    XGM,
    Frames,
    MonitorSlots,
    beamline_sources,
    pulse_energy,
    record_unknown,
)

_UNDULATOR = re.compile(r"_XTD\d+_UND/DOOCS/ENERGY$")
UNREADABLE = "machine data could not be read from"
"""Start of the warning that names files; what kept one from being read may not be the file."""

_NO_SAMPLE = {"", "no sample", "none", "unknown", "n/a", "na", "-"}


def read_machine_data(
    experiment: Experiment,
    train_id: np.ndarray,
    pulse_id: np.ndarray,
    added: tuple[str, ...] = (),
    detector: str = "",
) -> MachineData:
    """Read what a run tells of the machine: pulse energies, wavelengths, sample name and so on.

    Looks in the proc folder first, then in the raw folder, and only into files that can hold
    machine data, never into those of the detector modules. Runs on one rank.

    Parameters
    ----------
    experiment : Experiment
        The run's folders.
    train_id, pulse_id : ndarray, uint64 (frame,)
        The frames, in any order. They are matched by these ids, never by position.
    added : tuple of str
        ``NAME=SOURCE/KEY`` of further values.
    detector : str
        Its name, e.g. ``SPB_DET_AGIPD1M-1``, says whose gas monitor, undulator and motors.

    Returns
    -------
    MachineData
        NaN where unknown. Its notes say which sources and which rule were used, its warnings what
        was missing or assumed.
    """
    found = Findings()
    frames = Frames(train_id, pulse_id, detector.partition("_")[0])
    with (
        opened(experiment.run_folder("proc"), found.damage) as proc,
        opened(experiment.run_folder("raw"), found.damage) as raw,
    ):
        folders = (proc, raw)
        energy, slots = _energy_or_nan(folders, frames, found)
        wavelength = _wavelength_or_nan(folders, frames, found)
        columns = tuple(read_added(folders, wanted, frames, slots, found) for wanted in added)
        motors = _first(quadrant_motors, folders, frames, found)
        sample = _sample([*proc, *raw], found.damage)
        files = tuple(file.filename for file in (*proc, *raw))
    _warn_of_damage(found)
    return MachineData(
        energy,
        wavelength,
        sample,
        tuple(found.notes),
        tuple(found.warnings),
        columns,
        motors,
        files,
        tuple(found.problems),
    )


def _first(read: Callable, folders: tuple[list, list], frames: Frames, found: Findings):
    """Return what `read` finds in the first folder that has it, or None."""
    for files in folders:
        if (got := read(files, frames, found)) is not None:
            return got
    return None


def _energy_or_nan(
    folders: tuple[list, list], frames: Frames, found: Findings
) -> tuple[np.ndarray, MonitorSlots | None]:
    """Return what `pulse_energy` does; NaN, no slots and a warning if the run has no values."""
    known = _first(pulse_energy, folders, frames, found)
    if known is not None:
        return known
    found.warnings.append("pulse energy unknown: the run has no XGM with values")
    n = len(frames.train_id)
    record_unknown(np.ones(n, bool), frames, found)
    return np.full(n, np.nan), None


def _wavelength_or_nan(folders: tuple[list, list], frames: Frames, found: Findings) -> np.ndarray:
    """Return the wavelength of every frame in m, float64 (frame,), from monitor or undulator."""
    for read in (_monitor_wavelength, _undulator_wavelength):
        wavelength = _first(read, folders, frames, found)
        if wavelength is not None:
            return wavelength
    found.warnings.append(
        "wavelength unknown: the run has no XGM with pulseEnergy.wavelengthUsed, "
        "and no undulator with actualPosition"
    )
    return np.full(len(frames.train_id), np.nan)


def _warn_of_damage(found: Findings) -> None:
    if found.damage:
        reasons = "; ".join(f"{name} ({why})" for name, why in sorted(found.damage.items()))
        found.warnings.append(f"{UNREADABLE} {reasons}")


def _monitor_wavelength(files: list, frames: Frames, found: Findings) -> np.ndarray | None:
    """Return the wavelength of every frame in m, float64 (frame,); None if no XGM tells it.

    ``pulseEnergy.wavelengthUsed`` is the nominal wavelength in nm (EXtra, ``XGM.wavelength``).
    """
    # Most files give this key no unit.
    key, nanometre = "pulseEnergy.wavelengthUsed", Unit("m", 1e-9)
    return _per_train(files, "wavelength", XGM, key, nanometre, frames, found)


def _undulator_wavelength(files: list, frames: Frames, found: Findings) -> np.ndarray | None:
    """Return the wavelength from the undulator's photon energy; None if the run has none.

    ``actualPosition`` of ``MID_XTD1_UND/DOOCS/ENERGY`` is in keV (EXtra-data, "Using aliases").
    """
    kilo_electronvolt = Unit("J", 1e3 * ELECTRONVOLT)
    energy = _per_train(
        files, "wavelength", _UNDULATOR, "actualPosition", kilo_electronvolt, frames, found
    )
    return None if energy is None else PLANCK_TIMES_C / energy


def _per_train(
    files: list,
    what: str,
    pattern: re.Pattern,
    key: str,
    usual: Unit,
    frames: Frames,
    found: Findings,
) -> np.ndarray | None:
    """Return a positive quantity of every frame's train in SI; None if the files have none."""
    for source in beamline_sources(files, "control_sources", pattern, frames.topic):
        path = f"CONTROL/{source}/{key.replace('.', '/')}/value"
        table = read_table(files, source, path, found.damage)
        if table is None or not table.trains.size:
            continue
        values = table.values.astype(np.float64)
        values[~(np.isfinite(values) & (values > 0))] = np.nan
        if values.ndim != 1 or np.isnan(values).all():
            continue
        row = table.rows(frames.train_id)
        wanted = np.where(row < 0, np.nan, values[row])
        found.notes.append(f"{what} from {source} {key}")
        found.warn_missing(what, wanted)
        unit = table.unit()
        return wanted * (unit if unit and unit.symbol == usual.symbol else usual).factor
    return None


def _sample(files: list, damage: Damage) -> str:
    """Return the first sample name in the files' metadata, empty if there is none."""
    for file in files:
        with tolerated(Path(file.filename).name, damage):
            if "METADATA/sample" in file.file:
                name = first_text(file.file["METADATA/sample"])
                if name.lower() not in _NO_SAMPLE:
                    return name
    return ""
