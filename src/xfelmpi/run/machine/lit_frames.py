"""Which X-ray pulses made a frame, and what energy they had.

The detector's pulse numbers count from a zero of their own; only its trigger tells which pulse of
the machine a frame saw. The facility's lit-frame finder knows it, and writes it for every frame;
without it, the same is computed from the settings as EXtra-redu 1.1 does (``litfrm/``).
"""

from dataclasses import dataclass, replace

import numpy as np

from xfelmpi.core.machine_records import UNKNOWN_PULSES
from xfelmpi.run.machine.bunch_pattern import bunch_pattern
from xfelmpi.run.machine.control_data import BeamlineFiles
from xfelmpi.run.machine.detector_timing import (
    DetectorTiming,
    UnusableError,
    detector_timing,
    lit_frame_finders,
)
from xfelmpi.run.machine.findings import Findings
from xfelmpi.run.machine.possible import PULSE_ENERGY, without_impossible
from xfelmpi.run.machine.pulse_matching import (
    DARK,
    LASER,
    LINE,
    MAX_PULSES,
    OWN,
    rows_by_pattern,
)
from xfelmpi.run.machine.train_table import TrainTable, read_table
from xfelmpi.run.machine.xgm import Frames, Monitor, MonitorSlots, PulseSlots, monitors

MISSED = 10_000.0
"""µJ that the lit-frame finder takes for a pulse that the gas monitor missed."""

_MOST_PULSES = 8
"""X-ray pulses of a frame at most: bunch slots from frame to frame at 0.5 MHz."""

_TOLERANCE = 1e-3
"""Energies from two sources that differ by more than this, relatively, contradict each other."""

_NUMBERS = 1 << 12
"""Pulse numbers are below."""

_PART = 1 << 17
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


def recorded_light(files: BeamlineFiles, frames: Frames, found: Findings) -> FrameLight | None:
    """Return what the facility's lit-frame finder wrote; None if it wrote nothing.

    Parameters
    ----------
    files : BeamlineFiles
    frames : Frames
    found : Findings
    """
    for source in lit_frame_finders(files, frames.detector, "instrument_sources"):
        tables = _Finder.read(files, source, found)
        if tables is not None:
            return tables.light(files, frames, found)
    return None


