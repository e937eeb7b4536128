"""One MPI job turns a European XFEL detector run into events, powder, CXI and EMC."""

from importlib import import_module
from typing import TYPE_CHECKING

from xfelmpi import _commit

if TYPE_CHECKING:
    from xfelmpi.api import open_run

__all__ = ["__version__", "open_run"]

__version__ = _commit.VERSION


def __getattr__(name: str):
    # h5py and what else reads files take a second to import
    if name == "open_run":
        return import_module("xfelmpi.api").open_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
