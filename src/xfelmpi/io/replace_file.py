"""Small files that are replaced as a whole."""

import os
from pathlib import Path

from xfelmpi.io.output_file import cannot_write, make_folder, make_readable
from xfelmpi.io.partial_file import begin_partial, check_lock, forget, sweep, write_new


def replace_file(path: Path, data: bytes, *, locked: bool = False) -> None:
    """Write a file that appears under its name only when complete, and its folder.

    Parameters
    ----------
    path : Path
    data : bytes
    locked : bool
        Whether this process must hold the lock of the outputs; the file then is safely on disk
        when this returns.

    Raises
    ------
    OutputError
        If it cannot be written.
    LostLockError
        If another process has taken the lock.
    """
    part = begin_partial(path)
    try:
        make_folder(path.parent)
        if locked:
            check_lock()
        write_new(part, data)
        make_readable(part)
        if locked:
            with open(part, "rb") as file:
                os.fsync(file.fileno())
        sweep([path], held=locked)
        part.replace(path)
    except OSError as error:
        raise cannot_write(path, error, len(data)) from None
    finally:
        part.unlink(missing_ok=True)
        forget(part)


def replace_text(path: Path, text: str) -> None:
    """Write a text file, in UTF-8, that appears under its name only when complete.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    # halves of characters from outside must not keep a page from being written
    replace_file(path, text.encode(errors="backslashreplace"))
