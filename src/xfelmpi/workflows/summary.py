"""The summary at the end of a job."""

from dataclasses import dataclass, field

from xfelmpi.core.log import BOLD, RED, log, plural
from xfelmpi.core.machine_records import RunReduction
from xfelmpi.core.problems import Problem, foremost

PROBLEMS_SHOWN = 20

_STAGES = {"decide": "find hits"}
"""What the summary calls stages."""


@dataclass(frozen=True)
class Summary:
    """The numbers of a finished job, on rank 0.

    Parameters
    ----------
    frames, complete, trains, hits, misses : int
    dark : int
        Complete frames without an X-ray pulse.
    bytes_read : int
        Bytes of detector frames, as stored.
    peak_memory : int
        Bytes, of the rank with most.
    ranks : int
    seconds : dict of str to float
        Of every stage.
    problems : list of Problem
    files : list of str
        What was written.
    switched : (int, int), optional
        Of raw data: pixels in medium and in low gain, over all frames.
    done_before : int
        Frames that an earlier job has read.
    agreement : dict of str to int
        Hits that both we and the facility's hit finder have, and only one of us; empty without.
    reduction : RunReduction, optional
        What the facility left out.
    """

    frames: int
    complete: int
    trains: int
    hits: int
    misses: int
    dark: int
    bytes_read: int
    peak_memory: int
    ranks: int
    seconds: dict[str, float]
    problems: list[Problem]
    files: list[str]
    switched: tuple[int, int] | None = None
    done_before: int = 0
    agreement: dict[str, int] = field(default_factory=dict)
    reduction: RunReduction | None = None

    def show(self) -> None:
        """Log the summary; on a terminal the hits stand out, and so does what was excluded."""
        for line in self.lines():
            colour = BOLD if line.startswith("hits ") else ""
            if line.startswith("excluded ") and self.problems:
                colour = RED
            log.info(line, extra={"colour": colour})

    def lines(self) -> list[str]:
        """Return the summary as lines of text."""
        lit = self.complete - self.dark
        rate = 100 * self.hits / lit if lit else 0.0
        total = sum(self.seconds.values())
        ranks = f"{self.ranks} {plural(self.ranks, 'rank')}"
        lines = [
            "",
            f"frames     {self.frames:12,}   in {self.trains:,} trains",
            f"complete   {self.complete:12,}   in every module of the run",
            *self._reduction_lines(),
            *self._dark_lines(),
            f"hits       {self.hits:12,}   {rate:.2f} % of the complete frames"
            f"{' with light' if self.dark else ''}",
            f"misses     {self.misses:12,}   drawn for comparison",
            *self._agreement_lines(),
            *self._gain_lines(),
            f"read       {self.bytes_read / 1e9:12.3f}   GB {self._speed()}",
            f"memory     {self.peak_memory / 2**20:12,.0f}   MiB peak per rank ({ranks})",
            f"time       {total:12.2f}   s: "
            + ", ".join(f"{_STAGES.get(name, name)} {s:.2f}" for name, s in self.seconds.items()),
        ]
        lines += problem_lines(self.problems, "all in the events file (problems)")
        return lines + ["files written:"] + [f"  {name}" for name in self.files]

    def _speed(self) -> str:
        if "photons" not in self.seconds:
            return "hits and misses only"
        seconds = max(self.seconds["photons"], 1e-9)
        read = self.frames - self.done_before
        speed = f"{self.bytes_read / 1e9 / seconds:.2f} GB/s, {read / seconds:,.0f} frames/s"
        if self.done_before:
            speed += f"; {self.done_before:,} frames were done before"
        return speed

    def _reduction_lines(self) -> list[str]:
        said = self.reduction.words() if self.reduction else []
        return [f"{title:10} {text}" for title, text in said]

    def _dark_lines(self) -> list[str]:
        if not self.dark:
            return []
        return [f"dark       {self.dark:12,}   of these: no X-ray pulse, neither hits nor misses"]

    def _agreement_lines(self) -> list[str]:
        if not self.agreement:
            return []
        both, *others = (f"{n:,} {who}" for who, n in self.agreement.items())
        theirs = f"hits found by its hit finder, too; {', '.join(others)}"
        return [f"facility   {both.split()[0]:>12}   {theirs}"]

    def _gain_lines(self) -> list[str]:
        if self.switched is None:
            return []
        return [
            f"{stage:10} {n:12,}   pixels in {stage} gain, {n / max(self.frames, 1):.2f} per frame"
            for stage, n in zip(("medium", "low"), self.switched, strict=True)
        ]


def problem_lines(problems: list[Problem], all_where: str) -> list[str]:
    """Return problems of every kind as lines of text; `all_where` tells where the others are."""
    if not problems:
        return ["excluded            none"]
    lines = [f"excluded   {len(problems):12,}   {plural(len(problems), 'problem')}, exit status 3:"]
    for p in foremost(problems, PROBLEMS_SHOWN):
        where = " ".join(
            part
            for part in (
                p.file,
                f"module {p.module}" if p.module >= 0 else "",
                f"train {p.train}" if p.train else "",
            )
            if part
        )
        lines.append(f"  {where}{': ' if where else ''}{p.what}; {p.action}")
    if len(problems) > PROBLEMS_SHOWN:
        lines.append(f"  … and {len(problems) - PROBLEMS_SHOWN:,} more, {all_where}")
    return lines
