"""One MPI job from a European XFEL AGIPD run to events, powder, CXI and EMC."""

from xfelmpi import _commit

__version__ = _commit.VERSION
