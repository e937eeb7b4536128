"""The check of the geometry at the end of a job, whose outputs are complete by then."""

from dataclasses import make_dataclass
from types import SimpleNamespace

import numpy as np
from mpi4py import MPI

from xfelmpi.core.log import log
from xfelmpi.output.write_stage import _with_geometry_doubted

Done = make_dataclass("Done", [("warnings", tuple)])


def test_check_that_fails_costs_nothing(monkeypatch, caplog):
    """Sums of another shape than the background."""
    # an earlier test may have started the log of a command
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level("WARNING", log.name)
    header = SimpleNamespace(geometry=None, background=np.zeros(3))
    done = Done(("one",))
    powder = (np.zeros(4), np.zeros(4))
    assert _with_geometry_doubted(MPI.COMM_SELF, done, header, powder, 60) is done
    assert "the geometry could not be checked: ValueError" in caplog.text
