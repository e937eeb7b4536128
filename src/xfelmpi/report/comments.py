"""What people say about runs: a small file for each run, to which lines are added."""

import getpass
import json
import os
import re
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from xfelmpi.core.regular_file import open_regular, open_to_append
from xfelmpi.core.text import printable
from xfelmpi.io.output_file import cannot_write, make_folder, make_readable

LONGEST = 2000
"""Characters of a comment."""

_LARGEST = 1 << 20
_NAME = re.compile(r"r(\d{4,9})\.jsonl")


@dataclass(frozen=True)
class Comment:
    """What somebody said, and when (ISO 8601)."""

    text: str
    user: str = ""
    time: str = ""


def comments_folder(report: Path) -> Path:
    """Return the folder of the comments, given that of the reports."""
    return report / "comments"


def add_comment(report: Path, run: int, text: str) -> None:
    """Add a comment on a run; several people may do so at the same time.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    said = Comment(printable(text)[:LONGEST], user, datetime.now(UTC).isoformat(timespec="seconds"))
    path = comments_folder(report) / f"r{run:04d}.jsonl"
    line = (json.dumps(asdict(said)) + "\n").encode()
    try:
        make_folder(path.parent)
        # one write to the end of a file: lines of two people do not mix
        fd = open_to_append(path)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)
        if path.stat().st_uid == os.geteuid():
            make_readable(path)
    except OSError as error:
        raise cannot_write(path, error) from None


def read_comments(report: Path) -> dict[int, list[Comment]]:
    """Return all comments by run, oldest first; damaged lines are left out."""
    found: dict[int, list[Comment]] = {}
    try:
        paths = sorted(comments_folder(report).iterdir())
    except OSError:
        return found
    for path in paths:
        if match := _NAME.fullmatch(path.name):
            found[int(match[1])] = _read(path)
    return found


def _read(path: Path) -> list[Comment]:
    names = {f.name for f in fields(Comment)}
    found = []
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            lines = file.read(_LARGEST).splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            values = json.loads(line)
            said = Comment(**{k: str(v) for k, v in values.items() if k in names})
        except (ValueError, TypeError, AttributeError, RecursionError):
            continue
        found.append(said)
    return found
