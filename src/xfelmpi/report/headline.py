"""The numbers of a run in short: page, overview and terminal all show these."""

import json
from dataclasses import dataclass

import numpy as np

from xfelmpi.core.log import counted
from xfelmpi.core.problems import Problem
from xfelmpi.core.units import ELECTRONVOLT, PLANCK_TIMES_C
from xfelmpi.output.cxi.hit_file import HitFile
from xfelmpi.output.events import FinishedRun

TRAINS_PER_SECOND = 10


@dataclass(frozen=True, kw_only=True)
class Headline:
    """What is said of a run first.

    Parameters
    ----------
    run : int
    proposal, sample, kind : str
        `kind` is ``proc`` or ``raw``; `sample` is empty if unknown.
    start_time, created : str
        ISO 8601: of the run (empty if unknown), and of its output files.
    frames, complete, dark, trains, hits, misses : int
        `dark`: complete frames without an X-ray pulse.
    seconds : float
        From the first train to the last one, at ten trains a second.
    pulse_energy, photon_energy : float
        Means over the frames where they are known: J, and eV; NaN if nowhere.
    problems : tuple of Problem
    warnings : tuple of str
    so_far : str
        What there is of a run that is still being written, empty if it is complete.
    """

    run: int
    proposal: str
    sample: str
    kind: str
    start_time: str
    created: str
    frames: int
    complete: int
    dark: int
    trains: int
    hits: int
    misses: int
    seconds: float
    pulse_energy: float
    photon_energy: float
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    so_far: str = ""

    @property
    def hit_rate(self) -> float:
        """Hits over complete frames with light."""
        return self.hits / self.searched if self.searched else 0.0

    @property
    def searched(self) -> int:
        """Complete frames that can be hits: those with an X-ray pulse, as far as is known."""
        return self.complete - self.dark

    @property
    def incomplete(self) -> int:
        """Frames without one of the modules."""
        return self.frames - self.complete

    @property
    def excluded(self) -> str:
        """What was excluded, in a few words; empty if nothing was."""
        words = [counted(len(self.problems), "problem")] if self.problems else []
        words += [counted(self.incomplete, "incomplete frame")] if self.incomplete else []
        return ", ".join(words)


def headline(run: FinishedRun, hit_file: HitFile | None) -> Headline:
    """Return the numbers of a finished run."""
    events, attributes = run.events, run.attributes
    trains = np.unique(events.trainId)
    complete = run.complete
    wavelength = _mean(events.wavelength)
    return Headline(
        run=int(attributes["run"]),
        proposal=attributes["proposal"],
        sample=hit_file.sample if hit_file else "",
        kind="proc" if events.gain_switched is None else "raw",
        start_time=hit_file.start_time if hit_file else "",
        created=attributes["creation_date"],
        frames=len(events.trainId),
        complete=int(complete.sum()),
        dark=int((complete & events.is_dark).sum()),
        trains=len(trains),
        hits=int(events.is_hit.sum()),
        misses=int(events.is_miss.sum()),
        seconds=int(trains[-1] - trains[0] + 1) / TRAINS_PER_SECOND if len(trains) else 0.0,
        pulse_energy=_mean(events.pulse_energy[~events.is_dark]),
        photon_energy=PLANCK_TIMES_C / ELECTRONVOLT / wavelength,
        problems=tuple(run.problems),
        warnings=tuple(json.loads(attributes.get("warnings", "[]"))),
        so_far=attributes.get("so_far", ""),
    )


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def duration_in_words(seconds: float) -> str:
    """Return a time as text, e.g. ``1.6 s`` or ``12 min 5 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def energy(joule: float) -> str:
    """Return a pulse energy as text, in mJ or µJ."""
    if np.isnan(joule):
        return "unknown"
    value, unit = (joule * 1e3, "mJ") if joule >= 1e-3 else (joule * 1e6, "µJ")
    return f"{value:#.3g}".rstrip(".") + f" {unit}"


def clock(iso: str) -> str:
    """Return an ISO 8601 time without its T and seconds."""
    zone = "UTC" if iso.endswith(("+00:00", "Z")) else iso[19:]
    return f"{iso[:10]} {iso[11:16]} {zone}".strip()
