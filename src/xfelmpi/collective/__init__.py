"""Everything the ranks do together. Every rank enters every call, empty-handed or not.

Helpers take the communicator, and nothing here creates one as a side effect of an import. No other
part of the program imports mpi4py, but for the start in ``__main__``.
"""

from xfelmpi.collective.agreement import agree, from_root, on_root, together
from xfelmpi.collective.library import alone, library_versions
from xfelmpi.collective.nodeshared import NodeShared, share_from_root
from xfelmpi.collective.progressboard import ProgressBoard
from xfelmpi.collective.sharedbytes import SharedBytes
from xfelmpi.collective.transfers import (
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
