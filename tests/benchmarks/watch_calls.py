"""Count what ``xfelmpi watch`` asks of the file system, as the kernel sees it (``strace``).

Usage: ``python tests/benchmarks/watch_calls.py [RUNS] [MINUTES]``. The clock of the watch is set
forward from look to look, so that minutes pass quickly, and a busy machine counts the same calls.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

EVERY = 20.0
"""Seconds between looks, as by default."""

STATES = ("lack files", "have files that cannot be read", "are done")

WATCH = """
import sys
from pathlib import Path
from xfelmpi.core.paths import WatchFiles
from xfelmpi.workflows.watch.looks import LookOptions
from xfelmpi.workflows.watch.loop import Watcher
from xfelmpi.workflows.watch.queues import LocalQueue
prefix, seconds, every = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
files = WatchFiles(prefix / "scratch")
files.lock.parent.mkdir(parents=True, exist_ok=True)
files.lock.touch()
now = 1e9
options = LookOptions(prefix, prefix / "scratch", every=every)
watcher = Watcher(options, LocalQueue(files, Path("no script")), files, clock=lambda: now)
while now < 1e9 + seconds:
    watcher.poll()
    now += every
"""


def make_runs(prefix: Path, n: int, state: str, modules: int = 16) -> None:
    """Make folders of runs with a file of 0 bytes for each module.

    Those of runs that lack files have another sequence of one module; runs that are done have an
    events file.
    """
    for run in range(1, n + 1):
        folder = prefix / "raw" / f"r{run:04}"
        folder.mkdir(parents=True)
        parts = [(module, 0) for module in range(modules)]
        if state == "lack files":
            parts.append((0, 1))
        for module, sequence in parts:
            (folder / f"RAW-R{run:04}-AGIPD{module:02}-S{sequence:05}.h5").touch()
        if state == "are done":
            events = prefix / "scratch" / "events" / f"r{run:04}_events.h5"
            events.parent.mkdir(parents=True, exist_ok=True)
            events.touch()


def count_calls(prefix: Path, minutes: float) -> list[str]:
    """Watch for so many minutes; return the calls that name ``raw/`` or ``proc/``."""
    trace = prefix / "trace"
    command = ["strace", "-f", "-y", "-e", "trace=%file,getdents64,fstat", "-o", trace,
               sys.executable, "-c", WATCH, prefix, minutes * 60, EVERY]  # fmt: skip
    subprocess.run(list(map(str, command)), check=True)
    lines = trace.read_text(errors="replace").splitlines()
    trace.unlink()
    named = re.compile(rf"{re.escape(str(prefix))}/(raw|proc)\W")
    return [line for line in lines if named.search(line)]


def main(n: int = 1000, minutes: int = 10) -> None:
    """Print the calls of a minute for runs of every state."""
    for state in STATES:
        with tempfile.TemporaryDirectory() as folder:
            prefix = Path(folder).resolve()
            make_runs(prefix, n, state)
            calls = len(count_calls(prefix, minutes))
        print(f"{n} runs that {state}: {calls / minutes:.0f} calls per minute")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
