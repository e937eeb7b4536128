"""What is in a file, as a digest: worked out once in a job, however often it is asked for."""

import hashlib
import os
from pathlib import Path

from xfelmpi.core.regular_file import open_regular

_known: dict[str, tuple[tuple[int, ...], str]] = {}
"""Of this process: stamp and digest by path."""


def _stamp(about: os.stat_result) -> tuple[int, ...]:
    # nobody can set the time of the last change of the inode
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def known_digest(path: str) -> str | None:
    """Return the sha256 of a file if this process has worked it out, and the file is the same."""
    try:
        stamp, digest = _known[path]
        return digest if stamp == _stamp(Path(path).stat()) else None
    except (KeyError, OSError):
        return None


def file_digest(path: str) -> str | None:
    """Return the sha256 of a regular file, or None if there is none that can be read."""
    if digest := known_digest(path):
        return digest
    try:
        with open(open_regular(path), "rb") as file:
            stamp = _stamp(os.fstat(file.fileno()))
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
    _known[path] = stamp, digest
    return digest
