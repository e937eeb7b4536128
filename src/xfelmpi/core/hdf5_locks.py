"""HDF5's own file locks: files are read and written without them, unless the site decides.

Some file systems have no locks, and then HDF5 opens no file at all. The program's own files are
protected by a lock file; nobody else's are written to.
"""

import os

VARIABLE = "HDF5_USE_FILE_LOCKING"

site_setting = os.environ.get(VARIABLE)
"""What the site or the user has set, None for nothing."""


def open_without_locks() -> None:
    """Have HDF5 open files without locks; called before the first one, on every rank."""
    os.environ.setdefault(VARIABLE, "FALSE")


def locks_are_off() -> bool:
    """Return whether the site wants files to be read whoever has them locked."""
    return (site_setting or "").upper() in ("FALSE", "0")


def advice(message: str) -> str:
    """Return a message, with the way out if it tells that a file cannot be locked."""
    if "unable to lock" not in message or VARIABLE in message:
        return message
    return f"{message}; {VARIABLE}=FALSE reads it without a lock"
