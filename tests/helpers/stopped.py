"""Jobs that are killed or stopped at a certain point, named by a function that is called there."""

from launch import run_python

_SCRIPT = """
import importlib
import os
import signal
import sys
import time
from pathlib import Path

from xfelmpi.core import shutdown

# the tests may run under nohup, which has this one ignored
signal.signal(signal.SIGHUP, signal.SIG_DFL)
shutdown.watch()


def ranks_of_the_job():
    parent, found = os.getppid(), [os.getpid()]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[1]) == parent and {mpi}:
            found.append(int(stat.parent.name))
    # this one last, and only once
    return sorted(set(found), key=lambda pid: pid == os.getpid())


def hooked(*args, **kwargs):
    global calls
    calls += 1
    if calls == {call}:
        for pid in ranks_of_the_job():
            os.kill(pid, {signal})
        if {stuck}:
            time.sleep(60)
    return original(*args, **kwargs)


calls = 0
where = importlib.import_module("{module}")
*inside, name = "{function}".split(".")
for part in inside:
    where = getattr(where, part)
original = getattr(where, name)
rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", "0"))
if rank == {rank}:
    setattr(where, name, hooked)
sys.exit(importlib.import_module("xfelmpi.__main__").main(sys.argv[1:]))
"""


def run_until(folder, args, ranks, signal, function, rank=0, call=1, *, stuck=True):
    """Run the program; before a call of a function by one rank, send all ranks a signal.

    Parameters
    ----------
    folder : Path
        For the script.
    args : list
        Of the program.
    ranks : int
        0: without mpirun.
    signal : int
    function : str
        ``module:function`` or ``module:class.function``, below ``xfelmpi``.
    rank : int
        Whose calls count.
    call : int
        Before which of them.
    stuck : bool
        Whether that rank does nothing any more from then on.
    """
    module, _, name = function.partition(":")
    script = folder / f"stopped_{signal}_{rank}_{call}.py"
    script.write_text(
        _SCRIPT.format(
            mpi=bool(ranks),
            call=call,
            signal=int(signal),
            stuck=stuck,
            module=f"xfelmpi.{module}",
            function=name,
            rank=rank,
        )
    )
    return run_python([script, *args], ranks)
