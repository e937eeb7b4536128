"""What a check finds: one line for every difference, none if all is right."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xfelmpi.core.errors import InputError
from xfelmpi.core.log import BOLD, GREEN, RED, log
from xfelmpi.core.text import one_line

SHOWN = 5
"""Findings of one check that are shown."""

DAMAGE = (OSError, KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError)
"""What reading a damaged file may raise."""


@dataclass(frozen=True, order=True)
class Finding:
    """Something that is not as it should be.

    Parameters
    ----------
    file : str
        Name of the file, or empty.
    text : str
        What was found, and what was expected.
    """

    file: str
    text: str


def expect(file: Path, what: str, found, expected) -> list[Finding]:
    """Compare two single values."""
    if found == expected:
        return []
    return [Finding(file.name, f"{what}: found {found}, expected {expected}")]


def compare(file: Path, what: str, found, expected, unit: str = "row", first: int = 0):
    """Compare two arrays element by element, NaN being equal to NaN; at most one finding.

    Parameters
    ----------
    file : Path
    what : str
        Name of the values.
    found, expected : ndarray
    unit : str
        What one element is.
    first : int
        Number of the first element.
    """
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        return expect(file, f"{what}, shape", found.shape, expected.shape)
    differs = found != expected
    if found.dtype.kind == "f" and expected.dtype.kind == "f":
        differs &= ~(np.isnan(found) & np.isnan(expected))
    where = np.flatnonzero(differs)
    if not len(where):
        return []
    i = where[0]
    return [
        Finding(
            file.name,
            f"{what}: {len(where):,} of {found.size:,} {unit}s differ, {unit} {first + i} first: "
            f"found {found.reshape(-1)[i]}, expected {expected.reshape(-1)[i]}",
        )
    ]


@dataclass
class Results:
    """The results of all checks, in order; on rank 0.

    Parameters
    ----------
    failed : dict
        Findings of every check that failed.
    n_checks : int
    notes : list of str
        What the user should know, though it is no failure.
    """

    failed: dict[str, list[Finding]] = field(default_factory=dict)
    n_checks: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, findings: Iterable[Finding]) -> None:
        """Note the findings of a check, and show in one line how it went."""
        findings = sorted(set(findings))
        self.n_checks += 1
        if findings:
            self.failed[name] = findings
        verdict, colour = ("FAILED", RED) if findings else ("ok", GREEN)
        log.info(f"{name:48} {verdict}", extra={"colour": colour})

    def run(self, name: str, check: Callable[[], Iterable[Finding]], file: Path) -> None:
        """Do a check of a file; that it cannot be done is a finding, too."""
        try:
            findings = list(check())
        except (*DAMAGE, InputError) as error:
            findings = [Finding(file.name, f"cannot be checked: {describe(error)}")]
        self.add(name, findings)

    def show(self) -> None:
        """Show notes, and what failed."""
        for note in self.notes:
            log.info(f"note: {note}")
        if not self.failed:
            log.info(f"all {self.n_checks} checks passed", extra={"colour": BOLD})
            return
        text = f"{len(self.failed)} of {self.n_checks} checks FAILED:"
        log.info(text, extra={"colour": RED})
        for name, findings in self.failed.items():
            log.info(f"  {name}")
            for finding in findings[:SHOWN]:
                log.info(f"    {finding.file}{': ' if finding.file else ''}{finding.text}")
            if len(findings) > SHOWN:
                log.info(f"    … and {len(findings) - SHOWN:,} more")


def describe(error: Exception) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {one_line(error)[:200]}"
