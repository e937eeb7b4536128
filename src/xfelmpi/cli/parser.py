"""Command line, TOML file and environment → `Config`. The command line wins over the file."""

import argparse
import dataclasses
import importlib
import pkgutil
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from xfelmpi.core.config.options import GROUPS, Config, with_implied
from xfelmpi.core.config.parsing import NUMBER_LISTS, parse_run, parse_run_list
from xfelmpi.core.errors import UsageError
from xfelmpi.core.paths import experiment_folder
from xfelmpi.core.regular_file import read_small
from xfelmpi.core.text import did_you_mean

_LARGEST_TOML = 1 << 20
"""Bytes of a file of options; all of them need less than 10 kB."""


class _HelpFormatter(argparse.HelpFormatter):
    """Breaks lines between words only: options and file names have hyphens."""

    def _split_lines(self, text, width):
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text, width, indent):
        lines = self._split_lines(text, width - len(indent))
        return "\n".join(indent + line for line in lines)


class Parser(argparse.ArgumentParser):
    """A parser that raises `UsageError` instead of leaving: one rank must not leave alone."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, **options)

    def error(self, message):
        """Raise with the message."""
        raise UsageError(f"{message} (see --help)")

    def parse_args(self, args=None, namespace=None):
        """Parse, and say of what is unknown what may be meant."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            # a second word beside the run
            beside = bool(args) and args[1:2] == rest[:1] and rest[0].isdecimal()
            self.error(f"unrecognized arguments: {' '.join(rest)}{self._hint(rest, beside=beside)}")
        return found

    def _hint(self, rest: list[str], *, beside: bool) -> str:
        """Return what the first unknown word may mean, or nothing."""
        word = next((w.partition("=")[0] for w in rest if w.startswith("--")), None)
        if word is None:
            one = beside and any(action.dest == "run" for action in self._actions)
            return f"; {self.prog} takes one run, xfelmpi submit several" if one else ""
        others = [name for name, parser in parsers() if word in parser.flags]
        if others:
            return f"; {word} is an option of xfelmpi {', '.join(others)}"
        return did_you_mean(word, self.flags)

    @property
    def flags(self) -> list[str]:
        """All options, as they are written."""
        return list(self._option_string_actions)


def parsers() -> Iterator[tuple[str, "Parser"]]:
    """Yield the name and the parser of every command."""
    from xfelmpi import cli

    for module in pkgutil.iter_modules(cli.__path__):
        make = getattr(importlib.import_module(f"xfelmpi.cli.{module.name}"), "parser", None)
        if make is not None and module.name != "parser":
            yield module.name.replace("_", "-"), make()


def options() -> list[dataclasses.Field]:
    """Return the fields of `Config` that are options (all but the run number)."""
    return [f for f in dataclasses.fields(Config) if f.metadata]


def add_arguments(
    parser: argparse.ArgumentParser, only: tuple[str, ...] = (), several: tuple[str, ...] = ()
) -> None:
    """Add the options of the main job to a parser, in groups by stage.

    Parameters
    ----------
    parser : ArgumentParser
    only : tuple of str
        Names of the options, for a command that has not all of them. ``--config`` is always there.
    several : tuple of str
        Names of options of one value that take several here; they are left to the caller.
    """
    chosen = [f for f in options() if not only or f.name in only]
    used = {f.metadata["group"] for f in chosen} | {"resources"}
    groups = {name: parser.add_argument_group(t) for name, t in GROUPS.items() if name in used}
    for f in chosen:
        _add_option(groups[f.metadata["group"]], f, several=f.metadata["many"] or f.name in several)
    groups["resources"].add_argument(
        "--config",
        type=Path,
        metavar="FILE.toml",
        help="file with any of these options; the command line overrides it",
    )


