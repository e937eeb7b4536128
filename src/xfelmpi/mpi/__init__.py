"""Everything the ranks do together. Every rank enters every call, empty-handed or not.

Helpers take the communicator, and nothing here creates one as a side effect of an import. No other
part of the program imports mpi4py, but for the start in ``__main__``.
"""

from xfelmpi.mpi.collectives import (
    before_and_total,
    concat_all,
    exchange,
    gather_objects,
    max_all,
    min_all,
    or_all,
    scatter_rows,
    sum_all,
    sum_to_root,
)
from xfelmpi.mpi.consensus import agree, from_root, on_root, together
from xfelmpi.mpi.library import alone, library_versions
from xfelmpi.mpi.progress import ProgressBoard
from xfelmpi.mpi.shared_array import NodeShared, share_from_root
from xfelmpi.mpi.shared_file import SharedBytes

__all__ = [
    "NodeShared",
    "ProgressBoard",
    "SharedBytes",
    "agree",
    "alone",
    "before_and_total",
    "concat_all",
    "exchange",
    "from_root",
    "gather_objects",
    "library_versions",
    "max_all",
    "min_all",
    "on_root",
    "or_all",
    "scatter_rows",
    "share_from_root",
    "sum_all",
    "sum_to_root",
    "together",
]
