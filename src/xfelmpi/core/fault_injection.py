"""Failures on purpose, for tests only: at a named point of a job, on one rank.

``XFELMPI_FAULT=POINT:RANK:ACTION`` has that rank raise an exception, exit as if all was well, or
kill itself with SIGKILL, when it gets there. Without the variable nothing happens.
"""

import os
import signal

_ACTIONS = ("raise", "exit", "kill")


class InjectedError(Exception):
    """The failure that a test asked for."""


def _wanted() -> tuple[str, int, str] | None:
    text = os.environ.get("XFELMPI_FAULT")
    if not text:
        return None
    name, rank, action = text.split(":")
    if action not in _ACTIONS:
        raise ValueError(f"XFELMPI_FAULT={text}: found {action}, expected one of {_ACTIONS}")
    return name, int(rank), action


_WANTED = _wanted()


def inject(comm, name: str) -> None:
    """Fail here, if that is wanted of this rank."""
    if _WANTED is None or _WANTED[:2] != (name, comm.rank):
        return
    action = _WANTED[2]
    if action == "raise":
        raise InjectedError(f"as XFELMPI_FAULT asks, at {name!r} on rank {comm.rank}")
    if action == "exit":
        # no hook of ours gets to see this, and the status says that all is well
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
