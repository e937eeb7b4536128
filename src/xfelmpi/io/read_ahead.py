"""Beginnings of files that are opened soon, read by a thread: the next open need not wait for them.

An index takes a hundred small reads of each of a thousand files, one after the other. Of files that
nobody has read lately, each of the first ones waits for the disk or the network.
"""

import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

BYTES = 128 << 10
"""Of each file: names, sizes and places of all its datasets; for longer ones the system reads ahead."""

_FILES = 8
"""How far the thread may be ahead."""


def with_read_ahead(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield paths in their order, while a thread reads the beginnings of the next files.

    What it cannot read, it passes over: whoever opens the file says what is wrong.
    """
    allowed = threading.Semaphore(_FILES)
    # a daemon: a disk that does not answer must not keep the job from ending
    threading.Thread(target=_read, args=(tuple(paths[1:]), allowed), daemon=True).start()
    for path in paths:
        yield path
        allowed.release()


def _read(paths: tuple[Path, ...], allowed: threading.Semaphore) -> None:
    buffer = bytearray(BYTES)
    for path in paths:
        allowed.acquire()
        with suppress(OSError):
            # opening a pipe would wait for its writer
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                if stat.S_ISREG(os.fstat(file).st_mode):
                    os.preadv(file, [buffer], 0)
            finally:
                os.close(file)
