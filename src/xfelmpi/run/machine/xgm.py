"""The X-ray gas monitors (XGM): the energy of every pulse, and which slot holds which frame's."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xfelmpi.core.problems import Problem
from xfelmpi.run.machine.bunch_pattern import bunch_pattern
from xfelmpi.run.machine.control_data import BeamlineFiles
from xfelmpi.run.machine.findings import Damage, Findings
from xfelmpi.run.machine.possible import PULSE_ENERGY, without_impossible
from xfelmpi.run.machine.pulse_matching import (
    DARK,
    LINE,
    OWN,
    Grid,
    match_pattern,
    match_slots,
    written_slots,
)
from xfelmpi.run.machine.train_table import TrainTable, read_table

XGM = re.compile(r"XGMD?/(?:XGM/)?DOOCS")
_MICROJOULE = 1e-6
_LIGHT = 20e-6
"""J: pulses have more; without a beam, monitors show some µJ."""

_SASE_OF_TOPIC = {"SA1": 1, "SPB": 1, "FXE": 1, "SA2": 2, "MID": 2, "HED": 2}
_SASE_OF_TOPIC |= {"SA3": 3, "SQS": 3, "SCS": 3, "SXP": 3}


@dataclass(frozen=True)
class PulseSlots:
    """Which pulse made a frame; of several, the last one.

    Parameters
    ----------
    line, own : ndarray, int64 (frame,)
        Which one of the train it is, from 0, of those in the tunnel and of those of the
        instrument's undulator; -1 if that is not known, `DARK` if the frame has no pulse.
    rule : str
        How that is known.
    """

    line: np.ndarray
    own: np.ndarray
    rule: str


@dataclass(frozen=True)
class Frames:
    """The frames that beamline data are wanted for.

    Parameters
    ----------
    train_id, pulse_id : ndarray, uint64 (frame,)
        In any order.
    topic : str
        Start of the detector's name, e.g. ``SPB``; empty if unknown.
    grid : Grid or None
        Pulse numbers of the memory cells, if they are known.
    slots : PulseSlots or None
        Which pulses made the frames, if more is known than the rules of `pulse_matching` can tell.
    detector : str
        Its name.
    """

    train_id: np.ndarray
    pulse_id: np.ndarray
    topic: str = ""
    grid: Grid | None = None
    slots: PulseSlots | None = None
    detector: str = ""

    @property
    def sase(self) -> int:
        """The instrument's undulator, 0 if it is not known."""
        return _SASE_OF_TOPIC.get(self.topic, 0)


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
    counts_line : bool
        See `Monitor`.
    """

    table: TrainTable
    slot: np.ndarray
    energy: np.ndarray
    dark: np.ndarray
    rule: str
    counts_line: bool = True

    @property
    def width(self) -> int:
        """Slots of a train."""
        return self.table.values.shape[1]


def beamline_sources(
    files: BeamlineFiles, section: str, pattern: re.Pattern, topic: str
) -> list[str]:
    """Return the sources of one kind that see the light of the detector's undulator.

    Parameters
    ----------
    files : BeamlineFiles
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


@dataclass(frozen=True)
class Monitor:
    """The pulse energies of a gas monitor.

    Parameters
    ----------
    source, key : str
        Output channel, and the key in its group ``data``.
    table : TrainTable
        As stored.
    values : ndarray, float64 (train, slot)
        In the file's unit, NaN where a slot holds no number; see `written_slots`.
    used : ndarray, int64 (used,)
        Slots that were used in the run.
    """

    source: str
    key: str
    table: TrainTable
    values: np.ndarray
    used: np.ndarray

    @property
    def counts_line(self) -> bool:
        """Whether all pulses of the tunnel have slots, not only those of one undulator."""
        return self.key == "intensityTD"

    def joule(self, found: Findings) -> float:
        """Return the unit of the values in J, with a warning if it is assumed."""
        if _joule(self.table) is None:
            found.warnings.append("pulse energy: the file gives no usable unit, microjoule assumed")
        return _joule(self.table) or _MICROJOULE

    def contradicts(self, codes: np.ndarray, topic: str) -> bool:
        """Return whether bunch patterns, uint8 (train, 2700), have none of the pulses seen here.

        In the tunnel, a monitor also sees the pulses of another undulator.
        """
        in_tunnel = self.counts_line and self.source[:3] != topic
        if (codes & (LINE | OWN if in_tunnel else OWN)).any():
            return False
        factor = _joule(self.table) or _MICROJOULE
        return bool(np.nanmedian(self.values[:, self.used]) * factor > _LIGHT)

    def at(self, train_id: np.ndarray, slot: np.ndarray) -> np.ndarray:
        """Return the values in one slot for each frame, NaN where there is none."""
        row = self.table.rows(train_id)
        known = (row >= 0) & (slot >= 0) & (slot < self.values.shape[1])
        return np.where(known, self.values[row, np.where(known, slot, 0)], np.nan)


