"""Standard streams that may be closed, full, or unable to write a character: results come first.

What cannot be written to the terminal or the log is lost; a job never ends because of that, nor is
its exit status another one.
"""

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO


class BestEffort:
    """A text stream that takes everything, and gives up for good when writing fails.

    Parameters
    ----------
    stream : TextIO
    """

    def __init__(self, stream):
        self._stream = stream
        with suppress(AttributeError, ValueError, OSError):
            # the names of files and samples may have characters that a locale has not
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            self._give_up()
        return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        # what is still in the buffer must go somewhere, or Python ends with a status of its own
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._stream.flush()


_LAUNCHERS = ("OMPI_COMM_WORLD_", "PMI_", "PMIX_")
_FARTHEST = 4


def launchers_terminal() -> TextIO | None:
    """Return the terminal where standard error of the program's launcher goes, None if to none.

    mpirun gives its processes a pipe, and passes on what they write. Its own standard error tells
    whether there is a terminal; that of its processes does not.
    """
    if not any(name.startswith(_LAUNCHERS) for name in os.environ):
        return None
    process = os.getppid()
    for _ in range(_FARTHEST):
        path = Path(f"/proc/{process}/fd/2")
        try:
            mode = path.stat().st_mode
            if stat.S_ISCHR(mode):
                number = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
                if os.isatty(number):
                    return open(number, "w", errors="backslashreplace")
                os.close(number)
                return None
            if not stat.S_ISFIFO(mode):
                return None
            # a script that mpirun has started, perhaps
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return None
    return None


def secure_streams() -> None:
    """Have standard streams that never fail, and no file of ours under their numbers.

    A file opened while 0, 1 or 2 is free gets that number, and then what is meant for the terminal.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(number, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
        setattr(sys, name, BestEffort(stream))
