"""Which options a run is processed with: ``watch.toml``, whose first rule that fits counts."""

import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path

from xfelmpi.core.config.parsing import parse_runs
from xfelmpi.core.errors import UsageError
from xfelmpi.core.regular_file import open_regular


@dataclass(frozen=True)
class Rule:
    """What is done with some runs.

    Parameters
    ----------
    type, sample : str
        Patterns such as ``*dark*`` for what the files say (``METADATA/runType`` and ``sample``);
        capital letters do not matter. Empty: any.
    runs : tuple of int or None
        Run numbers; None: any.
    options : tuple of str
        Words of the command line.
    skip : bool
        Whether they are left alone.
    darks : int
        So many of them, one after the other, make calibration constants; 0: they are no dark runs.
    """

    type: str = ""
    sample: str = ""
    runs: tuple[int, ...] | None = None
    options: tuple[str, ...] = ()
    skip: bool = False
    darks: int = 0

    def fits(self, run: int, run_type: str, sample: str) -> bool:
        """Return whether a run is meant."""
        if self.runs is not None and run not in self.runs:
            return False
        texts = ((self.type, run_type), (self.sample, sample))
        return all(not want or fnmatchcase(have.lower(), want.lower()) for want, have in texts)


@dataclass(frozen=True)
class Rules:
    """All rules of a file.

    Parameters
    ----------
    rules : tuple of Rule
    options : tuple of str
        Words of the command line of every job.
    """

    rules: tuple[Rule, ...] = ()
    options: tuple[str, ...] = ()

    def rule_for(self, run: int, run_type: str, sample: str) -> Rule:
        """Return the first rule that fits, or one that changes nothing."""
        return next((r for r in self.rules if r.fits(run, run_type, sample)), Rule())


def read_rules(path: Path) -> Rules:
    """Return the rules of a file.

    Raises
    ------
    UsageError
        If it cannot be read, has an unknown name, or a value of the wrong form.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            table = tomllib.load(file)
        _only(table, ("options", "rule"), "the file")
        rules = table.get("rule", [])
        if not isinstance(rules, list) or not all(isinstance(r, dict) for r in rules):
            raise ValueError("rule: expected tables [[rule]]")
        found = tuple(_rule(about, f"rule {n}") for n, about in enumerate(rules, 1))
        return Rules(found, _words(table.get("options", {}), "options"))
    # a number of many digits and deep nesting are errors of their own
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"{path}: {reason}") from None


def _only(table: dict, names, where: str) -> None:
    if unknown := sorted(set(table) - set(names)):
        raise ValueError(f"{where}: unknown {', '.join(unknown)}; expected {', '.join(names)}")


def _rule(about: dict, where: str) -> Rule:
    _only(about, [f.name for f in fields(Rule)], where)
    values = dict(about)
    for name in ("type", "sample"):
        if not isinstance(values.get(name, ""), str):
            raise ValueError(f"{where}: {name}: found {values[name]!r}, expected a text")
    if "runs" in values:
        values["runs"] = parse_runs(values["runs"])
    if not isinstance(values.get("skip", False), bool):
        raise ValueError(f"{where}: skip: found {values['skip']!r}, expected true or false")
    darks = values.get("darks", 0)
    if type(darks) is not int or darks not in (0, 1, 2, 3):
        raise ValueError(f"{where}: darks: found {darks!r}, expected a number of runs from 1 to 3")
    values["options"] = _words(values.get("options", {}), f"{where}: options")
    return Rule(**values)


def _words(options: dict, where: str) -> tuple[str, ...]:
    """Return options of a table as words of the command line."""
    if not isinstance(options, dict):
        raise ValueError(f"{where}: expected a table, e.g. {{ sigma = 5 }}")
    words: list[str] = []
    for key, value in options.items():
        if not re.fullmatch(r"[a-z][a-z_-]*", key):
            raise ValueError(f"{where}: {key!r} is not an option")
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
            continue
        values = value if isinstance(value, list) else [value]
        if any(isinstance(v, (dict, list, bool)) for v in values):
            raise ValueError(f"{where}: {key}: {value!r} has the wrong form")
        words += [f"--{flag}", *map(str, values)]
    return tuple(words)


def last_value(words: Sequence[str], option: str) -> str:
    """Return the value of an option among words of a command, the last one; empty without it."""
    chosen = ""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word == option:
            chosen = following
        elif word.startswith(f"{option}="):
            chosen = word.partition("=")[2]
    return chosen
