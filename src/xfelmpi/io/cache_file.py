"""What a job keeps for the next one on the same files: arrays and a text in an HDF5 file.

The file ends with a digest of all before it and of a key, which says what it was made from; HDF5
does not mind. It holds as long as both are the same. Anything odd about the file means that it is
not used; it is never an error.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np

from xfelmpi.core.errors import OutputError
from xfelmpi.core.regular_file import open_regular
from xfelmpi.io.output_file import make_folder, make_readable, serial_file
from xfelmpi.io.partial_file import begin_partial, end_partial, open_own, sweep

T = TypeVar("T")

_DIGEST_BYTES = 32


def stamps_of_files(paths: Iterable[Path]) -> list[tuple[str, int | str, int, int]]:
    """Return name, size, time and inode of files; while these are the same, so is what is read."""
    found = []
    for path in paths:
        try:
            about = path.stat()
        except OSError as error:  # a link to nowhere: who reads the file will name it
            found.append((path.name, str(error), 0, 0))
            continue
        found.append((path.name, about.st_size, about.st_mtime_ns, about.st_ino))
    return found


def load(path: Path, key: str, names: Iterable[str], build: Callable[[dict, dict], T]) -> T | None:
    """Return ``build(arrays, about)`` of what `save` wrote with this key, or None.

    Parameters
    ----------
    path : Path
    key : str
    names : iterable of str
        Of the arrays.
    build : callable
        Whatever it raises means that the file is of no use.
    """
    try:
        data = _checked(path, key)
        # from memory: HDF5 never sees a file that has changed since it was written
        with h5py.File(io.BytesIO(data), "r") as file:
            arrays = {name: file[name][()] for name in names}
            about = file["about"][()]
        return build(arrays, json.loads(about))
    except Exception:  # a damaged file may raise anything
        return None


def _checked(path: Path, key: str) -> bytes:
    """Return the bytes of a file; the digest at its end must be that of the others."""
    with open(open_regular(path), "rb") as file:
        data = file.read()
    if data[-_DIGEST_BYTES:] != _digest(key, memoryview(data)[:-_DIGEST_BYTES]):
        raise ValueError("another digest")
    return data


def _digest(key: str, data: bytes | memoryview) -> bytes:
    """Return a digest of a file's bytes: one wrong bit would go unnoticed, or crash HDF5."""
    digest = hashlib.blake2b(key.encode() + b"\0", digest_size=_DIGEST_BYTES)
    digest.update(data)
    return digest.digest()


def save(path: Path, key: str, arrays: dict[str, np.ndarray], about: dict) -> None:
    """Write arrays of one dimension or more, and what JSON can say; nothing if it cannot be."""
    # a name of its own: jobs on the same run may write at the same time
    part = begin_partial(path)
    text = json.dumps(about)
    try:
        make_folder(path.parent)
        with serial_file(part) as file:
            for name, array in arrays.items():
                file.create_dataset(name, data=array)
            file["about"] = text
        with open(open_own(part), "r+b") as file:
            file.write(_digest(key, file.read()))
        make_readable(part)
        sweep([path], held=False)
        part.replace(path)
    except (OSError, OutputError):
        with suppress(OSError):
            part.unlink()
    end_partial(part)
