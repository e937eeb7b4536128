"""What the machine did: pulse energy and wavelength of every frame, and the sample's name.

The values come from X-ray gas monitors (XGM) through the run's non-detector files. Whatever is
missing or damaged there becomes NaN and a note for the log; it never stops a run.
"""

import re
from pathlib import Path

import numpy as np

from xfelmpi.experiment import Experiment
from xfelmpi.machinefiles import Damage, TrainTable, opened, read_table, text, tolerated
from xfelmpi.pulses import (
    LINE,
    OWN,
    decode_pattern,
    match_pattern,
    match_slots,
    written_slots,
)
from xfelmpi.records import MachineData

_XGM = re.compile(r"XGMD?/(?:XGM/)?DOOCS")
_TIMESERVER = re.compile(r"_(?:BR|RR)_(?:UTC|SYS)/TSYS/(?:TIMESERVER|X2TIMER\d)")
_SASE_OF_TOPIC = {"SA1": 1, "SPB": 1, "FXE": 1, "SA2": 2, "MID": 2, "HED": 2}
_SASE_OF_TOPIC |= {"SA3": 3, "SQS": 3, "SCS": 3, "SXP": 3}
_NO_SAMPLE = {"", "no sample", "none", "unknown", "n/a", "na", "-"}


def read_machine_data(
    experiment: Experiment, train_id: np.ndarray, pulse_id: np.ndarray
) -> MachineData:
    """Read pulse energies, wavelengths and the sample name of a run.

    Looks in the proc folder first, then in the raw folder, and only into files that can hold
    machine data, never into those of the detector modules. An XGM of the instrument
    (``SPB_XTD9_XGM``) is preferred to one of the tunnel (``SA1_XTD2_XGM``). Runs on one rank.

    Parameters
    ----------
    experiment : Experiment
        The run's folders.
    train_id, pulse_id : ndarray, uint64 (frame,)
        The frames, in any order. They are matched by these ids, never by position.

    Returns
    -------
    MachineData
        NaN where unknown. Its notes say which sources and which rule were used, and what was
        missing.

    Notes
    -----
    How the XGM's ``data.intensityTD`` is matched with pulse numbers is said in `xfelmpi.pulses`.
    XGMs that serve two undulators also have ``data.intensitySa1TD`` and ``data.intensitySa3TD``
    with the pulses of one of them, and ``data.intensityTD`` then holds both: the array of the
    instrument's own undulator is used if it holds anything (EXtra, ``XGM``, argument
    ``default_sase``). ``pulseEnergy.wavelengthUsed`` is the nominal wavelength in nm (EXtra,
    ``XGM.wavelength``).
    """
    notes: list[str] = []
    damage: Damage = {}
    energy = wavelength = None
    sample = ""
    for kind in ("proc", "raw"):
        with opened(experiment.run_folder(kind), damage) as files:
            if energy is None:
                energy = _pulse_energy(files, train_id, pulse_id, damage, notes)
            if wavelength is None:
                wavelength = _wavelength(files, train_id, damage, notes)
            sample = sample or _sample(files, damage)
    if energy is None:
        notes.append("pulse energy unknown: the run has no XGM with values")
        energy = np.full(len(train_id), np.nan)
    if wavelength is None:
        notes.append("wavelength unknown: the run has no XGM with pulseEnergy.wavelengthUsed")
        wavelength = np.full(len(train_id), np.nan)
    if damage:
        reasons = "; ".join(f"{name} ({why})" for name, why in sorted(damage.items()))
        notes.append(f"machine data could not be read from {reasons}")
    return MachineData(energy, wavelength, sample, tuple(notes))


def _sources(files: list, section: str) -> list[str]:
    """Return the XGM sources in the order they are preferred, the instrument's own first."""
    found = {s for f in files for s in getattr(f, section) if _XGM.search(s)}
    return sorted(found, key=lambda source: (bool(re.match(r"SA\d_", source)), source))


