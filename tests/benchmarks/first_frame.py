"""A rank of `start.py`, which tells when it reads its first frame.

    python tests/benchmarks/first_frame.py --rank ARGUMENTS…    the program
    python tests/benchmarks/first_frame.py --libraries          its libraries alone

It imports no more than it must: what it imports itself counts.
"""

import os
import sys
from time import time

FOLDER = "XFELMPI_START"
"""Variable that names the folder in which every process tells of its first frame."""

MARK = "/first-frame"
"""A name that the trace shows when a process reads its first frame."""


def tell() -> None:
    """Tell when this process reads its first frame, and what it and its children have used."""
    used = sum(os.times()[:4])
    when = time()
    os.access(MARK, os.F_OK)
    with open(f"{os.environ[FOLDER]}/{os.getpid()}", "w") as file:
        file.write(f"{when} {used}")


def run_rank(argv: list[str]) -> int:
    """Run the program, which tells when it reads its first frame."""
    import xfelmpi.__main__ as program

    load = program.load

    def load_and_watch(command: str):
        module = load(command)
        from xfelmpi.reduction.sparsifier import Sparsifier

        read = Sparsifier.frames

        def first(*arguments, **options):
            Sparsifier.frames = read
            tell()
            return read(*arguments, **options)

        Sparsifier.frames = first
        return module

    program.load = load_and_watch
    sys.argv[1:] = argv
    return program.main()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        sys.exit(run_rank(sys.argv[2:]))
    import mpi4py

    mpi4py.rc.initialize = "OMPI_COMM_WORLD_SIZE" in os.environ
    import h5py  # noqa: F401
    import mpi4py.MPI
    import numpy as np  # noqa: F401

    tell()
