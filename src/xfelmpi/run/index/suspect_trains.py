"""Trains that the files flag as suspect (``INDEX/flag``): which they are, and how to name them.

With ``--suspect-trains include`` they are used like any other, as EXtra-data does by default
(``inc_suspect_trains=True``); with ``exclude`` a module's frames of trains that its own file flags
are left out. Both are recorded.
"""

from dataclasses import dataclass

import h5py
import numpy as np

from xfelmpi.core.problems import Problem
from xfelmpi.run.train_index import MOST_TRAINS, read_column

OLDEST_FORMAT = "0.5"
"""What EXtra-data calls files that say no version of their format."""


@dataclass(frozen=True)
class SuspectTrain:
    """A train that one file of a module flags, and has frames of."""

    train: int
    module: int
    file: str


def flagged(
    file: h5py.File, version: str, train_ids: np.ndarray, valid: np.ndarray | None = None
) -> np.ndarray:
    """Return which trains of a file are suspect, bool (train,).

    Files older than format 1.0 have no flags; EXtra-data takes train IDs out of sequence for
    suspect there.

    Parameters
    ----------
    file : h5py.File
    version : str
        Of the format.
    train_ids : ndarray, uint64 (train,)
        ``INDEX/trainId`` as it stands, with zeros.
    valid : ndarray, bool (train,), optional
        What EXtra-data says of the trains but zeros, of a file of the oldest format.
    """
    suspect = np.zeros(len(train_ids), bool)
    if version == OLDEST_FORMAT:
        suspect[train_ids != 0] = ~valid
        return suspect
    flag = read_column(file, "INDEX/flag", MOST_TRAINS, "biu")
    flag = flag[: len(train_ids)].astype(bool)
    # format 1.1 has the number of a server here, and 0 is the right one
    suspect[: len(flag)] = flag if version == "1.1" else ~flag
    return suspect


def suspect_problems(
    suspects: list[SuspectTrain], choice: str, trains: np.ndarray, modules_of_train: np.ndarray
) -> list[Problem]:
    """Return a problem for every stretch of trains that the same modules flag.

    Parameters
    ----------
    suspects : list of SuspectTrain
    choice : str
        ``include`` or ``exclude``.
    trains : ndarray, uint64 (train,)
        Trains that the run has left, ascending.
    modules_of_train : ndarray, int64 (train,)
        Bit m set: module m has frames of the train left.
    """
    left = dict(zip(trains.tolist(), modules_of_train.tolist(), strict=True))
    by_train: dict[int, list[SuspectTrain]] = {}
    for suspect in suspects:
        by_train.setdefault(suspect.train, []).append(suspect)
    stretches: list[tuple[tuple, list[int]]] = []
    kind_before = None
    for train in sorted({*left, *by_train}):
        kind = _kind(by_train[train], choice, left.get(train, 0)) if train in by_train else None
        if kind and kind == kind_before:
            stretches[-1][1].append(train)
        elif kind:
            stretches.append((kind, [train]))
        kind_before = kind
    return [_problem(stretch, *kind, by_train) for kind, stretch in stretches]


def _kind(suspects: list[SuspectTrain], choice: str, left: int) -> tuple[str, str]:
    modules = sorted({suspect.module for suspect in suspects})
    flagging = sum(1 << m for m in modules)
    whole = left in (0, flagging)
    who = "all modules" if whole else "module" + "s" * (len(modules) > 1)
    who += "" if whole else " " + " ".join(map(str, modules))
    if choice == "include":
        return who, "used (--suspect-trains include)"
    return who, "train excluded" if not left else "frames left out there"


def _problem(stretch: list[int], who: str, action: str, by_train) -> Problem:
    n, first = len(stretch), stretch[0]
    what = f"flagged suspect (INDEX/flag) by {who}"
    if n > 1:
        what = f"{n} trains {what}: {first} … {stretch[-1]}"
    files = {(s.file, s.module) for train in stretch for s in by_train[train]}
    file, module = files.pop() if len(files) == 1 else ("", -1)
    return Problem(what, file, module, first, action)
