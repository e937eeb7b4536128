"""Text from outside (runs, files, locks, options) made fit to be printed; what it may mean."""

import re
import unicodedata
from collections.abc import Iterable

_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories: controls, invisible and reordering characters, halves, line ends."""

_PLAIN = re.compile(r"[\x20-\x7e]*")


def printable(text: object, keep: str = "") -> str:
    """Return a text on one line, with escapes instead of what moves cursors or hides characters.

    Parameters
    ----------
    text : object
        Its `str` is taken.
    keep : str
        Control characters that may stay, e.g. a line's end.
    """
    text = str(text)
    if _PLAIN.fullmatch(text):
        return text
    return "".join(
        c if c in keep or unicodedata.category(c) not in _UNPRINTABLE else _escaped(c) for c in text
    )


def one_line(text: object) -> str:
    """Return a text, e.g. the message of an error, with single spaces for all white space."""
    return " ".join(str(text).split())


def storable(text: str) -> str:
    """Return a text that UTF-8 can hold: bytes of names that are not text become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question that names the nearest of what is known, or nothing if none is near."""
    # most jobs have no such word
    import difflib

    near = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
