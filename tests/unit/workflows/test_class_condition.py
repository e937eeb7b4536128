"""``class`` in a condition: a word of Python's that is a column here."""

import numpy as np
import pytest

from xfelmpi.core.errors import UsageError
from xfelmpi.workflows.merge.row_filter import rows_where

COLUMNS = {"class": np.array([-1, 0, 1, 3]), "class_weight": np.array([np.nan, 0.4, 0.9, 1])}


@pytest.mark.parametrize(
    ("condition", "right"),
    [
        ("class in (1, 3)", [0, 0, 1, 1]),
        ("class in (3,) or class_weight < 0.5", [0, 1, 0, 1]),
        ("not class == 0 and class >= 0", [0, 0, 1, 1]),
        ("0 <= class < 3", [0, 1, 1, 0]),
    ],
)
def test_class(condition, right):
    assert rows_where(condition, COLUMNS).tolist() == [bool(x) for x in right]


def test_no_classes():
    with pytest.raises(UsageError, match="no column class"):
        rows_where("class in (1, 3)", {"run": np.arange(3)})
