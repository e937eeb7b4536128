"""Everything the ranks do together. Every rank enters every call, empty-handed or not.

Helpers take the communicator, and nothing here creates one as a side effect of an import. No other
part of the program imports mpi4py, which happens only if it was started in parallel (`launch`).
"""

from xfelmpi.mpi.collectives import (
    allgather_concat,
    allreduce_bor,
    allreduce_max,
    allreduce_min,
    allreduce_sum,
    alltoallv_chunks,
    exscan_and_total,
    gather_objects,
    reduce_sum,
    scatter_rows,
)
from xfelmpi.mpi.consensus import agree, bcast_from_root, fail_together, run_on_root
from xfelmpi.mpi.digests import digests_of
from xfelmpi.mpi.launch import all_ranks
from xfelmpi.mpi.library import alone, library_versions
from xfelmpi.mpi.progress import ProgressBoard
from xfelmpi.mpi.shared_array import (
    PRIVATE_BYTES,
    NodeSharedArray,
    free_unused,
    holders,
    private_bytes,
    private_limit,
    share_from_root,
)
from xfelmpi.mpi.shared_file import MpiFile, name_for_mpi

__all__ = [
    "PRIVATE_BYTES",
    "MpiFile",
    "NodeSharedArray",
    "ProgressBoard",
    "agree",
    "all_ranks",
    "allgather_concat",
    "allreduce_bor",
    "allreduce_max",
    "allreduce_min",
    "allreduce_sum",
    "alltoallv_chunks",
    "alone",
    "bcast_from_root",
    "digests_of",
    "exscan_and_total",
    "fail_together",
    "free_unused",
    "gather_objects",
    "holders",
    "library_versions",
    "name_for_mpi",
    "private_bytes",
    "private_limit",
    "reduce_sum",
    "run_on_root",
    "scatter_rows",
    "share_from_root",
]
