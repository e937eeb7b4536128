"""Messages to a person: the log of rank 0, its colours, numbers as text."""

import logging
import os
import sys
from datetime import UTC, datetime

from xfelmpi.core.text import printable

log = logging.getLogger("xfelmpi")


BOLD, RED, GREEN, YELLOW, PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"


def has_colours(stream) -> bool:
    """Return whether a stream is a terminal whose user has not asked for plain text.

    Open MPI gives every rank a terminal of its own for standard output, wherever mpirun's own goes,
    but a pipe for standard error: that tells.
    """
    return stream.isatty() and sys.stderr.isatty() and not os.environ.get("NO_COLOR")


class _Painter(logging.Formatter):
    """Paints what matters, on a terminal: a record's own colour, else that of its level."""

    def __init__(self, text: str, stream):
        super().__init__(text)
        self._colours = has_colours(stream)

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        level = {logging.WARNING: YELLOW, logging.ERROR: RED}.get(record.levelno, "")
        colour = getattr(record, "colour", level)
        text = super().format(record)
        if not getattr(record, "painted", False):
            # runs, files and other jobs may say anything; what they say is part of messages
            text = printable(text)
        return f"{colour}{text}{PLAIN}" if colour and self._colours else text


def allow_any_text() -> None:
    """Have standard output and error write, as an escape, what their encoding cannot say.

    Old clusters have locales such as Latin-1, and names of files need not be text at all.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def start_logging(rank: int) -> None:
    """Send the messages of rank 0 to standard output, and errors of all ranks to standard error."""
    allow_any_text()
    log.handlers.clear()
    log.propagate = False
    log.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    out = logging.StreamHandler(sys.stdout)
    out.setFormatter(_Painter("%(message)s", sys.stdout))
    out.addFilter(lambda record: record.levelno < logging.WARNING)
    err = logging.StreamHandler(sys.stderr)
    err.setLevel(logging.WARNING)
    err.setFormatter(_Painter("%(levelname)s: %(message)s", sys.stderr))
    log.addHandler(out)
    log.addHandler(err)


def shortened(text: str, most: int = 1500) -> str:
    """Return a message without its middle if it quotes more than anybody reads."""
    if len(text) <= most:
        return text
    return (
        f"{text[: most // 2]} … ({len(text) - most:,} characters left out) … {text[-most // 2 :]}"
    )


def plural(n: int, what: str) -> str:
    """Return the name of what was counted, in the singular if there is one."""
    return what if n == 1 else f"{what}s"


def counted(n: int, what: str) -> str:
    """Return how many there are of what was counted, e.g. ``1 hit`` or ``1,234 hits``."""
    return f"{n:,} {plural(n, what)}"


def size_text(n_bytes: float) -> str:
    """Return a number of bytes with a unit in which it is easily read."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes / 2**10:.1f} KiB"


def date_text(seconds: float) -> str:
    """Return a file's time as ISO 8601 in UTC; file systems also hold times that are no date."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f} s after 1970"


def duration(seconds: float) -> str:
    """Return a time as minutes and seconds, with hours if there are any."""
    if seconds != seconds:
        return "unknown time"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
