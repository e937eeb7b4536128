"""Beamline data of a run, kept beside the outputs: the second job need not open hundreds of files.

They hold for the same frames as long as the run has the same files with the same sizes and times.
"""

import hashlib
import json
from dataclasses import asdict, replace

import numpy as np

from xfelmpi.core.event_table import AddedColumn
from xfelmpi.core.machine_records import (
    BeamlineSource,
    MachineData,
    QuadrantMotors,
    RunReduction,
    ZMotor,
)
from xfelmpi.core.paths import Experiment
from xfelmpi.core.problems import Problem
from xfelmpi.io import cache_file
from xfelmpi.run.machine.control_data import machine_files
from xfelmpi.run.machine.machine_data import UNREADABLE, OpenRun, read_machine_data

SCHEMA = 5
"""Of what is kept: another number for every change of its content, or of how it is found."""


def cached_machine_data(
    experiment: Experiment,
    train_id: np.ndarray,
    pulse_id: np.ndarray,
    added: tuple[str, ...],
    detector: str,
    cell_id: np.ndarray,
    proposal: int = 0,
    *,
    opened_run: OpenRun | None = None,
) -> MachineData:
    """Return what `read_machine_data` does, from an earlier job if that had the same to read."""
    asked = experiment, train_id, pulse_id, added, detector, cell_id, proposal
    try:
        key = _key(experiment, (train_id, pulse_id, cell_id), added, detector, proposal)
    except OSError:  # reading will say what is wrong with the folder
        return read_machine_data(*asked, opened_run=opened_run)
    kept = _load(experiment, key)
    if kept is not None:
        return kept
    data = read_machine_data(*asked, opened_run=opened_run)
    if not any(warning.startswith(UNREADABLE) for warning in data.warnings):
        _save(experiment, key, data)
    return data


def _key(experiment: Experiment, ids: tuple, added, detector: str, proposal: int) -> str:
    folders = [experiment.run_folder(kind) for kind in ("proc", "raw")]
    files = [[str(f), cache_file.stamps_of_files(machine_files(f))] for f in folders]
    about = MachineData.__dataclass_fields__
    frames = hashlib.sha256()
    for column in ids:
        frames.update(np.ascontiguousarray(column).data)
    return json.dumps([SCHEMA, [*about], files, frames.hexdigest(), added, detector, proposal])


def _load(experiment: Experiment, key: str) -> MachineData | None:
    names = ("pulse_energy", "wavelength", "n_pulses", "pumped", "added", "positions", "travel")
    return cache_file.load(
        experiment.machine, key, names, lambda arrays, about: _data(experiment, arrays, about)
    )


def _data(experiment: Experiment, arrays: dict[str, np.ndarray], about: dict) -> MachineData:
    columns = zip(about["added"], arrays["added"], strict=True)
    motors = about["motors"] and QuadrantMotors(
        about["motors"], arrays["positions"], arrays["travel"]
    )
    return MachineData(
        pulse_energy=arrays["pulse_energy"],
        wavelength=arrays["wavelength"],
        n_pulses=arrays["n_pulses"],
        sample=about["sample"],
        notes=(*about["notes"], f"beamline data of an earlier job: {experiment.machine}"),
        warnings=tuple(about["warnings"]),
        added=tuple(AddedColumn(values=values, **column) for column, values in columns),
        motors=motors or None,
        files=tuple(about["files"]),
        problems=tuple(Problem(**problem) for problem in about["problems"]),
        sources=tuple(BeamlineSource(**source) for source in about["sources"]),
        pumped=arrays["pumped"] if len(arrays["pumped"]) else None,
        z_motor=ZMotor(**about["z_motor"]) if about["z_motor"] else None,
        reduction=_reduction(about["reduction"]),
        run_type=about["run_type"],
    )


def _reduction(about: dict | None) -> RunReduction | None:
    return RunReduction(**about | {"rules": tuple(about["rules"])}) if about else None


def _save(experiment: Experiment, key: str, data: MachineData) -> None:
    nowhere = np.full((4, 2), np.nan)
    arrays = {
        "pulse_energy": data.pulse_energy,
        "wavelength": data.wavelength,
        "n_pulses": data.n_pulses,
        "pumped": np.zeros(0, np.uint8) if data.pumped is None else data.pumped,
        "added": np.array([c.values for c in data.added]).reshape(-1, len(data.wavelength)),
        "positions": data.motors.positions if data.motors else nowhere,
        "travel": data.motors.travel if data.motors else nowhere,
    }
    columns = [asdict(replace(column, values=nowhere)) for column in data.added]
    for column in columns:
        del column["values"]
    about = {
        "sample": data.sample,
        "notes": data.notes,
        "warnings": data.warnings,
        "files": data.files,
        "problems": [asdict(problem) for problem in data.problems],
        "sources": [asdict(source) for source in data.sources],
        "reduction": asdict(data.reduction) if data.reduction else None,
        "run_type": data.run_type,
        "z_motor": asdict(data.z_motor) if data.z_motor else None,
        "added": columns,
        "motors": data.motors.device if data.motors else "",
    }
    cache_file.save(experiment.machine, key, arrays, about)
