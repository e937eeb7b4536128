"""The X-ray pulses of frames as the facility's lit-frame finder wrote them."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from xfelmpi.core.machine_records import UNKNOWN_PULSES
from xfelmpi.run.machine.bunch_pattern import bunch_pattern
from xfelmpi.run.machine.control_data import BeamlineFiles
from xfelmpi.run.machine.detector_timing import lit_frame_finders
from xfelmpi.run.machine.findings import Findings
from xfelmpi.run.machine.lit_frames import FRAMES_AT_ONCE, NUMBERS, FrameLight
from xfelmpi.run.machine.possible import PULSE_ENERGY, without_impossible
from xfelmpi.run.machine.pulse_matching import DARK, MAX_PULSES, OWN, pulse_ranks, rows_by_pattern
from xfelmpi.run.machine.train_table import TrainTable, read_table
from xfelmpi.run.machine.xgm import Frames, PulseSlots

MISSED = 10_000.0
"""µJ that the lit-frame finder takes for a pulse that the gas monitor missed."""

_MOST_PULSES = 8
"""X-ray pulses of a frame at most: bunch slots from frame to frame at 0.5 MHz."""


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
        places, own = self._places(), _own_ranks(files, frames, found)
        # a part at a time: a dozen arrays of all frames would be in memory for a moment
        parts = [
            self._part(frames, slice(a, a + FRAMES_AT_ONCE), places, own)
            for a in range(0, max(len(frames.train_id), 1), FRAMES_AT_ONCE)
        ]
        n, energy, line, of_own = (
            np.concatenate(column) for column in zip(*(part[:4] for part in parts), strict=True)
        )
        bunch = np.full((len(n), max(part[4].shape[1] for part in parts)), -1)
        for i, part in enumerate(parts):
            bunch[i * FRAMES_AT_ONCE :][: len(part[4]), : part[4].shape[1]] = part[4]
        unit = self.energy.unit()
        factor = unit.factor if unit and unit.symbol == "J" else 1e-6
        name = f"{self.source} data.energyPerFrame"
        energy = without_impossible(energy, factor, PULSE_ENERGY, name, found) * factor
        energy[n == 0] = 0.0
        rule = "by train ID and pulse number, as the facility's lit-frame finder has it"
        return FrameLight(n, energy, bunch, PulseSlots(line, of_own, rule), self.source, rule)

    def _part(self, frames: Frames, some: slice, places, own) -> tuple[np.ndarray, ...]:
        """Return the light of some frames.

        Parameters
        ----------
        frames : Frames
        some : slice
        places
            Of `_places`.
        own
            Of `_own_ranks`.

        Returns
        -------
        n_pulses : ndarray, uint8 (frame,)
        energy : ndarray, float64 (frame,)
            As stored.
        line, own : ndarray, int64 (frame,)
            See `PulseSlots`.
        bunch : ndarray, int64 (frame, pulse)
        """
        train_id = frames.train_id[some]
        row = self.pulse_ids.rows(train_id)
        place, of_row = places
        number = np.minimum(frames.pulse_id[some], NUMBERS).astype(np.int64)
        place = place[of_row[np.maximum(row, 0)], number]
        known = (row >= 0) & (place >= 0)
        row, place = np.where(known, row, 0), np.where(known, place, 0)
        count = self.n_pulses.values[row, place].astype(np.int64)
        energy = self.energy.values[row, place].astype(np.float64)
        missed = (count > 0) & ((energy == MISSED) | (energy == MISSED * count))
        energy[~known | missed] = np.nan
        before = self._earlier[row, place] - count
        known &= count <= _MOST_PULSES
        count = np.where(known, count, 0)
        bunch = self._pulses(self.master, train_id, before, count)
        line = self._pulses(self.xgm, train_id, before, count)
        n = np.where(known, count, UNKNOWN_PULSES).astype(np.uint8)
        of_own = line
        if own is not None:
            row, rank = own[0][some, None], own[1]
            known = (row >= 0) & (bunch >= 0) & (bunch < MAX_PULSES)
            of_own = np.where(known, rank[row, np.where(known, bunch, 0)], -1)
        return n, energy, _last(line, n), _last(of_own, n), bunch

    @cached_property
    def _earlier(self) -> np.ndarray:
        """Pulses of a frame and of those before, int64 (train, frame)."""
        return np.cumsum(self.n_pulses.values, axis=1, dtype=np.int64)

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return which frame of a pattern has a pulse number, and which pattern a row has.

        Returns
        -------
        place : ndarray, int64 (pattern, number)
            -1 if none has it.
        of_row : ndarray, int64 (train,)
        """
        values = self.pulse_ids.values
        if (values == values[0]).all():
            # as a rule, all trains are alike
            patterns, of_row = values[:1], np.zeros(len(values), np.int64)
        else:
            patterns, of_row = np.unique(values, axis=0, return_inverse=True)
        place = np.full((len(patterns), NUMBERS + 1), -1)
        pattern, frame = np.nonzero((patterns >= 0) & (patterns < NUMBERS))
        place[pattern, patterns[pattern, frame]] = frame
        return place, of_row.reshape(-1)

    def _pulses(
        self, table: TrainTable | None, train_id: np.ndarray, before: np.ndarray, count: np.ndarray
    ) -> np.ndarray:
        """Return what a list of the train's lit pulses says of those of each frame, (frame, pulse).

        Frames come in the order of the list, after `before` pulses of earlier ones.
        """
        most = int(count.max(initial=0))
        listed = np.full((len(count), most), -1)
        if table is None or table.values.ndim != 2:
            return listed
        row = table.rows(train_id)
        for i in range(most):
            there = (i < count) & (row >= 0) & (before + i < table.values.shape[1])
            listed[there, i] = table.values[row[there], before[there] + i]
        return listed


def _own_ranks(
    files: BeamlineFiles, frames: Frames, found: Findings
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the frames' rows in the bunch patterns, and which of the undulator's pulses are there.

    None if it is unknown. Otherwise int64 (frame,), -1 where it is unknown, and int16 (row, 2700).
    """
    pattern = bunch_pattern(files, frames.sase, frames.topic, found.damage)
    if pattern is None or not pattern[0].trains.size:
        return None
    table, _ = pattern
    row = rows_by_pattern(table.rows(frames.train_id), table.values)
    return row, pulse_ranks(table.values, OWN)


def _last(listed: np.ndarray, n_pulses: np.ndarray) -> np.ndarray:
    """Return the last entry of each frame; `DARK` without a pulse, -1 if unknown."""
    slot = listed.max(axis=1, initial=-1).astype(np.int64)
    slot[n_pulses == UNKNOWN_PULSES] = -1
    slot[n_pulses == 0] = DARK
    return slot
