"""What a stopped job tells its user."""

import pytest

from xfelmpi.core.shutdown import launched_as


@pytest.mark.parametrize(
    ("launcher", "said"),
    [
        ("sbatch jobs/process_run.sh", "sbatch jobs/process_run.sh 50 --resume"),
        # whatever it says, the job must end as it should
        ("a 'b", "'a '\"'\"'b' 50 --resume"),
        ("a\\", "'a\\' 50 --resume"),
    ],
)
def test_how_to_go_on(launcher, said, monkeypatch):
    monkeypatch.setenv("XFELMPI_LAUNCHER", launcher)
    assert launched_as(["50", "--resume"], 1) == said
