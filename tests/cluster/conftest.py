import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]


@pytest.fixture(scope="module")
def slurm():
    """A running private Slurm; in a short path of its own because of munge's socket."""
    from optional import unavailable
    from private_slurm import PrivateSlurm, why_unavailable

    if reason := why_unavailable():
        unavailable(f"no private Slurm: {reason}", "XFELMPI_TEST_SLURM")
    folder = Path(tempfile.mkdtemp(prefix="xfelmpi-slurm-", dir="/tmp"))
    try:
        with PrivateSlurm(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)
