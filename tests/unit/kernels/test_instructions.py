"""The kernels of the pass take no more instructions than before."""

import json

import pytest
from instructions import OTHER_TOOLS, REFERENCE, count, too_many

pytestmark = pytest.mark.slow

REFERENCE_OF_ONE = {"u1": {"made_with": ["gcc 1"], "instructions": 1000}}


def test_growth():
    found, reference = count(), json.loads(REFERENCE.read_text())
    assert found.keys() == reference.keys()
    # far less means that nothing was counted
    for name, one in found.items():
        assert one["instructions"] > 0.3 * reference[name]["instructions"], name
    lines = too_many(found, reference)
    assert not lines, "\n".join(
        [*lines, "If this is wanted: python tests/helpers/instructions.py --renew"]
    )


@pytest.mark.parametrize(
    ("made_with", "most"), [("gcc 1", 1010), ("gcc 2", round(1000 * OTHER_TOOLS))]
)
def test_growth_is_noticed(made_with, most):
    def lines(n):
        return too_many({"u1": {"made_with": [made_with], "instructions": n}}, REFERENCE_OF_ONE)

    assert lines(most) == []
    assert len(lines(most + 1)) == 1
