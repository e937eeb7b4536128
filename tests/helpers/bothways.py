"""Beamline data read at once, and read ahead with some of the frames: both are the same."""

from unittest.mock import patch

import numpy as np

from xfelmpi.run.machine import train_table
from xfelmpi.run.machine.machine_data import MachineData, read_ahead
from xfelmpi.run.machine.machine_data import read_machine_data as read_at_once


def read_machine_data(
    experiment, train_id, pulse_id, added=(), detector="", cell_id=None, proposal=0
) -> MachineData:
    """Return what the function of this name does, and check that reading ahead changes nothing."""
    about = added, detector
    found = read_at_once(experiment, train_id, pulse_id, *about, cell_id, proposal)
    some = slice(len(train_id) // 2)
    cells = None if cell_id is None else cell_id[some]
    # short runs have no more trains than are looked at
    with patch.object(train_table, "_FIRST", 3):
        run = read_ahead(experiment, train_id[some], pulse_id[some], *about, cells, proposal)
    with run:
        again = read_at_once(
            experiment, train_id, pulse_id, *about, cell_id, proposal, opened_run=run
        )
    assert as_values(again) == as_values(found)
    return found


def as_values(thing):
    """Return something that can be compared: NaN is the same as NaN there."""
    if isinstance(thing, np.ndarray):
        return thing.dtype, thing.shape, thing.tobytes()
    if isinstance(thing, tuple | list):
        return [as_values(part) for part in thing]
    if hasattr(thing, "__dataclass_fields__"):
        return {name: as_values(getattr(thing, name)) for name in thing.__dataclass_fields__}
    # the same number for NaN
    return repr(thing)
