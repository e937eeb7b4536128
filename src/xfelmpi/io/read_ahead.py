"""What is read soon is brought into memory meanwhile: the reader need not wait for disk or network.

An index takes a hundred small reads of each of a thousand files, one after the other, and hits are
scattered over all of them. Of files that nobody has read lately, each such read waits by itself.
"""

import os
import stat
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

BYTES = 128 << 10
"""Of each file: names, sizes and places of its datasets. What follows, the system reads ahead."""

_FILES = 8
"""How far the thread may be ahead."""


def with_read_ahead(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield paths in their order, while a thread reads the beginnings of the next files.

    What it cannot read, it passes over: whoever opens the file says what is wrong.
    """
    waiting, allowed = deque(paths[1:]), threading.Semaphore(_FILES)
    # a daemon: a disk that does not answer must not keep the job from ending
    threading.Thread(target=_read, args=(waiting, allowed), daemon=True).start()
    try:
        for path in paths:
            yield path
            allowed.release()
    finally:
        waiting.clear()
        allowed.release()


def _read(waiting: deque[Path], allowed: threading.Semaphore) -> None:
    buffer = bytearray(BYTES)
    # empty as soon as nobody wants any more
    with suppress(IndexError):
        while waiting:
            allowed.acquire()
            _read_beginning(waiting.popleft(), buffer)


def _read_beginning(path: Path, buffer: bytearray) -> None:
    with suppress(OSError):
        # opening a pipe would wait for its writer
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if stat.S_ISREG(os.fstat(file).st_mode):
                os.preadv(file, [buffer], 0)
        finally:
            os.close(file)


def read_soon(fd: int, offset: np.ndarray, size: np.ndarray) -> None:
    """Have the system read parts of a file at the same time, if they are scattered over it.

    What lies together it reads ahead by itself.

    Parameters
    ----------
    fd : int
    offset, size : ndarray, int64 (part,)
        Bytes; parts with a negative offset are nowhere.
    """
    there = offset >= 0
    offset, size = offset[there], size[there]
    if len(offset) < 2 or 2 * size.sum() > np.ptp(offset):
        return
    # places that a damaged file names are no error here
    with suppress(OSError):
        for at, n in zip(offset.tolist(), size.tolist(), strict=True):
            os.posix_fadvise(fd, at, n, os.POSIX_FADV_WILLNEED)
