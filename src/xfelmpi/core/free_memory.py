"""Memory that is free goes back to the system: the C library keeps it for later otherwise."""

import ctypes
from contextlib import suppress


def give_back() -> None:
    """Give memory that this process no longer uses back to the system, where that can be done.

    What a stage needed for a moment would count for the rest of the job, in holes too small for the
    arrays of the next one.
    """
    # other C libraries than GNU's have no such call
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
