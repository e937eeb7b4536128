"""One process needs no MPI; how many there are, as launchers tell it."""

import subprocess
import sys

import numpy as np
import pytest
from launch import run_python

from xfelmpi import mpi
from xfelmpi.core.errors import OutputError
from xfelmpi.mpi.launch import on_one_node, started_processes
from xfelmpi.mpi.one_process import OneProcess


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "0"}, 8),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, 1),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, 4),
        ({"MV2_COMM_WORLD_SIZE": "2"}, 2),
        ({"JSM_NAMESPACE_SIZE": "6"}, 6),
        ({"FLUX_JOB_SIZE": "5"}, 5),
        ({"SLURM_STEP_NUM_TASKS": "64", "SLURM_PROCID": "3", "PMIX_RANK": "3"}, 64),
        # srun --pty bash, and a batch script: one process
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "PMIX_RANK": "0"}, 1),
        ({"SLURM_NTASKS": "64", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}, 1),
        # mpirun inside a step counts, whatever the step has
        ({"OMPI_COMM_WORLD_SIZE": "8", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, 8),
        # launchers that do not tell: MPI is asked
        ({"PMIX_RANK": "0"}, None),
        ({"PALS_RANKID": "2"}, None),
        ({"PMI_SIZE": "many", "PMI_RANK": "0"}, None),
    ],
)
def test_processes_of_launchers(environment, expected):
    assert started_processes(environment) == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_SIZE": "8"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "8"}, False),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_NODES": "1"}, True),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_NODES": "2"}, False),
        # mpirun over several nodes, in a step of one
        (
            {
                "OMPI_COMM_WORLD_SIZE": "8",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
                "SLURM_PROCID": "0",
                "SLURM_STEP_NUM_NODES": "1",
            },
            False,
        ),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, False),
    ],
)
def test_nodes_of_launchers(environment, expected):
    assert on_one_node(environment) is expected


_PML = """
import os
from xfelmpi.mpi import all_ranks
if all_ranks().rank == 0:
    print(os.environ["OMPI_MCA_pml"])
"""


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "^cm"), ({"OMPI_MCA_pml": "ob1"}, "ob1")], ids=["default", "given"]
)
def test_mpi_looks_for_no_network_on_one_node(given, expected):
    """Unless the site asks for it."""
    done = run_python(["-c", _PML], 2, **given)
    assert (done.returncode, done.stdout.split()) == (0, [expected]), done.stderr


def test_collectives_of_one_process():
    comm = OneProcess()
    rows = np.arange(12, dtype=np.uint64).reshape(4, 3)
    for total in (mpi.reduce_sum(comm, rows), mpi.allreduce_sum(comm, rows)):
        np.testing.assert_array_equal(total, rows)
        assert not np.shares_memory(total, rows)
    np.testing.assert_array_equal(mpi.allreduce_bor(comm, rows), rows)
    np.testing.assert_array_equal(mpi.allgather_concat(comm, rows[::2]), rows[::2])
    np.testing.assert_array_equal(mpi.scatter_rows(comm, rows, np.array([1, 3])), rows[1:3])
    assert mpi.allreduce_max(comm, 7) == mpi.allreduce_min(comm, 7) == 7
    assert mpi.exscan_and_total(comm, 5) == (0, 5)
    assert mpi.gather_objects(comm, ["a"]) == ["a"]
    words = np.arange(7, dtype=np.uint64)
    parts = list(mpi.alltoallv_chunks(comm, words, np.array([7]), 3))
    assert [len(part) for part in parts] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(parts), words)
    shared = mpi.share_from_root(comm, rows, rows.shape, rows.dtype)
    np.testing.assert_array_equal(shared, rows)
    with pytest.raises(KeyError) as failure:
        mpi.agree(comm, KeyError("gone"))
    assert failure.value.agreed
    assert not failure.value.told_elsewhere


def test_file_of_one_process(tmp_path):
    path = tmp_path / "bytes"
    path.write_bytes(b"0123456789")
    file = mpi.MpiFile(OneProcess(), str(path))
    file.write_at(8, np.frombuffer(b"abc", np.uint8))
    file.write_at(3, np.empty(0, np.int32))
    file.close()
    assert path.read_bytes() == b"01234567abc"
    full = mpi.MpiFile(OneProcess(), "/dev/full")
    with pytest.raises(OutputError, match=r"0 of 4 bytes written at 0; is the disk full\?"):
        full.write_at(0, np.zeros(1, np.int32))
    full.close()
    with pytest.raises(OutputError, match="cannot be opened"):
        mpi.MpiFile(OneProcess(), str(tmp_path / "no" / "file"))


_WITHOUT_MPI = """
import sys
sys.modules["mpi4py"] = None
from xfelmpi.mpi import all_ranks
comm = all_ranks()
assert (comm.rank, comm.size) == (0, 1)
"""


def test_one_process_does_not_import_mpi4py():
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_MPI], capture_output=True, text=True, env={}
    )
    assert done.returncode == 0, done.stderr
