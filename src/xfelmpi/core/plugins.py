"""What other packages, or a table of this one, offer by name: loaded when an option asks for it."""

from collections.abc import Iterable
from importlib import import_module

from xfelmpi.core.errors import UsageError


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
        If a name is unknown, or its module cannot be imported.
    """
    names = tuple(dict.fromkeys(names))
    if not names:
        return {}
    # slow to import, and seldom needed
    from importlib.metadata import entry_points

    known = {entry.name: entry.value for entry in entry_points(group=group)} | built_in
    loaded = {}
    for name in names:
        if name not in known:
            there = ", ".join(sorted(known)) or "none"
            raise UsageError(f"{option} {name}: unknown, there are: {there} (entry points {group})")
        try:
            loaded[name] = load_object(known[name])
        except (ImportError, AttributeError) as error:
            raise UsageError(f"{option} {name}: {known[name]}: {error}") from None
    return loaded
