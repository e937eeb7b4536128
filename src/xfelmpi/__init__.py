"""One MPI job from a European XFEL AGIPD run to events, powder, CXI and EMC."""

__version__ = "0.1.0"
