"""What not every machine has, but the one of the continuous integration."""

import os

import pytest


def unavailable(reason: str, variable: str):
    """Skip the test, or fail it where `variable` says that there must be what it needs.

    Parameters
    ----------
    reason : str
    variable : str
        Of the environment; 1: must be there.
    """
    if os.environ.get(variable) == "1":
        pytest.fail(reason)
    pytest.skip(reason)
