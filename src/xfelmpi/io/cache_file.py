"""What a job keeps for the next one on the same files: arrays and a text in an HDF5 file.

It holds as long as its key is the same. Anything odd about the file means that it is not used; it
is never an error.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.core.errors import OutputError
from xfelmpi.io.output_file import make_folder, make_readable, serial_file
from xfelmpi.io.partial_file import begin_partial, forget, sweep


def describe_files(paths: Iterable[Path]) -> list[tuple[str, int | str, int]]:
    """Return name, size and time of files; while these are the same, so is what is read."""
    found = []
    for path in paths:
        try:
            about = path.stat()
        except OSError as error:  # a link to nowhere: who reads the file will name it
            found.append((path.name, str(error), 0))
            continue
        found.append((path.name, about.st_size, about.st_mtime_ns))
    return found


def load(path: Path, key: str, names: Iterable[str]) -> tuple[dict[str, np.ndarray], dict] | None:
    """Return the named arrays and the text that `save` wrote with this key, or None."""
    try:
        with h5py.File(path, "r") as file:
            if file["key"][()] != key.encode():
                return None
            return {name: file[name][()] for name in names}, json.loads(file["about"][()])
    except (OSError, KeyError, ValueError, TypeError, RuntimeError):
        return None


def save(path: Path, key: str, arrays: dict[str, np.ndarray], about: dict) -> None:
    """Write arrays of one dimension or more, and what JSON can say; nothing if it cannot be."""
    # a name of its own: jobs on the same run may write at the same time
    part = begin_partial(path)
    try:
        make_folder(path.parent)
        with serial_file(part) as file:
            for name, array in arrays.items():
                # a checksum, since a wrong number would go unnoticed; without numbers, none
                some = array.size > 0 or None
                file.create_dataset(name, data=array, chunks=some, fletcher32=some)
            file["about"] = json.dumps(about)
            file["key"] = key
        make_readable(part)
        sweep([path], held=False)
        part.replace(path)
    except (OSError, OutputError):
        with suppress(OSError):
            part.unlink()
    forget(part)