def _pulse_energy(
    files: list, train_id: np.ndarray, pulse_id: np.ndarray, damage: Damage, notes: list[str]
) -> np.ndarray | None:
    """Return the pulse energy of every frame in J, float64 (frame,); None without any XGM value."""
    for source in _sources(files, "instrument_sources"):
        sase = _SASE_OF_TOPIC.get(source[:3], 0)
        for key, counted in ((f"intensitySa{sase}TD", OWN), ("intensityTD", LINE)):
            table = read_table(files, f"{source}/data", f"INSTRUMENT/{source}/data/{key}", damage)
            if table is None:
                continue
            values, slots = written_slots(table.values)
            if not slots.size:
                continue
            pattern = _bunch_pattern(files, sase, damage) if sase else None
            slot, rule = _slots(train_id, pulse_id, slots, pattern, counted)
            notes.append(f"pulse energy from {source} data.{key}: {rule}")
            row = table.rows(train_id)
            energy = np.where((row < 0) | (slot < 0), np.nan, values[row, slot])
            _note_missing("pulse energy", energy, notes)
            return energy * _joule(table, notes)
    return None


def _slots(
    train_id: np.ndarray,
    pulse_id: np.ndarray,
    slots: np.ndarray,
    pattern: TrainTable | None,
    counted: int,
) -> tuple[np.ndarray, str]:
    """Choose how slots and pulses are matched; return every frame's slot and the rule's name."""
    if pattern is not None and pattern.trains.size:
        pulses = ((pattern.values & counted) != 0).sum(axis=1).max()
        # More slots than pulses cannot be packed (or the table is of another machine).
        if slots[-1] < pulses:
            return match_pattern(pulse_id, pattern.rows(train_id), pattern.values, counted)
    return match_slots(pulse_id, slots)


def _bunch_pattern(files: list, sase: int, damage: Damage) -> TrainTable | None:
    """Return the decoded bunch patterns of the time server, None if the files have none."""

    def decode(table: np.ndarray) -> np.ndarray:
        return decode_pattern(table, sase)

    places = [
        (f"{s}/data", f"INSTRUMENT/{s}/data/bunchPatternTable")
        for s in sorted({s for f in files for s in f.instrument_sources if _TIMESERVER.search(s)})
    ] + [
        (s, f"CONTROL/{s}/bunchPatternTable/value")
        for s in sorted({s for f in files for s in f.control_sources if _TIMESERVER.search(s)})
    ]
    for index, path in places:
        table = read_table(files, index, path, damage, decode)
        if table is not None:
            return table
    return None


def _joule(table: TrainTable, notes: list[str]) -> float:
    """Return the factor from the XGM's unit to J."""
    scale = table.scale("joule")
    if scale is None:
        notes.append("pulse energy: the file gives no usable unit, microjoule assumed")
        return 1e-6
    return scale


def _wavelength(
    files: list, train_id: np.ndarray, damage: Damage, notes: list[str]
) -> np.ndarray | None:
    """Return the wavelength of every frame in m, float64 (frame,); None if the run has none."""
    for source in _sources(files, "control_sources"):
        path = f"CONTROL/{source}/pulseEnergy/wavelengthUsed/value"
        table = read_table(files, source, path, damage)
        if table is None or not table.trains.size:
            continue
        values = table.values.astype(np.float64)
        values[~(np.isfinite(values) & (values > 0))] = np.nan
        if values.ndim != 1 or np.isnan(values).all():
            continue
        row = table.rows(train_id)
        wavelength = np.where(row < 0, np.nan, values[row])
        notes.append(f"wavelength from {source} pulseEnergy.wavelengthUsed")
        _note_missing("wavelength", wavelength, notes)
        # Most files give this key no unit.
        return wavelength * (table.scale("meter") or 1e-9)
    return None


def _note_missing(what: str, values: np.ndarray, notes: list[str]) -> None:
    """Say of how many frames a value is unknown, if of any."""
    missing = int(np.isnan(values).sum())
    if missing:
        notes.append(f"{what} unknown for {missing} of {values.size} frames")


def _sample(files: list, damage: Damage) -> str:
    """Return the first sample name in the files' metadata, empty if there is none."""
    for file in files:
        with tolerated(Path(file.filename).name, damage):
            if "METADATA/sample" in file.file:
                name = text(file.file["METADATA/sample"][()])
                if name.lower() not in _NO_SAMPLE:
                    return name
    return ""