@dataclass(frozen=True)
class _Finder:
    """What a lit-frame finder wrote, one row a train.

    Parameters
    ----------
    source : str
        Its output channel.
    pulse_ids, n_pulses, energy : TrainTable
        (train, frame)
    xgm, master : TrainTable or None
        (train, pulse): slot of each pulse in the gas monitor's array, and in the bunch pattern.
    """

    source: str
    pulse_ids: TrainTable
    n_pulses: TrainTable
    energy: TrainTable
    xgm: TrainTable | None
    master: TrainTable | None

    @classmethod
    def read(cls, files: BeamlineFiles, source: str, found: Findings) -> "_Finder | None":
        """Read what the finder wrote; None if tables are missing, or do not fit each other."""
        keys = ("detectorPulseId", "nPulsePerFrame", "energyPerFrame", "xgmPulseId")
        tables = {}
        for key in (*keys, "masterPulseId", "nFrame"):
            path = f"INSTRUMENT/{source}/data/{key}"
            tables[key] = read_table(files, f"{source}/data", path, found.damage)
        ids, n_pulses, energy, xgm = (tables[key] for key in keys)
        if ids is None or n_pulses is None or energy is None or ids.values.ndim != 2:
            return None
        if not ids.values.shape == n_pulses.values.shape == energy.values.shape:
            return None
        same = all(np.array_equal(ids.trains, table.trains) for table in (n_pulses, energy))
        if not same or not ids.trains.size:
            return None
        count, pulse_ids = tables["nFrame"], ids.values.astype(np.int64)
        if count is not None and count.values.ndim == 1:
            row = count.rows(ids.trains)
            n_frames = np.where(row < 0, 0, count.values[row]).astype(np.int64)
            pulse_ids[np.arange(pulse_ids.shape[1]) >= n_frames[:, None]] = -1
        ids = replace(ids, values=pulse_ids)
        return cls(source, ids, n_pulses, energy, xgm, tables["masterPulseId"])

    def light(self, files: BeamlineFiles, frames: Frames, found: Findings) -> FrameLight:
        """Return the light of frames, found by train ID and pulse number."""
        row = self.pulse_ids.rows(frames.train_id)
        place = self._place(row, frames.pulse_id)
        known = (row >= 0) & (place >= 0)
        row, place = np.where(known, row, 0), np.where(known, place, 0)
        count = self.n_pulses.values[row, place].astype(np.int64)
        energy = self.energy.values[row, place].astype(np.float64)
        missed = (count > 0) & ((energy == MISSED) | (energy == MISSED * count))
        energy[~known | missed] = np.nan
        unit = self.energy.unit()
        factor = unit.factor if unit and unit.symbol == "J" else 1e-6
        name = f"{self.source} data.energyPerFrame"
        energy = without_impossible(energy, factor, PULSE_ENERGY, name, found) * factor
        energy[known & (count == 0)] = 0.0
        before = np.cumsum(self.n_pulses.values, axis=1, dtype=np.int64)[row, place] - count
        known &= count <= _MOST_PULSES
        count = np.where(known, count, 0)
        bunch = self._pulses(self.master, frames, before, count)
        line = self._pulses(self.xgm, frames, before, count)
        n = np.where(known, count, UNKNOWN_PULSES).astype(np.uint8)
        rule = "by train ID and pulse number, as the facility's lit-frame finder has it"
        own = _own_ranks(files, frames, bunch, found)
        slots = PulseSlots(_last(line, n), _last(line if own is None else own, n), rule)
        return FrameLight(n, energy, bunch, slots, self.source, rule)

    def _place(self, row: np.ndarray, pulse_id: np.ndarray) -> np.ndarray:
        """Return which frame of its row has a pulse number, int64 (frame,), -1 if none."""
        values = self.pulse_ids.values
        if (values == values[0]).all():
            # as a rule, all trains are alike
            patterns, of_row = values[:1], np.zeros(len(values), np.int64)
        else:
            patterns, of_row = np.unique(values, axis=0, return_inverse=True)
        place = np.full((len(patterns), _NUMBERS + 1), -1)
        pattern, frame = np.nonzero((patterns >= 0) & (patterns < _NUMBERS))
        place[pattern, patterns[pattern, frame]] = frame
        number = np.minimum(pulse_id, _NUMBERS).astype(np.int64)
        return place[of_row.reshape(-1)[np.maximum(row, 0)], number]

    def _pulses(
        self, table: TrainTable | None, frames: Frames, before: np.ndarray, count: np.ndarray
    ) -> np.ndarray:
        """Return what a list of the train's lit pulses says of those of each frame, (frame, pulse).

        Frames come in the order of the list, after `before` pulses of earlier ones.
        """
        most = int(count.max(initial=0))
        listed = np.full((len(count), most), -1)
        if table is None or table.values.ndim != 2:
            return listed
        row = table.rows(frames.train_id)
        for i in range(most):
            there = (i < count) & (row >= 0) & (before + i < table.values.shape[1])
            listed[there, i] = table.values[row[there], before[there] + i]
        return listed


def _own_ranks(
    files: BeamlineFiles, frames: Frames, bunch: np.ndarray, found: Findings
) -> np.ndarray | None:
    """Return which of the undulator's pulses those in the bunch slots are, None if unknown."""
    pattern = bunch_pattern(files, frames.sase, frames.topic, found.damage)
    if pattern is None or not pattern[0].trains.size:
        return None
    table, _ = pattern
    row = rows_by_pattern(table.rows(frames.train_id), table.values)
    rank = np.cumsum((table.values & OWN) != 0, axis=1, dtype=np.int16) - 1
    known = (row[:, None] >= 0) & (bunch >= 0) & (bunch < MAX_PULSES)
    return np.where(known, rank[row[:, None], np.where(known, bunch, 0)], -1)


def _last(listed: np.ndarray, n_pulses: np.ndarray) -> np.ndarray:
    """Return the last entry of each frame; `DARK` without a pulse, -1 if unknown."""
    slot = listed.max(axis=1, initial=-1).astype(np.int64)
    slot[n_pulses == UNKNOWN_PULSES] = -1
    slot[n_pulses == 0] = DARK
    return slot


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
        ranks={
            code: np.cumsum((codes & code) != 0, axis=1, dtype=np.int16) - 1 for code in (LINE, OWN)
        },
        monitor=monitor,
    )
    row = rows_by_pattern(pattern.rows(frames.train_id), codes)
    # a part at a time: a dozen arrays of all frames would be in memory for a moment
    parts = [
        slots.light(
            frames.train_id[a : a + _PART], frames.pulse_id[a : a + _PART], row[a : a + _PART]
        )
        for a in range(0, max(len(row), 1), _PART)
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
        number = np.minimum(pulse_id, _NUMBERS).astype(np.int64) - timing.first
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
