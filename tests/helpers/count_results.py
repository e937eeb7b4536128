"""Add up the JUnit reports that the ranks of one pytest run left in a folder.

Usage: ``python tests/helpers/count_results.py FOLDER``. Writes ``PASSED FAILED`` and then a line
per failed test. A test counts once; it failed if it failed on any rank. Skipped tests are not
counted.
"""

import sys
from pathlib import Path
from xml.etree import ElementTree


def outcomes(folder: Path) -> tuple[set[str], set[str]]:
    """Return the names of the tests that passed and of those that failed."""
    passed, failed = set(), set()
    for path in sorted(folder.glob("*.xml")):
        try:
            cases = ElementTree.parse(path).iter("testcase")
        except ElementTree.ParseError:
            continue  # the rank was killed while it wrote; mpirun's status says so
        for case in cases:
            name = "::".join(filter(None, (case.get("classname"), case.get("name"))))
            kinds = {child.tag for child in case}
            if kinds & {"failure", "error"}:
                failed.add(name)
            elif "skipped" not in kinds:
                passed.add(name)
    return passed - failed, failed


if __name__ == "__main__":
    good, bad = outcomes(Path(sys.argv[1]))
    print(len(good), len(bad))
    for line in sorted(bad):
        print(line)
