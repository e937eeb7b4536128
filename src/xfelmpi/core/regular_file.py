"""Opening files of others, of which nobody knows what stands under their name."""

import errno
import os
import stat


def is_there(path) -> bool:
    """Return whether there is anything of that name, also a link to nowhere.

    A mask that a link no longer leads to, or that may not be looked at, must not be left out as if
    there had never been one.

    Raises
    ------
    OSError
        If that cannot be found out.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def open_regular(path) -> int:
    """Open a regular file to read and return its descriptor; nothing else is waited for.

    Raises
    ------
    OSError
        If it cannot be opened, or is a FIFO, a device, a socket or a folder.
    """
    return _if_regular(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), path)


def open_to_append(path) -> int:
    """Open a regular file to write to its end, made if it is not there; return its descriptor.

    No link is followed, and nothing is waited for.

    Raises
    ------
    OSError
        If it cannot be opened, or is a link, a FIFO, a device, a socket or a folder.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        # what the system says of links and of pipes that nobody reads means little to people
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        raise _not_regular(path) from None
    return _if_regular(descriptor, path)


def _if_regular(descriptor: int, path) -> int:
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise _not_regular(path)


def _not_regular(path) -> OSError:
    return OSError(errno.EINVAL, "not a regular file", str(path))


def read_small(path, most: int) -> bytes:
    """Return the bytes of a regular file that has no more than `most`.

    Raises
    ------
    OSError
        As `open_regular`, or if it is larger, or grows.
    """
    with open(open_regular(path), "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"more than {most:,} bytes", str(path))
    return data
