"""Completion of commands, options and their choices by the shell (argcomplete)."""

import argparse
import os
from collections.abc import Callable, Iterable

from xfelmpi.cli.parser import parsers


def complete(commands: Iterable[str], is_run: Callable[[str], bool]) -> None:
    """Answer the shell, which asks in the environment, and end the process.

    Parameters
    ----------
    commands : iterable of str
    is_run : callable
        Whether a word means a run: ``xfelmpi 50`` is ``xfelmpi process 50``.
    """
    import argcomplete

    line = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", "0") or 0)]
    argcomplete.autocomplete(completing_parser(line.split()[1:], commands, is_run))


def completing_parser(
    words: list[str], commands: Iterable[str], is_run: Callable[[str], bool]
) -> argparse.ArgumentParser:
    """Return the parser that knows what may follow the words so far."""
    own = dict(parsers())
    if words and (is_run(words[0]) or words[0].startswith("-")):
        return own["process"]
    top = argparse.ArgumentParser(prog="xfelmpi")
    top.add_argument("--version", action="store_true")
    below = top.add_subparsers()
    for name in commands:
        below.add_parser(name, parents=[own[name]], add_help=False)
    below.add_parser("help").add_argument("command", choices=list(commands))
    return top
