"""The bunch pattern of every train: from a time server, or from a device that has decoded it."""

import re

import numpy as np

from xfelmpi.run.machine.control_data import BeamlineFiles
from xfelmpi.run.machine.findings import Damage
from xfelmpi.run.machine.pulse_matching import (
    LASER,
    LINE,
    MAX_PULSES,
    OWN,
    decode_pattern,
)
from xfelmpi.run.machine.train_table import TrainTable, read_table

TIMESERVER = re.compile(r"/TSYS/(?:TIMESERVER|X2TIMER\d)")
DECODER = re.compile(r"/MDL/(?:BUNCH_?PATTERN(?:_DECODER)?|PULSE_PATTERN_DECODER)$")

_LASER_BIT = {"SPB": 10, "FXE": 11, "SQS": 12, "SCS": 13, "MID": 9, "HED": 9}
"""Of the table, for the pump laser of an instrument (euxfel_bunch_pattern, ``PPL_BITS``)."""


def bunch_pattern(
    files: BeamlineFiles, sase: int, topic: str, damage: Damage
) -> tuple[TrainTable, str] | None:
    """Return the pulses of every train, uint8 (train, 2700), and the source.

    The time server's table comes first (``data.bunchPatternTable`` of its output channel, or the
    control key of the same name), then what a decoder says (``sase1.nPulses``,
    ``sase1.pulseIds``, as in EXtra-redu 1.1, ``_read_pp_decoder``).

    Parameters
    ----------
    files : BeamlineFiles
    sase : int
        Undulator, 1, 2 or 3.
    topic : str
        Start of the instrument's names; its own devices come first, and its laser counts.
    damage : dict
        Gets the files that cannot be read.

    Returns
    -------
    TrainTable and str, or None
        Codes of `LINE`, `OWN` and `LASER`. None if the files have no pattern of any train: a
        source without an entry gives way to the next one.
    """
    found = files.once(
        ("pattern", sase, topic), damage, lambda own: _bunch_pattern(files, sase, topic, own)
    )
    return (found[0].beginning(), found[1]) if found and files.reads_ahead else found


def _bunch_pattern(files: BeamlineFiles, sase: int, topic: str, damage: Damage):
    laser_bit = _LASER_BIT.get(topic, -1)

    def decode(table: np.ndarray) -> np.ndarray:
        return decode_pattern(table, sase, laser_bit)

    places = [
        (f"{s}/data", f"INSTRUMENT/{s}/data/bunchPatternTable")
        for s in _sources(files, "instrument_sources", TIMESERVER, topic)
    ] + [
        (s, f"CONTROL/{s}/bunchPatternTable/value")
        for s in _sources(files, "control_sources", TIMESERVER, topic)
    ]
    for index, path in places:
        table = read_table(files, index, path, damage, decode)
        if table is not None and table.trains.size:
            return table, index.removesuffix("/data")
    for source in _sources(files, "control_sources", DECODER, topic):
        table = _decoded(files, source, sase, damage)
        if table is not None and table.trains.size:
            return table, source
    return None


def _sources(files: BeamlineFiles, section: str, pattern: re.Pattern, topic: str) -> list[str]:
    found = {s for f in files for s in getattr(f, section) if pattern.search(s)}
    return sorted(found, key=lambda s: (s[:3] != topic, s))


def _decoded(files: BeamlineFiles, source: str, sase: int, damage: Damage) -> TrainTable | None:
    """Return the codes of what a decoder lists; None if it does not list this undulator."""
    names = {OWN | LINE: f"sase{sase}"}
    if sase != 2:
        names[LINE] = f"sase{4 - sase}"
    names[LASER] = "laser"
    table = None
    for code, name in names.items():
        pulses = decoded_pulses(files, source, name, damage)
        if pulses is None and code & OWN:
            return None
        if pulses is None:
            continue
        if table is None:
            table = TrainTable(pulses.trains, np.zeros(pulses.values.shape, np.uint8), {})
        row = pulses.rows(table.trains)
        table.values[row >= 0] |= pulses.values[row[row >= 0]] * np.uint8(code)
    return table


def decoded_pulses(
    files: BeamlineFiles, source: str, name: str, damage: Damage
) -> TrainTable | None:
    """Return which bunch slots a decoder lists under a name, bool (train, 2700)."""
    tables = []
    for key in ("nPulses", "pulseIds"):
        path = f"CONTROL/{source}/{name}/{key}/value"
        tables.append(read_table(files, source, path, damage))
    number, ids = tables
    if number is None or ids is None or number.values.ndim != 1 or ids.values.ndim != 2:
        return None
    row = ids.rows(number.trains)
    listed = ids.values[np.maximum(row, 0)].astype(np.int64)
    used = np.arange(listed.shape[1]) < number.values.astype(np.int64)[:, None]
    used &= (row >= 0)[:, None] & (listed >= 0) & (listed < MAX_PULSES)
    pulses = np.zeros((len(number.trains), MAX_PULSES), bool)
    train, place = np.nonzero(used)
    pulses[train, listed[train, place]] = True
    return TrainTable(number.trains, pulses, {})