def add_with_defaults(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add options of one value to a command of another kind, which makes no `Config` of them.

    There is no ``--config``, and what is not given has its default in the parsed arguments.
    """
    known = {f.name: f for f in options()}
    for name in names:
        _add_option(parser, known[name], several=False)
        parser.set_defaults(**{name: known[name].default})


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the argument that is a run number: ``50`` or ``r0050``."""
    parser.add_argument("run", type=checked(parse_run), metavar="RUN", help="run number")


def add_runs(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the arguments that are run numbers: ``50 51``, ``50,51`` or ``50-53``."""
    parser.add_argument(
        "runs", type=checked(parse_run_list), nargs="+", action=_Join, metavar="RUN", help=text
    )


def refuse_repeated(runs: Sequence[int]) -> None:
    """Check that every run is given once.

    Raises
    ------
    UsageError
        With the first run that is not.
    """
    for run in runs:
        if runs.count(run) > 1:
            raise UsageError(f"run {run} is given more than once")


class _Join(argparse.Action):
    """Joins the numbers of several words, in their order."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, [number for word in values for number in word])


def _add_option(group, f: dataclasses.Field, *, several: bool) -> None:
    """Add an option that is None if it is not given, so that the TOML file can have its say."""
    flag = f"--{f.name.replace('_', '-')}"
    about = f.metadata
    text = about["help"]
    if f.type is bool:
        # --name and --no-name, so that the command line can undo what a file says
        action = argparse.BooleanOptionalAction
        text += f" (default: {'on' if f.default else 'off'})"
        group.add_argument(flag, action=action, default=None, help=text)
        return
    if f.default is not None and "default" not in text:
        shown = f"{f.default >> 20}M" if f.name == "memory_per_rank" else f.default
        text += f" (default: {shown})"
    extra = {"nargs": "+", "action": "extend"} if several else {}
    if f.name in NUMBER_LISTS:
        extra = {"nargs": "+", "action": _ExtendList}
    group.add_argument(
        flag,
        dest=f.name,
        type=checked(NUMBER_LISTS.get(f.name, about["parse"])),
        choices=about["choices"],
        metavar=None if about["choices"] else about["metavar"],
        default=None,
        help=text,
        **extra,
    )


class _ExtendList(argparse.Action):
    """Joins the numbers of several words, and of an option that is given several times."""

    def __call__(self, parser, namespace, values, option_string=None):
        found = set(getattr(namespace, self.dest) or ()).union(*values)
        setattr(namespace, self.dest, tuple(sorted(found)))


def checked(parse):
    """Return a parser of a value whose message argparse shows."""

    def convert(text):
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    convert.__name__ = getattr(parse, "__name__", "value")
    return convert


def read_toml(path: Path) -> dict:
    """Return the options of a TOML file, parsed; names may have dashes or underscores.

    Raises
    ------
    UsageError
        If it cannot be read, has an unknown name, or a value of the wrong form.
    """
    try:
        table = tomllib.loads(read_small(path, _LARGEST_TOML).decode())
    # a number of many digits and deep nesting are errors of their own
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        reason = getattr(error, "strerror", None) or reason
        raise UsageError(f"--config {path}: {reason}") from None
    known = {f.name: f for f in options()}
    found = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise UsageError(f"{path}: unknown option {key}{did_you_mean(name, known)}")
        if name in found:
            raise UsageError(f"{path}: option {name} is given twice")
        found[name] = _from_toml(path, known[name], value)
    return found


def _from_toml(path: Path, f: dataclasses.Field, value):
    about = f.metadata
    try:
        if f.type is bool:
            if not isinstance(value, bool):
                raise ValueError(f"{value!r} is neither true nor false")
            return value
        if about["many"]:
            return _many_from_toml(f, value)
        if isinstance(value, (dict, bool)) or (
            isinstance(value, list) and f.name not in ("trains", "exclude_cells")
        ):
            raise ValueError(f"{value!r} has the wrong form")
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"{value!r} has a NUL byte")
        value = about["parse"](value)
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"{path}: {f.name}: {error}") from None
    if about["choices"] and value not in about["choices"]:
        raise UsageError(f"{path}: {f.name}: found {value!r}, expected {about['choices']}")
    return value


def _many_from_toml(f: dataclasses.Field, value) -> tuple:
    parse, choices = f.metadata["parse"], f.metadata["choices"]
    if isinstance(value, dict):
        value = [f"{name}={where}" for name, where in value.items()]
    kinds, expected = ((int,), "whole numbers") if parse is int else ((str,), "texts")
    if f.name == "mask_bits":
        kinds, expected = (int, str), "names and whole numbers"
    if f.name in ("mask", "mask_bits") and type(value) in kinds:
        value = [value]
    if not isinstance(value, list) or any(type(v) not in kinds for v in value):
        raise ValueError(f"{value!r} has the wrong form, expected a list of {expected}")
    for item in value:
        if choices and item not in choices:
            raise ValueError(f"found {item!r}, expected {choices}")
    return tuple(parse(item) for item in value)


def given_values(arguments: argparse.Namespace) -> dict:
    """Return the options that are given, parsed, and where the files lie.

    Raises
    ------
    UsageError
        If no experiment folder is named.
    """
    values = read_toml(arguments.config) if arguments.config else {}
    for f in options():
        given = getattr(arguments, f.name, None)
        if given is not None:
            values[f.name] = tuple(given) if f.metadata["many"] else given
    for f in options():
        # these are kept for later jobs, which may start in another folder
        if f.metadata["parse"] is Path and f.name in values and f.name not in ("prefix", "output"):
            values[f.name] = values[f.name].absolute()
    values["prefix"] = experiment_folder(values.get("prefix"))
    values.setdefault("output", values["prefix"] / "scratch")
    # commands of several runs have no single one
    return values | {"run": getattr(arguments, "run", 0)}


def from_arguments(arguments: argparse.Namespace, first: Config | None = None) -> Config:
    """Return the configuration from parsed arguments, the TOML file and the environment.

    Parameters
    ----------
    arguments : Namespace
    first : Config, optional
        What holds for everything that is not given; where files lie is not taken from it.

    Raises
    ------
    UsageError
        If no experiment folder is named or a value is impossible.
    """
    return dataclasses.replace(first or Config(), **with_implied(given_values(arguments)))
