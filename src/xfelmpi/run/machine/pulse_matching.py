"""Which slot of the gas monitor's per-pulse array belongs to which frame: arrays only, no files.

An XGM writes its pulses packed: the k-th slot is the k-th pulse of the bunch pattern, whatever
their distance, and the slots behind the last pulse keep their default (EXtra,
``XGM.pulse_energy``; EXtra-redu 1.1, ``base/litfrm.py``, ``process_train``). The pulseId of a
frame, in contrast, counts bunch slots: cell × step + first (``get_agipd_frames_annotation``
there). So slot and pulseId are brought together through the pattern: the time server's table if
the run has it (`match_pattern`), else what the pulse numbers of the run tell (`match_slots`).
"""

import math
from dataclasses import dataclass

import numpy as np

MAX_PULSES = 2700
"""Bunch slots of a train at 4.5 MHz, numbered from 0; no pulseId is larger."""

LINE, OWN, LASER = 1, 2, 4
"""Bits of a decoded bunch pattern: light in the tunnel; light of the instrument's undulator; a
pulse of the instrument's pump laser."""

DARK = -2
"""Instead of a slot: the train's bunch pattern has no pulse there."""

REFERENCE_FRAME = 1
"""Frame that the first pulse makes if nothing says which one: EXtra-redu's ``referenceFrame``."""

NO_PULSE_IN_CELL_0 = (
    "assumed: the first pulse made the frames of memory cell 1, as EXtra-redu assumes "
    "(referenceFrame 1)"
)

_BY_SETTINGS = "the first pulse made the frames of memory cell {} (referenceFrame)"

_UNFILLED = (-1, 0, 1)
"""Values of slots that hold no pulse: 1 is the XGM's default, 0 was never written, and -1 stands
for no value elsewhere; a measured energy is none of them exactly."""

_DESTINATION, _T4D, _T5D, _DEFLECTED = 0xF << 18, 4 << 18, 2 << 18, 1 << 27


@dataclass(frozen=True)
class Grid:
    """Pulse numbers of the memory cells: ``zero + cell * stride``.

    Parameters
    ----------
    zero, stride : int
    reference : int or None
        Memory cell of the first pulse by the lit-frame finder's settings; None: not known.
    """

    zero: int
    stride: int
    reference: int | None = None

    @property
    def first_lit(self) -> int:
        """Memory cell of the first pulse, assumed if it is not known."""
        return REFERENCE_FRAME if self.reference is None else self.reference

    @property
    def rule(self) -> str:
        """What the log says of it."""
        if self.reference is None:
            return NO_PULSE_IN_CELL_0
        return _BY_SETTINGS.format(self.reference)

    @classmethod
    def of(cls, cell_id: np.ndarray, pulse_id: np.ndarray) -> "Grid | None":
        """Return the grid of frames; None if they are on none, or of one cell only.

        Parameters
        ----------
        cell_id, pulse_id : ndarray, integer (frame,)
            Flipped bits in a few of them do not matter.
        """
        known = (cell_id < 1 << 12) & (pulse_id < MAX_PULSES)
        cell, pulse = cell_id[known].astype(np.int64), pulse_id[known].astype(np.int64)
        if not cell.size or cell.min() == cell.max():
            return None
        pairs, counts = np.unique(cell * MAX_PULSES + pulse, return_counts=True)
        pairs = pairs[counts >= max(1, counts.max() / 100)]
        cell, pulse = pairs // MAX_PULSES, pairs % MAX_PULSES
        step, rest = divmod(int(pulse[-1] - pulse[0]), max(int(cell[-1] - cell[0]), 1))
        zero = int(pulse[0] - cell[0] * step)
        on_grid = (pulse == zero + cell * step).mean() > MOST_ON_GRID
        return cls(zero, step) if step > 0 and not rest and zero >= 0 and on_grid else None


MOST_ON_GRID = 0.9
"""Share of the frames' pairs of cell and pulse number that make a grid."""


