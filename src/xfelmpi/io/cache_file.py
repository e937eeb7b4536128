"""What a job keeps for the next one on the same files: arrays and a text in an HDF5 file.

It holds as long as its key is the same. Anything odd about the file means that it is not used; it
is never an error.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np

from xfelmpi.core.errors import OutputError
from xfelmpi.io.output_file import make_folder, make_readable, serial_file
from xfelmpi.io.partial_file import begin_partial, forget, sweep

T = TypeVar("T")


def describe_files(paths: Iterable[Path]) -> list[tuple[str, int | str, int, int]]:
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
        with h5py.File(path, "r") as file:
            arrays = {name: file[name][()] for name in names}
            about = file["about"][()]
            if file["digest"][()] != _digest(key, arrays, about):
                return None
        return build(arrays, json.loads(about))
    except Exception:  # a damaged file may raise anything
        return None


def _digest(key: str, arrays: dict[str, np.ndarray], about: bytes) -> bytes:
    """Return a digest of everything in a file: a wrong bit anywhere would go unnoticed."""
    digest = hashlib.blake2b(key.encode(), digest_size=16)
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    digest.update(about)
    return digest.hexdigest().encode()


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
            file["digest"] = _digest(key, arrays, text.encode())
        make_readable(part)
        sweep([path], held=False)
        part.replace(path)
    except (OSError, OutputError):
        with suppress(OSError):
            part.unlink()
    forget(part)
