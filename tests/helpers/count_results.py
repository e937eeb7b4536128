"""Add up the results that the processes of one pytest run left in a folder (`record_results`).

Usage: ``python tests/helpers/count_results.py FOLDER``. Writes ``PASSED FAILED`` and then a line
per failed test. A test counts once; it failed if it failed in any process, or started and did not
end. Skipped tests are not counted.
"""

import sys
from pathlib import Path


def outcomes(folder: Path) -> tuple[set[str], set[str]]:
    """Return the names of the tests that passed, and those that failed."""
    names: dict[str, set[str]] = {
        what: set() for what in ("start", "end", "passed", "failed", "skipped")
    }
    unfinished = set()
    for path in sorted(folder.glob("*.results")):
        started = set()
        # the last line may be cut off
        for line in path.read_text().split("\n")[:-1]:
            what, name = line.split("\t", 1)
            names[what].add(name)
            if what == "start":
                started.add(name)
            elif what == "end":
                started.discard(name)
        unfinished |= started
    failed = names["failed"] | {f"{name} (did not end)" for name in unfinished - names["failed"]}
    return names["passed"] - names["failed"] - unfinished, failed


if __name__ == "__main__":
    good, bad = outcomes(Path(sys.argv[1]))
    print(len(good), len(bad))
    for line in sorted(bad):
        print(line)