def written_slots(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find which slots of a per-pulse array were used in a run.

    Parameters
    ----------
    values : ndarray, number (train, ...)
        As stored, in the file's unit.

    Returns
    -------
    values : ndarray, float64 (train, slot)
        NaN where a slot holds no number: unfilled, NaN or infinite. Numbers below zero stay:
        an XGM's noise around no beam is a measurement.
    slots : ndarray, int64 (used,)
        Slots used in any train, ascending, up to the last one with a number. NaN or infinity
        in between was written too, and counts as used.
    """
    values = np.array(values, np.float64).reshape(len(values), math.prod(values.shape[1:]))
    unfilled = np.isin(values, _UNFILLED)
    slots = np.flatnonzero(~unfilled.all(axis=0))
    values[unfilled | ~np.isfinite(values)] = np.nan
    last = np.flatnonzero(~np.isnan(values).all(axis=0))[-1:]
    return values, slots[slots <= last] if last.size else last


def decode_pattern(table: np.ndarray, sase: int, laser_bit: int = -1) -> np.ndarray:
    """Reduce the time server's bunch patterns to the pulses of one undulator.

    Parameters
    ----------
    table : ndarray, uint32 (train, bunch slot)
        ``bunchPatternTable``: bits 18 … 21 are the destination of a bunch, bit 27 the kick
        from SASE 1 to SASE 3 (XFEL timing system specification 2.2, as in
        euxfel_bunch_pattern).
    sase : int
        1, 2 or 3.
    laser_bit : int
        Of the pump laser, -1 for none.

    Returns
    -------
    ndarray, uint8 (train, 2700)
        `LINE` for every pulse of the tunnel, with `OWN` for those of this undulator; `LASER`.
    """
    bunches = table[:, :MAX_PULSES].astype(np.uint32)
    line = (bunches & _DESTINATION) == (_T5D if sase == 2 else _T4D)
    own = line & (((bunches & _DEFLECTED) != 0) == (sase == 3)) if sase != 2 else line
    codes = np.zeros((len(bunches), MAX_PULSES), np.uint8)
    codes[:, : bunches.shape[1]] = line * np.uint8(LINE) + own * np.uint8(OWN)
    if laser_bit >= 0:
        laser = bunches >> np.uint32(laser_bit) & np.uint32(1)
        codes[:, : bunches.shape[1]] |= laser.astype(np.uint8) * np.uint8(LASER)
    return codes


def match_pattern(
    pulse_id: np.ndarray, row: np.ndarray, codes: np.ndarray, counted: int, grid: Grid | None = None
) -> tuple[np.ndarray, str]:
    """Say in which slot of the XGM the pulse of each frame stands, by the bunch pattern.

    The k-th slot is the k-th pulse of the train's pattern. The detector may count bunch slots
    from another zero than the time server does: if twice as many of the run's pulse numbers
    become pulses of the pattern that way, it is assumed that the first pulse made the frame
    with the lowest pulse number (EXtra-redu's "by first pulse").

    Parameters
    ----------
    pulse_id : ndarray, integer (frame,)
        Pulse numbers of the run's frames.
    row : ndarray, int64 (frame,)
        The frame's train in `codes`, -1 if not in it. Such frames get no slot, unless the
        pattern is the same in all trains.
    codes : ndarray, uint8 (train, 2700)
        From `decode_pattern`.
    counted : int
        Which pulses fill the XGM's slots, `LINE` or `OWN`.
    grid : Grid, optional
        Pulse numbers of the memory cells. Unless the numbers or the settings say otherwise,
        cell 0 is assumed to see no pulse (`REFERENCE_FRAME`).

    Returns
    -------
    slot : ndarray, int64 (frame,)
        -1 where the frame has no slot, `DARK` where it has no pulse at all.
    rule : str
        The rule that was used, for the log.
    """
    own = (codes & OWN) != 0
    rank = pulse_ranks(codes, counted)
    row = rows_by_pattern(row, codes)
    pulses, numbers = np.flatnonzero(own.any(axis=0)), run_pattern(pulse_id)
    shift = int(pulses[0] - numbers[0]) if pulses.size and numbers.size else 0
    if np.isin(numbers + shift, pulses).sum() <= 2 * np.isin(numbers, pulses).sum():
        shift = 0
    assumed = bool(grid and pulses.size and (shift or pulses[0] == grid.zero))
    if grid and assumed:
        shift = int(pulses[0]) - grid.zero - grid.first_lit * grid.stride
    bunch = np.minimum(pulse_id, MAX_PULSES).astype(np.int64) + shift
    known = (row >= 0) & (pulse_id < MAX_PULSES) & (bunch < MAX_PULSES)
    before = bunch < 0
    bunch = np.where(known & ~before, bunch, 0)
    rule = "k-th value is the k-th pulse of the train's bunch pattern"
    if grid and assumed:
        rule += f"; {grid.rule}"
    elif shift:
        rule += f"; assumed: its first pulse, {pulses[0]}, made the frames of pulse {numbers[0]}"
    slot = np.where(own[row, bunch] & ~before, rank[row, bunch], DARK)
    return np.where(known, slot, -1).astype(np.int64), rule


def pulse_ranks(codes: np.ndarray, counted: int) -> np.ndarray:
    """Return which one of its train's pulses is in a slot, or was the last one before, from 0.

    Parameters
    ----------
    codes : ndarray, uint8 (train, 2700)
        From `decode_pattern`.
    counted : int
        Which pulses count, `LINE` or `OWN`.

    Returns
    -------
    ndarray, int16 (train, 2700)
        Not to be changed. -1 before the first pulse.
    """
    pulses = (codes & counted) != 0
    if len(pulses) and (pulses == pulses[0]).all():
        # as a rule, all trains are alike
        pulses = pulses[:1]
    rank = np.cumsum(pulses, axis=1, dtype=np.int16) - 1
    return np.broadcast_to(rank, codes.shape)


def rows_by_pattern(row: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the rows of frames in a table of patterns, also of trains that it lacks if it can be.

    Parameters
    ----------
    row : ndarray, int64 (frame,)
        -1 where the table lacks the train: it is another's if all have the same pattern.
    codes : ndarray, uint8 (train, 2700)
        From `decode_pattern`.
    """
    light = codes & (LINE | OWN)
    return np.where(row < 0, 0, row) if len(light) and (light == light[0]).all() else row


def match_slots(
    pulse_id: np.ndarray, slots: np.ndarray, grid: Grid | None = None
) -> tuple[np.ndarray, str]:
    """Say in which slot of the XGM the pulse of each frame stands, without a bunch pattern.

    Slots are packed, but files with slots by pulse number exist too. The pulse numbers of the
    run (`run_pattern`) are taken for the bunch pattern, so frames that were vetoed in some
    trains do not shift the others. With n slots used, up to the last one, and p pulse numbers:

    1. every used slot's number is a pulse number of the run: by pulse number (for pulses
       numbered 0, 1, 2 … both readings are the same);
    2. n = p: packed, the k-th slot is the k-th pulse number;
    3. slots in between are unfilled in the whole run: by pulse number;
    4. every pulse number is below n: by pulse number, the XGM saw pulses that the detector did
       not record;
    5. else XGM and detector saw different numbers of pulses, and it is *assumed* that the slots
       are packed and the pulses regular: slot = (pulseId - first) / step, with step the
       greatest common divisor of the distances, and first the lowest pulse number of the run,
       or as much lower as the XGM has more pulses. Frames off this grid get no slot.

    While the counts agree, no rule can see a detector that starts before the first pulse: its
    delay is not in these data. With `grid`, the first pulse made the frames of the cell that the
    settings name, else of cell 1 (`REFERENCE_FRAME`), and earlier cells are dark: where slots are
    packed, every cell has the slot of so many cells before.

    Parameters
    ----------
    pulse_id : ndarray, integer (frame,)
        Pulse numbers of the run's frames.
    slots : ndarray, int64 (used,)
        Slots used in the run, ascending, at least one.
    grid : Grid, optional
        Pulse numbers of the memory cells.

    Returns
    -------
    slot : ndarray, int64 (frame,)
        -1 where the frame has no slot, `DARK` where it is assumed to have no pulse.
    rule : str
        The rule that was used, for the log.
    """
    numbers = run_pattern(pulse_id)
    n, p = int(slots[-1]) + 1, numbers.size
    slot_of_pulse = np.full(MAX_PULSES + 1, -1)
    by_number = bool(np.isin(slots, numbers).all())
    if n == p and not by_number:
        slot_of_pulse[numbers] = np.arange(n)
        rule = f"k-th of {n} values is the k-th pulse number of the run"
    elif by_number or slots.size < n or (p and numbers[-1] < n):
        used = slots[slots < MAX_PULSES]
        slot_of_pulse[used] = used
        rule = f"slots are pulse numbers, {slots.size} filled for {p} pulse numbers in the run"
    else:
        first, step = _grid(numbers, n)
        regular = first + step * np.arange(n)
        regular = regular[regular < MAX_PULSES]
        slot_of_pulse[regular] = np.arange(regular.size)
        rule = f"{n} values, but {p} pulse numbers in the run; assumed: k-th value is "
        rule += f"pulse {first} + {step} k"
    number = np.minimum(pulse_id, MAX_PULSES).astype(np.int64)
    packed = slots.size == n
    if grid is None or not packed or slot_of_pulse[min(grid.zero, MAX_PULSES)] != 0:
        return slot_of_pulse[number], rule
    delay = grid.first_lit * grid.stride
    before = np.where(number < MAX_PULSES, number - delay, MAX_PULSES)
    dark = (number >= grid.zero) & (number < grid.zero + delay)
    return np.where(dark, DARK, slot_of_pulse[np.maximum(before, -1)]), f"{rule}; {grid.rule}"


def run_pattern(pulse_id: np.ndarray) -> np.ndarray:
    """Return the pulse numbers of a run, int64 (number,), ascending.

    Without those rarer than 1 % of the commonest: these are flipped bits.

    Parameters
    ----------
    pulse_id : ndarray, integer (frame,)
        Pulse numbers of the run's frames.
    """
    frames = np.bincount(np.minimum(pulse_id, MAX_PULSES).astype(np.int64), minlength=1)
    frames = frames[:MAX_PULSES]
    return np.flatnonzero(frames >= max(1, frames.max() / 100))


def _grid(numbers: np.ndarray, n: int) -> tuple[int, int]:
    """Return first number and step of a regular train of `n` pulses that explains `numbers`."""
    if not numbers.size:
        return 0, 1
    first = int(numbers[0])
    step = int(np.gcd.reduce(np.diff(numbers))) if numbers.size > 1 else 1
    more = n - ((int(numbers[-1]) - first) // step + 1)
    return first - step * min(first // step, max(more, 0)), step
