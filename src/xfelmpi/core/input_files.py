"""Files that a result depends on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class UsedFile:
    """A mask, constants or a geometry that a job has read.

    Parameters
    ----------
    role : str
        What it is, e.g. ``global mask``.
    path : str
    """

    role: str
    path: str
