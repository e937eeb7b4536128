"""Run a command; end it when it has written no results for long.

Usage: ``python tests/helpers/watch_results.py FOLDER SECONDS COMMAND…``. Limits of single tests
(`conftest`) come first; this is for what hangs outside of them. There is no limit for the whole: a
machine that is busy only takes longer. The status is that of the command, or 124.
"""

import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic

from patience import patience

EVERY = 2.0
"""Seconds between two looks at the folder."""


def main(folder: Path, seconds: float, command: list[str]) -> int:
    """Run the command and return its status."""
    process = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    seen, since = None, monotonic()
    while True:
        try:
            return process.wait(EVERY)
        except subprocess.TimeoutExpired:
            pass
        except KeyboardInterrupt:
            return process.wait(60)
        sizes = [path.stat().st_size for path in folder.glob("*.results")]
        if sizes != seen:
            seen, since = sizes, monotonic()
        elif monotonic() - since > seconds * patience():
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            return 124


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
