"""Text from outside on a terminal: no escapes, no lines of its own."""

import logging

import pytest

from xfelmpi.core import log
from xfelmpi.core.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("lysozyme 5 µm, σ = 3³ …", "lysozyme 5 µm, σ = 3³ …"),
        ("a\x1b]0;owned\x07\x1b[2J\nb", "a\\x1b]0;owned\\x07\\x1b[2J\\nb"),
        ("\x9b2J\x00\x7f\r", "\\x9b2J\\x00\\x7f\\r"),
        ("a\u202eb\u2028c\ufeff", "a\\u202eb\\u2028c\\ufeff"),
        ("name \udcff.h5", "name \\udcff.h5"),
        (ValueError("x\ty"), "x\\ty"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown


def test_some_may_stay():
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_log_shows_no_escapes(capsys):
    log.start_logging(0)
    log.log.warning("sample %s", "a\x1b[2J\nb")
    log.log.info("%s", "\x1b[1mbold", extra={"painted": True})
    log.log.handlers.clear()
    found = capsys.readouterr()
    assert found.err == "WARNING: sample a\\x1b[2J\\nb\n"
    assert found.out == "\x1b[1mbold\n"
    assert log.log.level == logging.INFO
