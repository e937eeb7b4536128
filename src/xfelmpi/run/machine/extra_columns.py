"""Further values per frame that the user asks for: ``--add NAME=SOURCE/KEY``."""

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import h5py
import numpy as np

from xfelmpi.core.event_table import AddedColumn
from xfelmpi.run.machine.control_data import BeamlineFiles
from xfelmpi.run.machine.findings import Damage, Findings, tolerated
from xfelmpi.run.machine.pulse_matching import MAX_PULSES, match_slots, run_pattern
from xfelmpi.run.machine.train_table import pulse_key, read_table
from xfelmpi.run.machine.xgm import (
    XGM,
    Frames,
    MonitorSlots,
    monitor_slots,
    own_energies,
    read_monitor,
)
from xfelmpi.run.train_index import first_and_count, shape_of


class _UnusableError(Exception):
    """Why there are no values; the text ends up in the log."""


@dataclass(frozen=True)
class _Place:
    """A dataset of the run: its source, the source's group below ``INDEX/``, its path."""

    source: str
    index: str
    path: str


def read_added(
    folders: tuple[BeamlineFiles, ...],
    wanted: str,
    frames: Frames,
    energy_slots: MonitorSlots | None,
    found: Findings,
) -> AddedColumn:
    """Read one value per frame.

    One number a train goes to all frames of the train. An array with one number per pulse goes to
    frames as said in `_slots`.

    Parameters
    ----------
    folders : tuple of BeamlineFiles
        The first one that has the key is read.
    wanted : str
        ``NAME=SOURCE/KEY``. Sources have slashes too: of those that the run has, it is the longest
        with which the text begins.
    frames : Frames
    energy_slots : MonitorSlots or None
        Those of the pulse energy.
    found : Findings
        Gets one warning if there are no values.
    """
    name, _, where = wanted.partition("=")
    values, units = np.full(len(frames.train_id), np.nan), ""
    try:
        values, units, rule = _read(folders, where, frames, energy_slots, found)
        if np.isnan(values).all() and values.size:
            raise _UnusableError(f"{where} has no values for the frames of this run")
        found.use(name, where, rule)
        found.warn_missing(name, values)
    except _UnusableError as why:
        found.warnings.append(f"--add {name}: {why}; NaN in all frames")
    return AddedColumn(name, values, where, units)


def _read(
    folders: tuple[BeamlineFiles, ...],
    where: str,
    frames: Frames,
    energy_slots: MonitorSlots | None,
    found: Findings,
) -> tuple[np.ndarray, str, str]:
    """Return the values, float64 (frame,), their unit, and how they were matched."""
    there = False
    for files in folders:
        for place in _places(files, where):
            width, by_pulse = _form(files, place, found.damage)
            if not width:
                continue
            there = True
            table = read_table(files, place.index, place.path, found.damage, by_pulse=by_pulse)
            if table is None:
                continue
            slot: np.ndarray | int = 0
            rule = "the train's value"
            if by_pulse:
                rule = "by train ID and the source's own pulseId"
            elif width > 1:
                slot, rule = _slots(files, place, width, frames, energy_slots, found)
            ids = (frames.train_id, frames.pulse_id)
            row = table.rows(pulse_key(*ids) if by_pulse else frames.train_id)
            stored = table.values.reshape(len(table.trains), width)
            values = np.full(len(row), np.nan)
            known = (row >= 0) & (slot >= 0)
            values[known] = stored[row[known], np.broadcast_to(slot, row.shape)[known]]
            unit = table.unit()
            return values * (unit.factor if unit else 1.0), unit.symbol if unit else "", rule
    if there:
        raise _UnusableError(f"{where} cannot be read")
    raise _UnusableError(_not_found([f for files in folders for f in files], where))


def _places(files: BeamlineFiles, where: str) -> Iterator[_Place]:
    """Yield what ``SOURCE/KEY`` can mean, the longest source first; keys may have dots."""
    control = {s for f in files for s in f.control_sources}
    sources = control | {s for f in files for s in f.instrument_sources}
    for source in sorted((s for s in sources if where.startswith(f"{s}/")), key=len)[::-1]:
        key = where.removeprefix(f"{source}/").replace(".", "/")
        if source in control:
            yield _Place(source, source, f"CONTROL/{source}/{key}/value")
            # as EXtra-data has it, the end of the name may be left out
            if key.endswith("/value"):
                yield _Place(source, source, f"CONTROL/{source}/{key}")
        else:
            group = key.partition("/")[0]
            yield _Place(source, f"{source}/{group}", f"INSTRUMENT/{source}/{key}")


