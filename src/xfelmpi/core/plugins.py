"""What other packages, or a table of this one, offer by name: loaded when an option asks for it."""

import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from xfelmpi.core.errors import UsageError, XfelmpiError
from xfelmpi.core.text import one_line


def load_object(place: str):
    """Return what is called ``module:object``."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def load_named(names: Iterable[str], built_in: dict[str, str], group: str, option: str) -> dict:
    """Load objects by name.

    Parameters
    ----------
    names : iterable of str
    built_in : dict of str to str
        Name → ``module:object`` of what this package has.
    group : str
        Entry points in which other packages name theirs.
    option : str
        That has the names, for the message.

    Returns
    -------
    dict
        Name → object, in the order of the names.

    Raises
    ------
    UsageError
        If a name is unknown or means several things, or its module cannot be imported.
    """
    names = tuple(dict.fromkeys(names))
    if not names:
        return {}
    # slow to import, and seldom needed
    from importlib.metadata import entry_points

    known: dict[str, set[str]] = {name: {place} for name, place in built_in.items()}
    for entry in entry_points(group=group):
        known.setdefault(entry.name, set()).add(entry.value)
    loaded = {}
    for name in names:
        if name not in known:
            there = ", ".join(sorted(known)) or "none"
            raise UsageError(f"{option} {name}: unknown, there are: {there} (entry points {group})")
        if len(known[name]) > 1:
            several = ", ".join(sorted(known[name]))
            raise UsageError(f"{option} {name}: is the name of several: {several}")
        (place,) = known[name]
        with blame(f"{option} {name}: {place}"):
            loaded[name] = load_object(place)
    return loaded


@contextmanager
def blame(who: str) -> Iterator[None]:
    """Turn an error in other people's code into a message that names it, and the line.

    Parameters
    ----------
    who : str
        Start of the message.

    Raises
    ------
    UsageError
        Instead of any error but those of xfelmpi, and of the system about memory or a file.
    """
    try:
        yield
    except (XfelmpiError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename:
            # the system's refusal names the file
            raise
        said, last = str(error), traceback.extract_tb(error.__traceback__)[-1]
        if last.filename != __file__ and not isinstance(error, ImportError):
            said = f"{Path(last.filename).name}, line {last.lineno}: {type(error).__name__}: {said}"
        raise UsageError(f"{who}: {one_line(said)}") from error
