"""The X-ray pulses of frames by bunch pattern, gas monitor and the settings of the detector.

As EXtra-redu 1.1 computes them (``litfrm/``).
"""

from dataclasses import dataclass

import numpy as np

from xfelmpi.core.machine_records import UNKNOWN_PULSES
from xfelmpi.run.machine.bunch_pattern import bunch_pattern
from xfelmpi.run.machine.control_data import BeamlineFiles
from xfelmpi.run.machine.detector_timing import DetectorTiming, UnusableError, detector_timing
from xfelmpi.run.machine.findings import Findings
from xfelmpi.run.machine.lit_frames import FRAMES_AT_ONCE, NUMBERS, FrameLight
from xfelmpi.run.machine.pulse_matching import (
    DARK,
    LINE,
    MAX_PULSES,
    OWN,
    pulse_ranks,
    rows_by_pattern,
)
from xfelmpi.run.machine.train_table import TrainTable
from xfelmpi.run.machine.xgm import Frames, Monitor, PulseSlots, monitors


def computed_light(files: BeamlineFiles, frames: Frames, found: Findings) -> FrameLight | None:
    """Return what follows from bunch pattern, gas monitor and detector settings; None if it cannot.

    Parameters
    ----------
    files : BeamlineFiles
    frames : Frames
    found : Findings
        Gets a warning if there are settings that do not tell.
    """
    try:
        timing = detector_timing(files, frames.detector, found.damage)
    except UnusableError as why:
        found.warnings.append(f"lit frames: {why}; the detector's settings are not used")
        return None
    pattern = bunch_pattern(files, frames.sase, frames.topic, found.damage) if timing else None
    if timing is None or pattern is None or not pattern[0].trains.size:
        return None
    table, source = pattern
    monitor = next(monitors(files, frames, found), None)
    if monitor is not None and monitor.contradicts(table.values, frames.topic):
        found.warnings.append(
            f"{source} has no pulse of this instrument in the whole run, but {monitor.source} has "
            "pulse energies: the bunch pattern is not used"
        )
        return None
    rule = f"{timing.source}, {timing.rule}"
    return light_by_timing(frames, timing, table, monitor, (source, rule), found)


def light_by_timing(
    frames: Frames,
    timing: DetectorTiming,
    pattern: TrainTable,
    monitor: Monitor | None,
    origin: tuple[str, str],
    found: Findings,
) -> FrameLight:
    """Return the light of every frame by the slots that it was open for.

    Parameters
    ----------
    frames : Frames
    timing : DetectorTiming
    pattern : TrainTable
        Codes, uint8 (train, 2700).
    monitor : Monitor or None
        None: energies are not known.
    origin : (str, str)
        Source and rule, for the log.
    found : Findings
    """
    codes = pattern.values
    slots = _OpenSlots(
        timing=timing,
        own=(codes & OWN) != 0,
        ranks={code: pulse_ranks(codes, code) for code in (LINE, OWN)},
        monitor=monitor,
    )
    row = rows_by_pattern(pattern.rows(frames.train_id), codes)
    # a part at a time: a dozen arrays of all frames would be in memory for a moment
    parts = [
        slots.light(frames.train_id[some], frames.pulse_id[some], row[some])
        for a in range(0, max(len(row), 1), FRAMES_AT_ONCE)
        for some in [slice(a, a + FRAMES_AT_ONCE)]
    ]
    n_pulses, energy, bunch, line, own = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    energy *= monitor.joule(found) if monitor else np.nan
    energy[n_pulses == 0] = 0.0
    source, rule = origin
    if monitor is not None:
        source = f"{monitor.source} data.{monitor.key}, {source}"
    return FrameLight(n_pulses, energy, bunch, PulseSlots(line, own, rule), source, rule)


@dataclass(frozen=True, kw_only=True)
class _OpenSlots:
    """The slots of the bunch pattern that frames are open for.

    Parameters
    ----------
    timing : DetectorTiming
    own : ndarray, bool (pattern, slot)
        Slots with a pulse of the instrument's undulator.
    ranks : dict of int to ndarray, int16 (pattern, slot)
        How many pulses of the line (or of the undulator) there were before, by `LINE` and `OWN`.
    monitor : Monitor or None
    """

    timing: DetectorTiming
    own: np.ndarray
    ranks: dict[int, np.ndarray]
    monitor: Monitor | None

    def light(self, train_id, pulse_id, row) -> tuple[np.ndarray, ...]:
        """Return the light of some frames.

        Parameters
        ----------
        train_id, pulse_id : ndarray, uint64 (frame,)
        row : ndarray, int64 (frame,)
            Pattern of each, -1 if unknown.

        Returns
        -------
        n_pulses : ndarray, uint8 (frame,)
        energy : ndarray, float64 (frame,)
            In the unit of the monitor.
        bunch : ndarray, int64 (frame, pulse)
        line, own : ndarray, int64 (frame,)
            See `PulseSlots`.
        """
        timing, monitor = self.timing, self.monitor
        number = np.minimum(pulse_id, NUMBERS).astype(np.int64) - timing.first
        cell, rest = np.divmod(number, timing.stride)
        known = (row >= 0) & (rest == 0) & (cell >= 0) & (cell < timing.n_frames)
        row = np.where(known, row, 0)
        begin = self.own.argmax(axis=1)[row] - timing.shift + cell * timing.stride
        n, energy = np.zeros(len(row), np.int64), np.zeros(len(row))
        bunch = np.full((len(row), timing.exposure), -1)
        last = {code: np.full(len(row), DARK) for code in self.ranks}
        for i in range(timing.exposure):
            slot = np.clip(begin + i, 0, MAX_PULSES - 1)
            lit = known & (slot == begin + i) & self.own[row, slot]
            bunch[lit, n[lit]] = slot[lit]
            n += lit
            for code, rank in self.ranks.items():
                last[code][lit] = rank[row, slot][lit]
            if monitor is not None:
                counted = self.ranks[LINE if monitor.counts_line else OWN]
                pulse = monitor.at(train_id, np.where(lit, counted[row, slot], -1))
                energy += np.where(lit, pulse, 0.0)
        # as the lit-frame finder writes it, so that both give the same number
        energy = energy.astype(np.float32).astype(np.float64)
        energy[~known] = np.nan
        for of_pulses in last.values():
            of_pulses[~known] = -1
        n_pulses = np.where(known, n, UNKNOWN_PULSES).astype(np.uint8)
        return n_pulses, energy, bunch, last[LINE], last[OWN]
