"""Problems: what was found wrong with the input, and what was done about it."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, order=True)
class Problem:
    """Something of the run that could not be used, and what was done about it.

    A damaged train, module, chunk or file is a record, not an exception: the rest of the run is
    processed and the job ends with exit status 3.

    Parameters
    ----------
    what : str
        What was found, in one sentence.
    file : str
        Name of the file it was found in, or empty.
    module : int
        Module number, or -1 if it does not concern one module.
    train : int
        Train ID, or 0 if it does not concern one train.
    action : str
        What was done, e.g. ``train excluded`` or ``frame counts as missing in this module``.
    """

    what: str
    file: str = ""
    module: int = -1
    train: int = 0
    action: str = "excluded"


def without_numbers(what: str) -> str:
    """Return a text in which all numbers are alike."""
    return _NUMBER.sub("#", what)


def _kind(problem: Problem) -> tuple:
    return without_numbers(problem.what), problem.file, problem.module, problem.action


def foremost(problems: list[Problem], n: int) -> list[Problem]:
    """Return n of the problems, in their order: of every kind the first ones."""
    seen: Counter[tuple] = Counter()
    ranks = []
    for i, problem in enumerate(problems):
        ranks.append((seen[_kind(problem)], i))
        seen[_kind(problem)] += 1
    return [problems[i] for _, i in sorted(sorted(ranks)[:n], key=lambda rank: rank[1])]


MOST_ALIKE = 20
"""Problems of one kind in one file that are recorded one by one."""


def summarised(problems: Iterable[Problem]) -> list[Problem]:
    """Return every problem once, sorted; of many that differ in numbers only, the first and a sum.

    A module full of garbage would otherwise be told in thousands of lines. Which frames are
    concerned is in the ``modules`` column of the events file.
    """
    kinds: dict[tuple, list[Problem]] = {}
    for p in set(problems):
        kinds.setdefault(_kind(p), []).append(p)
    result = []
    for alike in kinds.values():
        alike.sort(key=lambda p: (p.train, p.what))
        result += alike[:MOST_ALIKE]
        if rest := alike[MOST_ALIKE:]:
            first, last = rest[0], rest[-1]
            trains = f", trains {first.train} … {last.train}" if last.train else ""
            result.append(replace(first, what=f"{len(rest)} more{trains}, such as: {first.what}"))
    return sorted(result)
