"""What tests of whole jobs share."""

import pytest
from arrivingruns import arriving_run

from xfelmpi.core import log


@pytest.fixture
def quiet(monkeypatch):
    """Have no log."""
    monkeypatch.setattr(log.log, "disabled", True)


@pytest.fixture(scope="module")
def arriving(tmp_path_factory):
    """Return the folder of a run, and its files in the order in which the facility writes them."""
    folder = tmp_path_factory.mktemp("source")
    return folder, arriving_run(folder)
