"""What is read soon is brought into memory meanwhile: the reader need not wait for disk or network.

An index takes a hundred small reads of each of a thousand files, one after the other, and hits are
scattered over all of them. Of files that nobody has read lately, each such read waits by itself.
"""

import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np

BYTES = 128 << 10
"""Of each file: names, sizes and places of its datasets. What follows, the system reads ahead."""

_FILES = 8
"""How far the thread may be ahead."""


def with_read_ahead(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield paths in their order, while a thread reads the beginnings of the next files.

    Those that are in memory are left out. What it cannot read, it passes over: whoever opens the
    file says what is wrong.
    """
    reader = _Reader()
    try:
        for path in paths[1 : 1 + _FILES]:
            reader.want(path)
        for n, path in enumerate(paths, 1 + _FILES):
            yield path
            if n < len(paths):
                reader.want(paths[n])
    finally:
        reader.stop()


class _Reader:
    """Reads the beginnings of files in a thread of its own, if there is anything to read."""

    def __init__(self):
        self._thread: threading.Thread | None = None
        self._waiting: SimpleQueue[Path | None] = SimpleQueue()
        self._buffer = bytearray(BYTES)

    def want(self, path: Path) -> None:
        """Have a file read unless it is in memory."""
        if _read_beginning(path, self._buffer, os.RWF_NOWAIT):
            return
        self._waiting.put(path)
        if self._thread is None:
            # a daemon: a disk that does not answer must not keep the job from ending
            self._thread = threading.Thread(target=_read, args=(self._waiting,), daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Have no more read."""
        with suppress(Empty):
            while True:
                self._waiting.get_nowait()
        self._waiting.put(None)


def _read(waiting: SimpleQueue) -> None:
    buffer = bytearray(BYTES)
    while (path := waiting.get()) is not None:
        _read_beginning(path, buffer)


def _read_beginning(path: Path, buffer: bytearray, flags: int = 0) -> bool:
    """Return whether the beginning of a file was read."""
    with suppress(OSError):
        # opening a pipe would wait for its writer
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(file)
            if stat.S_ISREG(status.st_mode):
                return os.preadv(file, [buffer], 0, flags) == min(BYTES, status.st_size)
        finally:
            os.close(file)
    return False


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
