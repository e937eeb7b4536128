"""What the system refuses is no bug: a message, and status 2."""

import errno

import pytest

from xfelmpi.core.errors import EXIT_UNUSABLE, XfelmpiError, as_user_error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "out of memory"),
        (MemoryError("Unable to allocate 24.0 MiB"), "Unable to allocate 24.0 MiB"),
        (OSError(errno.ENOSPC, "No space left", "/scratch/a"), "/scratch/a: No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "b"), "b: Permission denied"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "c"), "c: Is a directory"),
        (OSError(errno.EINVAL, "not a regular file", "d"), "d: not a regular file"),
        (OSError(errno.EIO, "Input/output error", "e"), "e: Input/output error"),
    ],
)
def test_what_the_system_refuses(error, words):
    told = as_user_error(error)
    assert isinstance(told, XfelmpiError)
    assert told.exit_status == EXIT_UNUSABLE
    assert words in str(told)


@pytest.mark.parametrize("error", [ValueError("x"), OSError("no file"), KeyError("x")])
def test_what_is_a_bug_stays_one(error):
    assert as_user_error(error) is error
