"""Other hits from the scores that are there: numbers only, nothing is written."""

import dataclasses
import inspect
from dataclasses import dataclass
from types import UnionType
from typing import get_args, get_origin

import numpy as np

from xfelmpi.core.config.options import Config, with_implied
from xfelmpi.core.config.parsing import NUMBER_LISTS
from xfelmpi.core.errors import UsageError
from xfelmpi.core.text import did_you_mean
from xfelmpi.output.events import FinishedRun
from xfelmpi.workflows.rethreshold import decide_finished, refuse_other_scores


@dataclass(frozen=True, eq=False, repr=False)
class Rethresholded:
    """What other settings of the hit finding would give.

    Parameters
    ----------
    is_hit, is_miss : ndarray, bool (frame,)
        One value per row of the events file.
    hit_threshold, hit_sigma : ndarray, float32 (frame,)
    n_complete : int
        Complete frames with light, of which the hit rate is taken.
    settings : Config
    """

    is_hit: np.ndarray
    is_miss: np.ndarray
    hit_threshold: np.ndarray
    hit_sigma: np.ndarray
    n_complete: int
    settings: Config

    @property
    def n_hits(self) -> int:
        """How many hits there are."""
        return int(self.is_hit.sum())

    @property
    def hit_rate(self) -> float:
        """Hits over complete frames with light, 0 … 1."""
        return self.n_hits / self.n_complete if self.n_complete else 0.0

    @property
    def threshold(self) -> float:
        """Median threshold of the frames, NaN if none has one."""
        known = self.hit_threshold[np.isfinite(self.hit_threshold)]
        return float(np.median(known)) if len(known) else float("nan")

    def __repr__(self) -> str:
        return (
            f"<{self.n_hits:,} hits, {100 * self.hit_rate:.2f} % of {self.n_complete:,} complete "
            f"frames, threshold {self.threshold:,.1f}>"
        )


def rethreshold(run: FinishedRun, chosen: dict[str, str], options: dict) -> Rethresholded:
    """Find hits anew.

    Parameters
    ----------
    run : FinishedRun
    chosen : dict
        What ``data`` and ``detector`` came to.
    options : dict
        Settings that differ, by name; a text is read as on the command line.

    Raises
    ------
    UsageError
        If a setting is unknown, impossible, or would change the scores.
    """
    known = {f.name: f for f in dataclasses.fields(Config) if f.metadata}
    values = {}
    for name, value in options.items():
        if name not in known:
            raise UsageError(f"no setting {name}{did_you_mean(name, known)}")
        values[name] = _parsed(known[name], value)
    config = dataclasses.replace(run.config, **with_implied(values))
    refuse_other_scores(config, run.config, chosen)
    found = decide_finished(config, run)
    return Rethresholded(
        found.is_hit,
        found.is_miss,
        found.hit_threshold,
        found.hit_sigma,
        int((run.complete & ~run.events.is_dark).sum()),
        config,
    )


def _parsed(field: dataclasses.Field, value):
    """Return the value of a setting as `Config` has it."""
    parse, choices = field.metadata["parse"], field.metadata["choices"]
    found = value
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    try:
        if field.name in NUMBER_LISTS and type(value) in (str, int):
            value = NUMBER_LISTS[field.name](str(value))
        elif isinstance(value, str) and field.type is not bool:
            value = (parse(value),) if field.metadata["many"] else parse(value)
        elif isinstance(value, (list, range)):
            value = tuple(value)
    except ValueError as error:
        raise UsageError(f"{field.name}: {error}") from None
    if not _fits(value, field.type):
        expected = inspect.formatannotation(field.type)
        raise UsageError(f"{field.name}: found {found!r:.80}, expected {expected}")
    # of those that may be several, each one
    if choices and not set(value if isinstance(value, tuple) else [value]) <= {*choices}:
        hint = did_you_mean(str(value), choices)
        raise UsageError(
            f"{field.name}: found {value!r}, expected {', '.join(map(str, choices))}{hint}"
        )
    return value


def _fits(value, kind) -> bool:
    """Return whether a value is of a field's type; a whole number is a float, too, no bool is."""
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        if not isinstance(value, tuple) or (inner[-1] is not ... and len(value) != len(inner)):
            return False
        return all(map(_fits, value, inner[:1] * len(value) if inner[-1] is ... else inner))
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
