"""For tests on several ranks: ``mpirun -n 3 python -m pytest --with-mpi -m mpi tests/mpi``.

Every rank runs every test. What a rank asserts while others are in a collective call would hang
them, so tests first do all that is collective and then assert.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from mpi4py import MPI

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))


@pytest.fixture
def comm():
    """All ranks, apart from whatever the program itself sends."""
    mine = MPI.COMM_WORLD.Dup()
    yield mine
    mine.Free()


@pytest.fixture
def shared_path(comm):
    """A folder that all ranks have."""
    made = tempfile.mkdtemp(prefix="xfelmpi-mpi-") if comm.rank == 0 else None
    folder = Path(comm.bcast(made))
    yield folder
    comm.Barrier()
    if comm.rank == 0:
        shutil.rmtree(folder)
