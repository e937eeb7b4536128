import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]


@pytest.fixture(scope="module")
def slurm():
    """A running private Slurm; in a short path of its own because of munge's socket."""
    from private_slurm import PrivateSlurm, why_unavailable

    reason = why_unavailable()
    if reason and os.environ.get("XFELMPI_TEST_SLURM") == "1":
        pytest.fail(f"no private Slurm: {reason}")
    if reason:
        pytest.skip(f"no private Slurm: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="xfelmpi-slurm-", dir="/tmp"))
    try:
        with PrivateSlurm(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)
