"""Every column of the events file is read back, as the type that it was written with."""

from dataclasses import fields

import h5py
import numpy as np
import pytest

from xfelmpi.core.config.validation import TAKEN_COLUMNS
from xfelmpi.core.event_table import EventColumns
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.io.checked import checked_array
from xfelmpi.output.events import _events
from xfelmpi.output.hit_columns import hit_columns

COLUMNS = [column for column in fields(EventColumns) if column.name != "added"]
OPTIONAL = ("gain_switched", "pumped", "n_pulses")


def written(path, left_out=()):
    values = {}
    with h5py.File(path, "w") as file:
        for i, column in enumerate(COLUMNS):
            values[column.name] = np.zeros(3, column.metadata["dtype"]) + i
            if column.name not in left_out:
                file[column.name] = values[column.name].astype(column.metadata["dtype"].base)
    return values


def test_every_column_comes_back(tmp_path):
    values = written(tmp_path / "events.h5")
    with h5py.File(tmp_path / "events.h5") as file:
        found = dict(_events(file, checked_array).columns())
    assert list(found) == list(values)
    for name, column in found.items():
        np.testing.assert_array_equal(column, values[name].astype(column.dtype), name)


@pytest.mark.parametrize("name", [column.name for column in COLUMNS])
def test_a_column_that_lacks(tmp_path, name):
    written(tmp_path / "events.h5", {name})
    with h5py.File(tmp_path / "events.h5") as file:
        if name not in OPTIONAL:
            with pytest.raises(KeyError, match=name):
                _events(file, checked_array)
        else:
            found = getattr(_events(file, checked_array), name)
            assert found is None or (found == 255).all()


def test_no_column_of_hits_may_have_its_name_twice():
    """Conditions on hits know only the last part of a column's path."""
    none = EventColumns(
        **{c.name: np.zeros(0, c.metadata["dtype"]) for c in COLUMNS if c.name not in OPTIONAL[:2]}
    )
    nothing = np.zeros(0)
    columns = hit_columns("p000001_r0001", none, nothing, nothing, nothing, AGIPD_1M)
    assert {column.name for column in columns} <= TAKEN_COLUMNS
