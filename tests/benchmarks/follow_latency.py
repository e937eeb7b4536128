"""How long after a sequence is there the report shows its hits, while a run is followed.

    python tests/benchmarks/follow_latency.py FOLDER [SEQUENCES] [TRAINS] [CELLS] [RANKS]

Simulates a run, and lets its files appear sequence by sequence beside an ``xfelmpi --follow``: the
next one when the report shows the one before. Prints the seconds for every sequence, and the most
memory that a rank took.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from bench import simulated

RUN = 94


def main(folder: Path, sequences: int = 12, trains: int = 8, cells: int = 88, ranks: int = 1):
    """Measure, and print."""
    source, prefix = folder.absolute() / "source", folder.absolute() / "followed"
    options = ["--cells", f"0:{cells}", "--sequence-length", trains]
    simulated(source, RUN, sequences * trains, *options)
    shutil.rmtree(prefix, ignore_errors=True)
    files = sorted(source.glob(f"proc/*{RUN}/*.h5"))
    copies = prefix / "raw" / files[0].parent.name, prefix / "proc" / files[0].parent.name
    for path in copies:
        path.mkdir(parents=True)
    # of the raw run only the names and the last trains matter
    for path in files:
        if "AGIPD" in path.name:
            shutil.copy(path, copies[0] / path.name.replace("CORR", "RAW"))
    command = ["mpirun", "--oversubscribe", "-n", ranks] if ranks > 1 else []
    command += [sys.executable, "-m", "xfelmpi", RUN, "--prefix", prefix, "--follow"]
    job = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    about = prefix / "scratch" / "report" / f"r{RUN:04}.json"
    for n in range(sequences):
        for path in files:
            if path.stem.endswith(f"S{n:05}"):
                shutil.copy(path, copies[1] / path.name)
        start = time.monotonic()
        while shown(about) < (n + 1) * trains * cells:
            time.sleep(0.02)
        seconds = time.monotonic() - start
        hits = json.loads(about.read_text())["hits"]
        load = os.getloadavg()[0] / len(os.sched_getaffinity(0))
        print(f"sequence {n}: {hits} hits shown after {seconds:.1f} s (load {load:.1f} a core)")
    _, status, used = os.wait4(job.pid, 0)
    print(
        f"status {os.waitstatus_to_exitcode(status)}, peak memory {used.ru_maxrss / 1024:.0f} MiB"
    )


def shown(about: Path) -> int:
    """Return the frames that the report shows."""
    try:
        return json.loads(about.read_text())["frames"] or 0
    except (OSError, ValueError):
        return 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
