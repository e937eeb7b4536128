"""The table of what can go wrong: every test that it names is there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(test_\w+)(?:\[(.+?)\])?`", PAGE.read_text())))


def test_tests_are_named():
    rows = [
        line
        for line in PAGE.read_text().splitlines()
        if line.startswith("|") and not re.match(r"\|---|\|[\w ]+\| what the user sees", line)
    ]
    assert len(rows) > 40
    for row in rows:
        assert re.search(r"`[\w/]+\.py::test_\w+", row), row


@pytest.mark.parametrize(("file", "function", "case"), NAMED)
def test_named_test_exists(file, function, case):
    text = (TESTS / file).read_text()
    assert f"\ndef {function}(" in text
    if case:
        assert f'"{case}"' in text
