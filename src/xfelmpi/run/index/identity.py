"""Which run and proposal the files of a folder are of, by what they say themselves.

A file's ``METADATA`` counts (files since 2020 have ``runNumber`` and ``proposalNumber``), then its
name. The folder's name says only what is expected: files are copied, and links point elsewhere.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import h5py

from xfelmpi.core.errors import InputError
from xfelmpi.core.problems import Problem
from xfelmpi.detectors.known import module_of_file
from xfelmpi.io.plain_values import plain_values
from xfelmpi.run.train_index import shape_of

_NAME = re.compile(r"[A-Z]+-R(\d{4,})-")
_FOLDER = re.compile(r"r(\d{4,})")
FILE_LEFT_OUT = "file left out"
"""What is done about a file that cannot be used at all."""


@dataclass(frozen=True)
class FileIdentity:
    """What a file says of itself; 0 where it says nothing.

    Parameters
    ----------
    run, proposal : int
        Of ``METADATA``; the run by the file's name if that is missing.
    named : int
        The run by the file's name.
    version : str
        Of the format, as EXtra-data has it; empty if nobody looked.
    """

    run: int = 0
    proposal: int = 0
    named: int = 0
    version: str = ""


def identity(
    file: h5py.File, path: Path, version: str = "", *, plain: bool = False
) -> FileIdentity:
    """Return what a file says of itself, and the version of its format.

    Parameters
    ----------
    file : h5py.File
    path : Path
    version : str
    plain : bool
        Only of numbers that are stored in the plain way.

    Raises
    ------
    ValueError
        If there are others.
    """
    match = _NAME.match(path.name)
    named = int(match[1]) if match else 0
    return FileIdentity(
        _number(file, "METADATA/runNumber", plain=plain) or named,
        _number(file, "METADATA/proposalNumber", plain=plain),
        named,
        version,
    )


def _number(file: h5py.File, name: str, *, plain: bool) -> int:
    """Return a number of METADATA, 0 if there is none or it is damaged."""
    values = plain_values(file, name, "iu", 1)
    if values is not None and values.size:
        return max(0, int(values.flat[0]))
    if plain and name in file:
        raise ValueError(f"{name} is not stored as usual")
    try:
        dataset = file[name]
        return max(0, int(dataset[(0,) * len(shape_of(dataset))]))
    except (KeyError, ValueError, TypeError, IndexError, OSError, RuntimeError):
        return 0


def expected_run(folder: Path) -> int:
    """Return the run that a folder's name says, 0 if it says none."""
    match = _FOLDER.fullmatch(folder.name)
    return int(match[1]) if match else 0


def settle_identity(
    found: dict[Path, FileIdentity], folder: Path, problems: list[Problem]
) -> tuple[set[Path], int]:
    """Say which files are of the folder's run, and which proposal that is.

    Parameters
    ----------
    found : dict
        By file.
    folder : Path
        The run folder. If its name says no run, most files count.
    problems : list of Problem
        Gets a line for every file that is of another run or proposal, or has another one's name.

    Returns
    -------
    own : set of Path
        Files to use.
    proposal : int
        0 if no file says it.

    Raises
    ------
    InputError
        If all files are of other runs.
    """
    run = expected_run(folder) or _commonest(about.run for about in found.values())
    own = {path for path, about in found.items() if about.run in (0, run)}
    if found and not own:
        others = ", ".join(str(r) for r in sorted({about.run for about in found.values()})[:5])
        raise InputError(
            f"{folder}: its {len(found)} detector files are of run {others} (by METADATA/runNumber "
            f"and their names), expected run {run}; copied into the wrong folder, or a link?"
        )
    proposal = _commonest(found[path].proposal for path in own)
    named = sorted(path for path in own if found[path].proposal == proposal)
    if proposal and 2 * len(named) < len(own):
        # a few files do not tell whose data the others are
        what = f"{len(named)} of {len(own)} detector files are of proposal p{proposal:06d}, most "
        problems.append(_problem(named[0], f"{what}others of none", "used"))
        proposal = 0
    for path in sorted(found):
        about = found[path]
        if path not in own:
            problems.append(_problem(path, f"file is of run {about.run}, expected run {run}"))
        elif proposal and about.proposal not in (0, proposal):
            own.discard(path)
            what = f"file is of proposal p{about.proposal:06d}, most others of p{proposal:06d}"
            problems.append(_problem(path, what))
        elif about.named not in (0, about.run):
            what = f"file is of run {about.run} (METADATA/runNumber), but named R{about.named:04d}"
            problems.append(_problem(path, what, "used"))
    return own, proposal


def _problem(path: Path, what: str, action: str = FILE_LEFT_OUT) -> Problem:
    return Problem(what, path.name, module_of_file(path.name), 0, action)


def _commonest(numbers) -> int:
    """Return the commonest number but 0, the lowest of equally common ones, 0 without any."""
    counts = Counter(number for number in numbers if number)
    return min(counts, key=lambda number: (-counts[number], number), default=0)
