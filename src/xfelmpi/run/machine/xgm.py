"""The X-ray gas monitors (XGM): the energy of every pulse, and which slot holds which frame's."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xfelmpi.core.problems import Problem
from xfelmpi.run.machine.control_data import Damage, Findings, TrainTable, read_table
from xfelmpi.run.machine.pulse_matching import (
    DARK,
    LINE,
    OWN,
    decode_pattern,
    match_pattern,
    match_slots,
    written_slots,
)

XGM = re.compile(r"XGMD?/(?:XGM/)?DOOCS")
_TIMESERVER = re.compile(r"_(?:BR|RR)_(?:UTC|SYS)/TSYS/(?:TIMESERVER|X2TIMER\d)")
_SASE_OF_TOPIC = {"SA1": 1, "SPB": 1, "FXE": 1, "SA2": 2, "MID": 2, "HED": 2}
_SASE_OF_TOPIC |= {"SA3": 3, "SQS": 3, "SCS": 3, "SXP": 3}


@dataclass(frozen=True)
class Frames:
    """The frames that machine data are wanted for.

    Parameters
    ----------
    train_id, pulse_id : ndarray, uint64 (frame,)
        In any order.
    topic : str
        Start of the detector's name, e.g. ``SPB``; empty if unknown.
    """

    train_id: np.ndarray
    pulse_id: np.ndarray
    topic: str = ""


@dataclass(frozen=True)
class MonitorSlots:
    """Which entry of a monitor's per-pulse arrays belongs to which frame.

    Parameters
    ----------
    table : TrainTable
        The pulse energies as stored.
    slot : ndarray, int64 (frame,)
        -1 where the frame has no slot.
    energy : ndarray, float64 (frame,)
        In the file's unit; NaN where unknown.
    dark : ndarray, bool (frame,)
        The bunch pattern has no pulse there.
    rule : str
        How they were matched, for the log.
    """

    table: TrainTable
    slot: np.ndarray
    energy: np.ndarray
    dark: np.ndarray
    rule: str

    @property
    def width(self) -> int:
        """Slots of a train."""
        return self.table.values.shape[1]


def beamline_sources(files: list, section: str, pattern: re.Pattern, topic: str) -> list[str]:
    """Return the sources of one kind that see the light of the detector's undulator.

    Parameters
    ----------
    files : list of FileAccess
    section : str
        ``control_sources`` or ``instrument_sources``.
    pattern : re.Pattern
        What their names contain.
    topic : str
        As in `Frames`.

    Returns
    -------
    list of str
        The instrument's own first (``SPB_XTD9_XGM``), those of the tunnel (``SA1_XTD2_XGM``) last.
    """
    sase = _SASE_OF_TOPIC.get(topic)
    found = {s for f in files for s in getattr(f, section) if pattern.search(s)}
    found = {s for s in found if sase is None or _SASE_OF_TOPIC.get(s[:3], sase) == sase}
    return sorted(found, key=lambda s: (s[:3] != topic, bool(re.match(r"SA\d_", s)), s))


def pulse_energy(
    files: list, frames: Frames, found: Findings
) -> tuple[np.ndarray, MonitorSlots] | None:
    """Return the pulse energy of every frame in J, float64 (frame,), and where it was found.

    None without any XGM value. How slots and pulse numbers are matched is said in
    `xfelmpi.run.machine.pulse_matching`.

    Parameters
    ----------
    files : list of FileAccess
    frames : Frames
    found : Findings
    """
    for source in beamline_sources(files, "instrument_sources", XGM, frames.topic):
        sase = _SASE_OF_TOPIC.get(source[:3], 0)
        for key in (f"intensitySa{sase}TD", "intensityTD"):
            slots = monitor_slots(files, source, key, frames, found)
            if slots is None:
                continue
            found.notes.append(f"pulse energy from {source} data.{key}: {slots.rule}")
            found.warn_missing("pulse energy", slots.energy)
            record_unknown(np.isnan(slots.energy) & ~slots.dark, frames, found)
            unit = slots.table.unit()
            if unit is None or unit.symbol != "J":
                found.warnings.append(
                    "pulse energy: the file gives no usable unit, microjoule assumed"
                )
            factor = unit.factor if unit and unit.symbol == "J" else 1e-6
            return slots.energy * factor, slots
    return None


def record_unknown(unknown: np.ndarray, frames: Frames, found: Findings) -> None:
    """Record a problem if pulse energies are unknown that should be known.

    Parameters
    ----------
    unknown : ndarray, bool (frame,)
    frames : Frames
    found : Findings
        Files that could not be read until now are named in the problem.
    """
    if not unknown.any():
        return
    what, file = f"pulse energy unknown for {unknown.sum()} of {unknown.size} frames", ""
    if len(found.damage) == 1:
        file = Path(*found.damage).name
        what += ", and this file cannot be read"
    elif found.damage:
        what += f", and {len(found.damage)} files with machine data cannot be read"
    train = 0 if unknown.all() else int(frames.train_id[unknown].min())
    found.problems.append(Problem(what, file, -1, train, "pulse energy is NaN there"))


def monitor_slots(
    files: list, source: str, key: str, frames: Frames, found: Findings
) -> MonitorSlots | None:
    """Match the slots of a gas monitor with the frames.

    XGMs that serve two undulators also have ``data.intensitySa1TD`` and ``data.intensitySa3TD``
    with the pulses of one of them, and ``data.intensityTD`` then holds both (EXtra, ``XGM``,
    argument ``default_sase``).

    Parameters
    ----------
    files : list of FileAccess
    source : str
        The monitor's output channel.
    key : str
        Its pulse energies, in the index group ``data``. None of them: None.
    frames : Frames
    found : Findings
    """
    table = read_table(files, f"{source}/data", f"INSTRUMENT/{source}/data/{key}", found.damage)
    if table is None:
        return None
    values, used = written_slots(table.values)
    if not used.size:
        return None
    sase = _SASE_OF_TOPIC.get(source[:3], 0)
    counted = LINE if key == "intensityTD" else OWN
    pattern = _bunch_pattern(files, sase, found.damage) if sase else None
    slot, rule = _match(frames, used, pattern, counted)
    # a train can have more pulses than the monitor has slots
    dark = slot == DARK
    slot = np.where(slot < values.shape[1], np.maximum(slot, -1), -1)
    row = table.rows(frames.train_id)
    energy = np.where((row < 0) | (slot < 0), np.nan, values[row, slot])
    return MonitorSlots(table, slot, energy, dark, rule)


def own_energies(source: str, key: str) -> str:
    """Return which pulse energies of a monitor have the slots of another of its arrays.

    Parameters
    ----------
    source : str
        The monitor's output channel.
    key : str
        Name of the array. Those of one undulator have its number in it, ``Sa1`` or ``Sa3``;
        of the other undulator than the instrument's own: empty.
    """
    undulator = re.search(r"Sa(\d)", key.rpartition("/")[2])
    if not undulator:
        return "intensityTD"
    own = _SASE_OF_TOPIC.get(source[:3], 0)
    return f"intensitySa{own}TD" if int(undulator[1]) == own else ""


def _match(
    frames: Frames, slots: np.ndarray, pattern: TrainTable | None, counted: int
) -> tuple[np.ndarray, str]:
    """Choose how slots and pulses are matched; return every frame's slot and the rule's name."""
    if pattern is not None and pattern.trains.size:
        pulses = ((pattern.values & counted) != 0).sum(axis=1).max()
        # More slots than pulses cannot be packed (or the table is of another machine).
        if slots[-1] < pulses:
            row = pattern.rows(frames.train_id)
            return match_pattern(frames.pulse_id, row, pattern.values, counted)
    return match_slots(frames.pulse_id, slots)


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
