"""What can go wrong, one class per cause, each with the exit status it ends in.

Messages say what was found, what was expected, and in which file.
"""

EXIT_COMPLETE = 0
EXIT_BUG = 1
EXIT_UNUSABLE = 2
EXIT_PARTIAL = 3
EXIT_NOT_STARTED = 75
"""Of jobs/process_run.sh: Slurm did not start the ranks."""

EXIT_SIGNAL = 128
"""Plus the number of the signal that stopped the job: 143 for SIGTERM, 130 for SIGINT."""


class XfelmpiError(Exception):
    """Base of every error with a message for the user (no traceback is shown)."""

    exit_status = EXIT_UNUSABLE


class UsageError(XfelmpiError):
    """An option, a configuration file or the way of starting is wrong."""


class InputError(XfelmpiError):
    """A run, a mask, constants or a geometry cannot be used at all."""


class OutOfFilesError(XfelmpiError):
    """The system's limit of open files is too low for this job."""


class OutOfMemoryError(XfelmpiError):
    """The system gives no more memory."""


class OutputError(XfelmpiError):
    """An output file cannot be written."""


class BusyError(XfelmpiError):
    """Another job writes the same outputs."""


class LostLockError(XfelmpiError):
    """Another job holds the lock now: this one must not write outputs any more."""


class PeerError(XfelmpiError):
    """Another rank failed; its message is the one to read."""


def as_user_error(error: BaseException) -> BaseException:
    """Return an error with a message for the user if the system refused it something, else it."""
    if isinstance(error, MemoryError):
        return OutOfMemoryError(
            f"out of memory ({str(error) or 'the system gives no more'}); expected room for "
            "--memory-per-rank times the ranks of the node, and no lower limit (ulimit -d, -v)"
        )
    if not isinstance(error, OSError) or not error.filename:
        return error
    return InputError(f"{error.filename}: {error.strerror}")
