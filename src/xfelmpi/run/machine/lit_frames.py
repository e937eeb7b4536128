"""Which X-ray pulses made a frame, and what energy they had.

The detector's pulse numbers count from a zero of their own; only its trigger tells which pulse of
the machine a frame saw. The facility's lit-frame finder knows it, and writes it for every frame;
without it, the same is computed from the settings as EXtra-redu 1.1 does (``litfrm/``).
"""

from dataclasses import dataclass

import numpy as np

from xfelmpi.core.machine_records import UNKNOWN_PULSES
from xfelmpi.run.machine.bunch_pattern import bunch_pattern
from xfelmpi.run.machine.control_data import BeamlineFiles
from xfelmpi.run.machine.findings import Findings
from xfelmpi.run.machine.pulse_matching import LASER, LINE, MAX_PULSES, OWN, rows_by_pattern
from xfelmpi.run.machine.xgm import Frames, MonitorSlots, PulseSlots

_TOLERANCE = 1e-3
"""Energies from two sources that differ by more than this, relatively, contradict each other."""

NUMBERS = 1 << 12
"""Pulse numbers are below."""

FRAMES_AT_ONCE = 1 << 17
"""Frames that are looked at together."""


@dataclass(frozen=True)
class FrameLight:
    """The X-ray pulses of every frame.

    Parameters
    ----------
    n_pulses : ndarray, uint8 (frame,)
        `UNKNOWN_PULSES` where it is not known.
    energy : ndarray, float64 (frame,)
        Sum of their energies in J, 0 without any, NaN where it is not known.
    bunch : ndarray, int64 (frame, pulse)
        Their bunch slots, -1 behind the last one.
    slots : PulseSlots or None
        None if the rules of `pulse_matching` tell as much.
    source : str
    rule : str
    """

    n_pulses: np.ndarray
    energy: np.ndarray
    bunch: np.ndarray
    slots: PulseSlots | None
    source: str
    rule: str


def matched_light(
    files: BeamlineFiles, frames: Frames, matched: MonitorSlots, energy: np.ndarray, found: Findings
) -> FrameLight:
    """Return what the rules of `pulse_matching` tell: one pulse for every slot of the monitor.

    Parameters
    ----------
    files : BeamlineFiles
    frames : Frames
    matched : MonitorSlots
    energy : ndarray, float64 (frame,)
        J.
    found : Findings
    """
    n = np.where(matched.dark, 0, np.where(matched.slot < 0, UNKNOWN_PULSES, 1)).astype(np.uint8)
    bunch = np.full((len(n), 1), -1)
    pattern = bunch_pattern(files, frames.sase, frames.topic, found.damage)
    if pattern is not None and (pattern[0].values & LASER).any():
        table, counted = pattern[0], LINE if matched.counts_line else OWN
        row = rows_by_pattern(table.rows(frames.train_id), table.values)
        # bunch slots with a pulse first, in their order
        order = np.argsort((table.values & counted) == 0, axis=1, kind="stable")
        known = (row >= 0) & (matched.slot >= 0) & (n == 1)
        bunch[known, 0] = order[row[known], matched.slot[known]]
    return FrameLight(n, energy, bunch, None, "", matched.rule)


def contradictions(recorded: FrameLight, other: FrameLight) -> str:
    """Return what two sources say differently, empty if nothing that both know."""
    both = (recorded.n_pulses < UNKNOWN_PULSES) & (other.n_pulses < UNKNOWN_PULSES)
    pulses = int((both & (recorded.n_pulses != other.n_pulses)).sum())
    a, b = recorded.energy, other.energy
    known = both & np.isfinite(a) & np.isfinite(b) & (recorded.n_pulses == other.n_pulses)
    differs = np.abs(a - b) > _TOLERANCE * np.maximum(np.abs(a), np.abs(b))
    energies = int((known & differs).sum())
    parts = []
    if pulses:
        parts.append(f"the number of pulses of {pulses:,} frames")
    if energies:
        parts.append(f"the pulse energy of {energies:,} frames")
    return " and ".join(parts)


def pumped_frames(files: BeamlineFiles, frames: Frames, light: FrameLight, found: Findings):
    """Return which frames saw a pulse of the pump laser, uint8 (frame,), and the source.

    1: with laser, 0: without, 255: not known. None if the files say nothing of a laser.

    Parameters
    ----------
    files : BeamlineFiles
    frames : Frames
    light : FrameLight
    found : Findings
    """
    pattern = bunch_pattern(files, frames.sase, frames.topic, found.damage)
    if pattern is None or not (pattern[0].values & LASER).any():
        return None
    table, source = pattern
    row = rows_by_pattern(table.rows(frames.train_id), table.values)[:, None]
    known = (row >= 0) & (light.bunch >= 0) & (light.bunch < MAX_PULSES)
    laser = table.values[np.maximum(row, 0), np.where(known, light.bunch, 0)] & LASER != 0
    pumped = (known & laser).any(axis=1).astype(np.uint8)
    pumped[(light.n_pulses == UNKNOWN_PULSES) | (row[:, 0] < 0)] = UNKNOWN_PULSES
    return pumped, source
