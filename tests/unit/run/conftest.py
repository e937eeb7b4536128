"""What tests of a run's files share."""

import pytest

from xfelmpi.core.paths import Experiment


@pytest.fixture
def experiment(tmp_path):
    """Return the folders of a run that has no files yet."""
    return Experiment(tmp_path, tmp_path / "scratch", 50)
