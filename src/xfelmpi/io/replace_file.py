"""Small files that are replaced as a whole."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from xfelmpi.io.output_file import cannot_write, make_folder, make_readable
from xfelmpi.io.partial_file import begin_partial, check_lock, create_new, end_partial, sweep


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
    _replace(path, [data], len(data), locked=locked)


def _replace(path: Path, pieces: Iterable[bytes], size: int, *, locked: bool) -> None:
    part = begin_partial(path)
    try:
        make_folder(path.parent)
        if locked:
            check_lock()
        with open(create_new(part), "wb") as file:
            file.writelines(pieces)
        make_readable(part)
        if locked:
            with open(part, "rb") as file:
                os.fsync(file.fileno())
        sweep([path], held=locked)
        part.replace(path)
    except OSError as error:
        raise cannot_write(path, error, size) from None
    finally:
        # what keeps it from being made keeps it from being looked for, too
        with suppress(OSError):
            part.unlink()
        end_partial(part)


def replace_text(path: Path, text: str) -> None:
    """Write a text file, in UTF-8, that appears under its name only when complete.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    replace_file(path, _encoded(text))


def replace_pieces(path: Path, pieces: Iterable[str]) -> None:
    """Write a long text that is made piece by piece; as `replace_text`."""
    _replace(path, map(_encoded, pieces), 0, locked=False)


def _encoded(text: str) -> bytes:
    # halves of characters from outside must not keep a page from being written
    return text.encode(errors="backslashreplace")
