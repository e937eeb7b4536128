"""The tables of all options for the page ``options.md``, whose line `PLACE` they replace.

Everything comes from the parsers that the commands themselves use: the page cannot be out of date.
"""

import argparse
import importlib
import re

import mpi4py

mpi4py.rc.initialize = False  # parsers only; no rank is started

from xfelmpi.__main__ import COMMANDS  # noqa: E402
from xfelmpi.cli.parser import options  # noqa: E402

PLACE = "<!-- options -->"
_DEFAULT = re.compile(r"^(?P<text>.*?)\s*\(default: (?P<default>.*)\)$", re.DOTALL)


def fill(markdown: str) -> str:
    """Return the text of the page, with the tables where they belong."""
    if PLACE not in markdown:
        raise ValueError(f"options.md: the line {PLACE} is missing")
    return markdown.replace(PLACE, "\n\n".join(command(name) for name in COMMANDS))


def command(name: str) -> str:
    """Return the section of one command."""
    parser = importlib.import_module(f"xfelmpi.cli.{name.replace('-', '_')}").parser()
    heading = "xfelmpi RUN" if name == "process" else f"xfelmpi {name}"
    arguments = " ".join(_value(a) for a in _actions(parser) if not a.option_strings)
    lines = [f"## {heading}", f"`{parser.prog} {arguments} [options]`", _words(parser.description)]
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if not isinstance(a, argparse._HelpAction)]
        if not actions:
            continue
        # argparse has these two titles for options without a group
        if group.title not in ("positional arguments", "options"):
            title = group.title[0].upper() + group.title[1:]
            lines.append(f"({name}-{_slug(title)})=\n### {title}")
        lines.append(table(actions, toml=name == "process"))
    return "\n\n".join(lines)


def table(actions: list[argparse.Action], *, toml: bool) -> str:
    """Return a table of arguments; with `toml`, one column has the names of the file."""
    names = {f.name for f in options()}
    head = ["option", "default", "what"] + ["in TOML"] * toml
    rows = [head, ["---"] * len(head)]
    for action in actions:
        text, default = split_help(action)
        row = [_usage(action), default, _words(text)]
        if toml:
            row.append(f"`{action.dest}`" if action.dest in names else "")
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def split_help(action: argparse.Action) -> tuple[str, str]:
    """Return what an argument means, and its default as the help text tells it."""
    found = _DEFAULT.match(action.help)
    if found:
        return found["text"], _words(found["default"])
    if isinstance(action, argparse._StoreTrueAction):
        return action.help, "off"
    return action.help, "" if action.option_strings else "must be given"


def _actions(parser) -> list[argparse.Action]:
    return [a for group in parser._action_groups for a in group._group_actions]


def _usage(action: argparse.Action) -> str:
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    if not names:
        return f"`{_value(action)}`"
    if isinstance(action, argparse.BooleanOptionalAction) or action.nargs == 0:
        return names
    if action.choices:
        return names + " " + ", ".join(f"`{choice}`" for choice in action.choices)
    return names[:-1] + f" {_value(action)}`"


def _value(action: argparse.Action) -> str:
    value = action.metavar or action.dest.upper()
    if isinstance(value, tuple):
        return " ".join(value)
    return f"{value} …" if action.nargs == "+" else value


def _words(text: str) -> str:
    """Return a text for a cell of a table, what a user types set as such."""
    typed = r"(?<![\w`-])(--[a-z][a-z-]+|\$?[A-Z]+_[A-Z0-9_-]+[\w/]*|\w+/\w*[\w./-]*\.h5)"
    text = re.sub(typed, r"`\1`", text)
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def _slug(title: str) -> str:
    return re.sub(r"\W+", "-", title.split("(")[0].lower()).strip("-")
