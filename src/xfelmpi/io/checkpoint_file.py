"""One file of a checkpoint: a line of JSON, arrays as they are in memory, and a digest of it all.

No file format that is parsed by a library: what is damaged must be recognised before it is used.
"""

import hashlib
import json
import math
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xfelmpi.core.errors import LostLockError
from xfelmpi.io.output_file import make_folder
from xfelmpi.io.partial_file import check_lock, create_new, end_partial, part_name

FORMAT = "xfelmpi checkpoint 4"

_DIGEST_BYTES = 32
_BLOCK = 8 << 20


class DamagedError(Exception):
    """A file is not, or not completely, what was once written."""


def _digest():
    return hashlib.blake2b(digest_size=_DIGEST_BYTES)


def write_checkpoint(path: Path, about: dict, arrays: dict[str, np.ndarray]) -> None:
    """Write a file, which appears under its name only when complete.

    Parameters
    ----------
    path : Path
    about : dict
        Anything that JSON can hold.
    arrays : dict of str to ndarray

    Raises
    ------
    OSError
        If it cannot be written; nothing is left then.
    LostLockError
        If another job holds the lock now.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    shapes = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
    head = json.dumps({"format": FORMAT, "about": about, "arrays": shapes}).encode() + b"\n"
    digest = _digest()
    part = part_name(path)
    check_lock()
    try:
        make_folder(path.parent)
        with open(create_new(part), "wb") as file:
            for piece in (head, *(array.reshape(-1).view(np.uint8) for array in arrays.values())):
                digest.update(piece)
                file.write(piece)
            file.write(digest.digest())
        part.chmod(0o664)
        check_lock()
        part.replace(path)
    except (OSError, LostLockError):
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    finally:
        end_partial(part)


@dataclass(frozen=True)
class CheckpointFile:
    """A complete file of a checkpoint, of which arrays are read when they are asked for.

    Parameters
    ----------
    path : Path
    about : dict
    places : dict
        (dtype, shape, offset in the file) of every array.
    """

    path: Path
    about: dict
    places: dict[str, tuple[np.dtype, tuple[int, ...], int]]

    def array(self, name: str) -> np.ndarray:
        """Return a whole array."""
        _, shape, _ = self.places[name]
        return self.part(name, 0, int(np.prod(shape))).reshape(shape)

    def part(self, name: str, first: int, end: int) -> np.ndarray:
        """Return the elements ``first:end`` of an array."""
        dtype, shape, offset = self.places[name]
        if not 0 <= first <= end <= math.prod(shape):
            raise DamagedError(f"{name} has {math.prod(shape)} elements, not {end}")
        return np.fromfile(self.path, dtype, end - first, offset=offset + first * dtype.itemsize)


def open_checkpoint(path: Path) -> CheckpointFile:
    """Open a file of a checkpoint, and check all of its bytes.

    Raises
    ------
    DamagedError
        If it cannot be used.
    """
    try:
        # regular files only: a pipe would keep the job waiting
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise DamagedError("is not a file")
            size = os.fstat(file.fileno()).st_size
            _check(file, size)
            file.seek(0)
            head = file.readline()
    except OSError as error:
        raise DamagedError(str(error)) from None
    try:
        found = json.loads(head)
        if found["format"] != FORMAT:
            raise DamagedError(f"found {found['format']!r}, expected {FORMAT!r}")
        places, offset = {}, len(head)
        for name, dtype, shape in found["arrays"]:
            places[name] = np.dtype(dtype), tuple(shape), offset
            offset += math.prod(shape) * np.dtype(dtype).itemsize
        about = found["about"]
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise DamagedError(f"its first line was not written by xfelmpi: {error}") from None
    if offset + _DIGEST_BYTES != size:
        raise DamagedError(f"{size} bytes, expected {offset + _DIGEST_BYTES} by its first line")
    return CheckpointFile(path, about, places)


def _check(file, size: int) -> None:
    left, digest = size - _DIGEST_BYTES, _digest()
    if left <= 0:
        raise DamagedError(f"{size} bytes are too few")
    while left:
        block = file.read(min(left, _BLOCK))
        if not block:
            raise DamagedError("shorter than a moment ago")
        digest.update(block)
        left -= len(block)
    if file.read(_DIGEST_BYTES) != digest.digest():
        raise DamagedError("its bytes do not have the digest that stands at its end")
