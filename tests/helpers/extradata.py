"""EXtra-data within this process: otherwise it starts others to open the files of a run.

For the few small files of a test these take half a second.
"""

from functools import partial
from pathlib import Path
from unittest.mock import patch

import extra_data
from extra_data.validation import RunValidator

RunDirectory = partial(extra_data.RunDirectory, parallelize=False)
"""As `extra_data.RunDirectory`."""


class _OneProcess:
    """What EXtra-data needs of a pool of processes."""

    def __init__(self, initializer=None):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    imap_unordered = staticmethod(map)


def complaints(folder: Path) -> list:
    """Return what EXtra-data's validation finds wrong with a run, every check of it."""
    with patch("extra_data.validation.Pool", _OneProcess):
        return RunValidator(str(folder)).run_checks()
