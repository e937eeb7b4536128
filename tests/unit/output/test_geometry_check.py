"""The check of the geometry at the end of a job, whose outputs are complete by then."""

from types import SimpleNamespace

import numpy as np

from xfelmpi.core.log import log
from xfelmpi.output.write_stage import _doubt_of_geometry


def test_check_that_fails_costs_nothing(monkeypatch, caplog):
    """Without a geometry."""
    # an earlier test may have started the log of a command
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level("WARNING", log.name)
    header = SimpleNamespace(geometry=None, background=np.zeros(3))
    powder = (np.zeros(4), np.zeros(4))
    assert _doubt_of_geometry(header, powder, 60) == ""
    assert "the geometry could not be checked: AttributeError" in caplog.text
