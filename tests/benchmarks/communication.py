"""MPI calls and bytes of every stage of the main job, counted; HDF5's own calls too.

    python tests/benchmarks/communication.py FOLDER RUN RANKS… [-- options of xfelmpi]

FOLDER is an experiment folder with the run. Prints CSV: ranks, stage, seconds (of rank 0), MPI
call, how many calls and bytes the rank with most has, and the bytes of all ranks together.
"""

import csv
import ctypes
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

CALLS = (
    "barrier",
    "bcast",
    "allreduce",
    "reduce",
    "allgather",
    "allgatherv",
    "gather",
    "send",
    "file open, close, set_size",
    "file set_view",
    "file write_at_all",
    "file write_at",
    "file read_at",
)
_WIDTH = 24
"""Calls of a stage in the library's table."""

PARTS = (
    ("pipeline", "distribute_remaining", "index: share"),
    ("inputs", "load_inputs", "index: masks, geometry"),
    ("ending", "sum_powder", "photons: powder"),
    ("outputs", "sum_powder", "write: powder sums"),
    ("outputs", "background_weights", "write: background"),
    ("CxiWriter", "__init__", "write: CXI columns"),
    ("DragonflyWriter", "__init__", "write: EMC head"),
    ("HitOutputs", "write", "write: frames"),
    ("outputs", "write_powder", "write: powder file"),
    ("outputs", "write_events", "write: events file"),
    ("CxiWriter", "close", "write: CXI end"),
)
"""Functions whose calls count by themselves, with the name of the part."""


def writers() -> dict[str, type]:
    """Return the classes that write the hits, by name."""
    from xfelmpi.output.cxi.hit_writer import CxiWriter
    from xfelmpi.output.dragonfly.hit_writer import DragonflyWriter
    from xfelmpi.output.hit_formats import HitOutputs

    return {cls.__name__: cls for cls in (HitOutputs, CxiWriter, DragonflyWriter)}


def main() -> None:
    arguments = sys.argv[1:]
    at = arguments.index("--") if "--" in arguments else len(arguments)
    folder, run, *ranks = arguments[:at]
    csv.writer(sys.stdout).writerow(
        ["ranks", "stage", "seconds", "call", "calls", "bytes", "bytes of all ranks"]
    )
    with tempfile.TemporaryDirectory() as name:
        library = Path(name) / "count.so"
        source = Path(__file__).with_name("count_mpi.c")
        command = ["mpicc", "-std=c11", "-O1", "-shared", "-fPIC", "-o", library, source]
        subprocess.run(command, check=True)
        for n in ranks:
            sys.stdout.flush()
            command = ["mpirun", "-n", n, "env", f"LD_PRELOAD={library}", sys.executable, __file__]
            command += ["--count", library, run, "--prefix", folder, *arguments[at + 1 :]]
            subprocess.run([str(part) for part in command], check=True)


class Stage:
    """Which part of the job is at work; parts within parts count by themselves.

    Parameters
    ----------
    switch : callable
        Told the number of every part that begins or goes on.
    clock : callable
        What their seconds are of.
    """

    def __init__(self, switch=lambda number: None, clock=monotonic):
        self._switch = switch
        self._clock = clock
        self.names = ["start"]
        self.seconds = [0.0]
        self._now = 0

    @contextmanager
    def of(self, name: str):
        """Count what is called inside for `name`."""
        if name not in self.names:
            self.names.append(name)
            self.seconds.append(0.0)
        before, self._now = self._now, self.names.index(name)
        self._switch(self._now)
        start = self._clock()
        try:
            yield
        finally:
            spent = self._clock() - start
            self.seconds[self._now] += spent
            self.seconds[before] -= spent
            self._now = before
            self._switch(before)

    def around(self, holder, function: str, name: str) -> None:
        """Have a function counted as a part."""
        whole = getattr(holder, function)

        def counted(*args, **kwargs):
            with self.of(name):
                return whole(*args, **kwargs)

        setattr(holder, function, counted)


def count(library: str, argv: list[str]) -> None:
    """Run the main job on this rank, and print on rank 0 what was counted."""
    import numpy as np
    from mpi4py import MPI

    from xfelmpi.cli.process import main as process
    from xfelmpi.core.job_context import Stages
    from xfelmpi.output import write_stage
    from xfelmpi.workflows import inputs, output_stage
    from xfelmpi.workflows import process as pipeline

    loaded = ctypes.CDLL(library)
    stage = Stage(loaded.count_stage)
    holders = {
        "pipeline": pipeline,
        "inputs": inputs,
        "ending": output_stage,
        "outputs": write_stage,
        **writers(),
    }
    for holder, function, name in PARTS:
        stage.around(holders[holder], function, name)
    Stages.timed = lambda _, name: stage.of(name)
    comm = MPI.COMM_WORLD
    comm.Barrier()
    start = monotonic()
    process(argv, comm)
    # the parts have been taken off
    stage.seconds[0] += monotonic() - start
    loaded.count_results.restype = ctypes.POINTER(ctypes.c_longlong)
    table = np.ctypeslib.as_array(loaded.count_results(), (len(stage.names), _WIDTH, 2)).copy()
    most, total = np.empty_like(table), np.empty_like(table)
    comm.Reduce(table, most, op=MPI.MAX)
    comm.Reduce(table, total, op=MPI.SUM)
    if comm.rank:
        return
    rows = csv.writer(sys.stdout)
    for i, name in enumerate(stage.names):
        for j, call in enumerate(CALLS):
            if most[i, j, 0]:
                spent = f"{stage.seconds[i]:.4f}"
                rows.writerow([comm.size, name, spent, call, *most[i, j], total[i, j, 1]])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--count"]:
        os.environ.pop("LD_PRELOAD", None)
        count(sys.argv[2], sys.argv[3:])
    else:
        main()