def _form(files: BeamlineFiles, place: _Place, damage: Damage) -> tuple[int, bool]:
    """Return how many numbers an entry has, 0 if there is no such dataset, and if it is a pulse's.

    This looks before anything is read: a camera's images would not fit into the memory.
    """
    shape = dtype = None
    most, pulses = 0, True
    for file in files:
        with tolerated(file.name, damage):
            dataset = file.file.get(place.path)
            if isinstance(dataset, h5py.Dataset):
                shape, dtype = shape_of(dataset)[1:], dataset.dtype
                _, counts = first_and_count(file.file, place.index)
                most = max(most, int(counts.max(initial=0)))
                pulses &= f"INSTRUMENT/{place.index}/pulseId" in file.file
    if shape is None or dtype is None:
        return 0, False
    what = place.path.partition("/")[2]
    if dtype.kind not in "fiub":
        raise _UnusableError(f"{what} is {dtype}, expected numbers")
    if most > 1 and not (pulses and math.prod(shape) == 1):
        raise _UnusableError(
            f"{what} has up to {most} entries a train, expected one, or one number in each and a "
            "pulseId beside them"
        )
    if len(shape) > 1 or not 0 < math.prod(shape) <= MAX_PULSES:
        raise _UnusableError(
            f"{what} has entries of shape {shape}, expected one number a train or one a pulse"
        )
    return math.prod(shape), most > 1


def _slots(
    files: BeamlineFiles,
    place: _Place,
    width: int,
    frames: Frames,
    energy_slots: MonitorSlots | None,
    found: Findings,
) -> tuple[np.ndarray, str]:
    """Say in which slot of a per-pulse array each frame's value stands.

    1. Arrays of a gas monitor: the slots of its own pulse energies. Where these have no pulse,
       there is no value.
    2. As long as the array that the pulse energy came from: the same slots.
    3. 2700 numbers: by pulse number.
    4. As many as the run has pulse numbers: the k-th is of the k-th pulse number.

    Returns
    -------
    slot : ndarray, int64 (frame,)
        -1 where the frame has none.
    rule : str
    """
    if XGM.search(place.source):
        energies = own_energies(place.source, place.path)
        monitor = read_monitor(files, place.source, energies, found) if energies else None
        if monitor is None:
            raise _UnusableError(
                f"{place.source} has no pulse energies that tell which pulse is whose"
            )
        slots = monitor_slots(files, monitor, frames, found)
        if width == slots.width:
            return np.where(np.isnan(slots.energy), -1, slots.slot), slots.rule
    if energy_slots and width == energy_slots.width:
        return energy_slots.slot, f"as the pulse energy, {energy_slots.rule}"
    if width == MAX_PULSES:
        number = np.minimum(frames.pulse_id, MAX_PULSES).astype(np.int64)
        return np.where(number < MAX_PULSES, number, -1), "slots are pulse numbers"
    pulses = run_pattern(frames.pulse_id).size
    if width == pulses:
        return match_slots(frames.pulse_id, np.arange(width))
    lengths = [1, pulses, *([energy_slots.width] if energy_slots else []), MAX_PULSES]
    raise _UnusableError(
        f"{place.source} has {width} numbers a train, expected "
        f"{', '.join(map(str, sorted(set(lengths))))} (one, or as many as there are pulse "
        "numbers in the run, slots of the gas monitor, or bunch slots)"
    )


def _not_found(files: list, where: str) -> str:
    """Say which names of the run are nearest to one that it lacks."""
    sources = {s for f in files for s in f.all_sources}
    begun = [s for s in sources if where.startswith(f"{s}/")]
    if not begun:
        near = difflib.get_close_matches(where.rpartition("/")[0], sources, 3, 0.4)
        if not sources:
            return f"{where} names no source: the run has no beamline data"
        first = f"; it has {len(sources)}, e.g. {min(sources)}"
        hint = f"; the nearest sources are {', '.join(near)}" if near else first
        return f"{where} names no source of the run{hint}"
    source = max(begun, key=len)
    key = where.removeprefix(f"{source}/").replace("/", ".")
    near = difflib.get_close_matches(key, sorted(_keys(files, source)), 3, 0.0)
    return f"{source} has no {key}; the nearest keys are {', '.join(near)}"


def _keys(files: list, source: str) -> set[str]:
    """Return the keys of a source, as a user would write them."""
    keys = set()
    for file in files:
        # no reason to name a damaged file here: it has been when it was to be read
        with tolerated(file.name, {}):
            if source in file.all_sources:
                keys |= file.access.get_keys(source)
    return {key.removesuffix(".value") for key in keys if not key.endswith(".timestamp")}