def monitors(files: BeamlineFiles, frames: Frames, found: Findings) -> Iterator[Monitor]:
    """Yield the pulse energies of the gas monitors that have any, in the order of their use.

    XGMs that serve two undulators also have ``data.intensitySa1TD`` and ``data.intensitySa3TD``
    with the pulses of one of them, and ``data.intensityTD`` then holds both (EXtra, ``XGM``,
    argument ``default_sase``).
    """
    for source in beamline_sources(files, "instrument_sources", XGM, frames.topic):
        sase = _SASE_OF_TOPIC.get(source[:3], 0)
        for key in (f"intensitySa{sase}TD", "intensityTD"):
            monitor = read_monitor(files, source, key, found)
            if monitor is not None:
                yield monitor


def read_monitor(files: BeamlineFiles, source: str, key: str, found: Findings) -> Monitor | None:
    """Return the pulse energies under one key, None if there is nothing."""

    def read(damage: Damage) -> tuple[Monitor | None, list[Problem]]:
        own = Findings(damage=damage)
        return _read_monitor(files, source, key, own), own.problems

    if files.reads_ahead:
        return read(found.damage)[0]
    # several rules ask for it
    monitor, problems = files.once(("monitor", source, key), found.damage, read)
    found.problems += [problem for problem in problems if problem not in found.problems]
    return monitor


def _read_monitor(files: BeamlineFiles, source: str, key: str, found: Findings) -> Monitor | None:
    table = read_table(files, f"{source}/data", f"INSTRUMENT/{source}/data/{key}", found.damage)
    if table is None:
        return None
    values, used = written_slots(table.values)
    factor, name = _joule(table) or _MICROJOULE, f"{source} data.{key}"
    values = without_impossible(values, factor, PULSE_ENERGY, name, found)
    return Monitor(source, key, table, values, used) if used.size else None


def _joule(table: TrainTable) -> float | None:
    """Return the unit of a monitor's numbers in J, None if the file does not tell."""
    unit = table.unit()
    return unit.factor if unit and unit.symbol == "J" else None


def pulse_energy(
    files: BeamlineFiles, frames: Frames, found: Findings
) -> tuple[np.ndarray, MonitorSlots] | None:
    """Return the pulse energy of every frame in J, float64 (frame,), and where it was found.

    0 where the bunch pattern has no pulse; NaN where it is unknown. None without any XGM value.
    How slots and pulse numbers are matched is said in `xfelmpi.run.machine.pulse_matching`.

    Parameters
    ----------
    files : BeamlineFiles
    frames : Frames
    found : Findings
    """
    for monitor in monitors(files, frames, found):
        slots = monitor_slots(files, monitor, frames, found)
        found.use("pulse_energy", f"{monitor.source} data.{monitor.key}", slots.rule)
        found.warn_missing("pulse energy", np.where(slots.dark, 0.0, slots.energy))
        record_unknown(np.isnan(slots.energy) & ~slots.dark, frames, found)
        return np.where(slots.dark, 0.0, slots.energy * monitor.joule(found)), slots
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
        what += f", and {len(found.damage)} files with beamline data cannot be read"
    train = 0 if unknown.all() else int(frames.train_id[unknown].min())
    found.problems.append(Problem(what, file, -1, train, "pulse energy is NaN there"))


def monitor_slots(
    files: BeamlineFiles, monitor: Monitor, frames: Frames, found: Findings
) -> MonitorSlots:
    """Match the slots of a gas monitor with the frames.

    Parameters
    ----------
    files : BeamlineFiles
    monitor : Monitor
    frames : Frames
    found : Findings
    """
    counted = LINE if monitor.counts_line else OWN
    if frames.slots is not None:
        slot = frames.slots.line if monitor.counts_line else frames.slots.own
        rule = frames.slots.rule
    else:
        sase = _SASE_OF_TOPIC.get(monitor.source[:3], 0)
        pattern = bunch_pattern(files, sase, frames.topic, found.damage) if sase else None
        table = pattern[0] if pattern else None
        if table is not None and monitor.contradicts(table.values, frames.topic):
            table = None
        slot, rule = _match(frames, monitor.used, table, counted)
    # a train can have more pulses than the monitor has slots
    dark = slot == DARK
    slot = np.where(slot < monitor.values.shape[1], np.maximum(slot, -1), -1)
    energy = monitor.at(frames.train_id, slot)
    return MonitorSlots(monitor.table, slot, energy, dark, rule, monitor.counts_line)


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
            return match_pattern(frames.pulse_id, row, pattern.values, counted, frames.grid)
    return match_slots(frames.pulse_id, slots, frames.grid)
