"""The questions that a person at the beamtime has, answered from the numbers of a run. Pure."""

import math
from dataclasses import asdict, dataclass

import numpy as np

from xfelmpi.core.log import counted
from xfelmpi.hitfinding.background import LEVEL_FRAMES
from xfelmpi.output.events import FinishedRun
from xfelmpi.report.headline import Headline, energy

GOOD, DOUBTFUL, BAD = "good", "doubtful", "bad"

WEAK = 0.2
"""Of the median pulse energy: pulses below are called weak."""

FEW = 0.05
"""More weak pulses, incomplete frames or bad pixels than this share are worth a look."""


FEW_HITS = 3
"""So many hits more or less are no matter of statistics."""

FAR = 8.0
"""So many widths out, or twice `sigma`, no background reaches."""

FALSE_HITS = 0.1
"""More false hits than this share of the hits make them doubtful."""

LEAST_HITS, MANY_HITS = 200, 1000
"""A rule of thumb, no theorem: a few hundred strong hits may do, weak ones take thousands."""

ENOUGH = 9
"""Hits expected in a quarter of the run, so that a third of them is no matter of chance."""


@dataclass(frozen=True)
class Answer:
    """A question, a word or two, what they rest on, and ``good``, ``doubtful`` or ``bad``.

    `subject` is its name in the run's JSON file.
    """

    subject: str
    question: str
    short: str
    why: str
    state: str


@dataclass(frozen=True)
class Chance:
    """How many hits chance explains.

    Parameters
    ----------
    expected : float
        False hits of the run, NaN if there are no statistics.
    heavier : float
        Frames in the last sigma below the threshold over those of a normal distribution, at
        least 1: so much heavier is the tail of the background.
    """

    expected: float
    heavier: float

    @property
    def most(self) -> float:
        """Hits that chance may well give: 3 standard deviations above twice the expected ones."""
        return 2 * self.expected + 3 * math.sqrt(2 * self.expected) + FEW_HITS

    @property
    def words(self) -> str:
        """What is expected, for a person."""
        words = f"{self.expected:.2g} expected by chance"
        if self.heavier > 2:
            words += f" (the tail of the background is {self.heavier:.0f} × a normal one's)"
        return words


def by_chance(run: FinishedRun) -> Chance:
    """Return how many hits the tail of the background gives."""
    events, sigma = run.events, run.config.sigma
    distance = events.hit_sigma[np.isfinite(events.hit_sigma)]
    if not len(distance):
        return Chance(math.nan, 1.0)
    n_background = int((distance <= sigma).sum())
    below = normal_tail(sigma - 1) - normal_tail(sigma)
    seen = int(((distance > sigma - 1) & (distance <= sigma)).sum())
    heavier = max(seen / (n_background * below), 1.0) if n_background else 1.0
    # a few frames more than expected there say nothing
    if seen - n_background * below < 3 * math.sqrt(n_background * below) + FEW_HITS:
        heavier = 1.0
    return Chance(n_background * normal_tail(sigma) * heavier, heavier)


def normal_tail(sigma: float) -> float:
    """Return the share of a normal distribution above `sigma`."""
    return math.erfc(sigma / math.sqrt(2)) / 2


def as_json(found: list[Answer]) -> dict[str, dict[str, str]]:
    """Return state and reason by subject, as in the run's JSON file."""
    return {a.subject: {k: v for k, v in asdict(a).items() if k in ("state", "why")} for a in found}


def answers(
    run: FinishedRun, head: Headline, bad_pixels: float, distance: float | None
) -> list[Answer]:
    """Return the answers.

    Parameters
    ----------
    run : FinishedRun
    head : Headline
    bad_pixels : float
        Share of the pixels of the modules in the run that are never good; NaN if unknown.
    distance : float or None
        Sample to detector in m, NaN if unknown; None without a CXI file.
    """
    chance = by_chance(run)
    return [
        _beam(run),
        _sample(run, head, chance),
        _hits(run, head, chance),
        _detector(run, head, bad_pixels),
        _reconstruction(run, head, chance, distance),
    ]


def _beam(run: FinishedRun) -> Answer:
    question = "beam", "Is the beam on?"
    pulses = run.events.pulse_energy[~run.events.is_dark]
    known = pulses[np.isfinite(pulses)]
    if not len(known):
        return Answer(*question, "unknown", "no pulse energies in the run", DOUBTFUL)
    middle = float(np.median(known))
    if not middle > 1e-6:
        return Answer(*question, "no", f"median pulse energy {energy(middle)}", BAD)
    weak = float((known < WEAK * middle).mean())
    why = f"median pulse energy {energy(middle)}, {100 * weak:.2g} % of the pulses weak"
    if len(known) < len(pulses):
        why += f", {100 * (1 - len(known) / len(pulses)):.2g} % unknown"
    return Answer(
        *question, *(("yes", why, GOOD) if weak <= FEW else ("not always", why, DOUBTFUL))
    )


def _sample(run: FinishedRun, head: Headline, chance: Chance) -> Answer:
    question = "sample", "Is the sample there?"
    if not head.hits:
        return Answer(*question, "no hits", f"none of {head.searched:,} complete frames", BAD)
    if not _more_than_chance(run, chance):
        return Answer(*question, "no more hits than by chance", _against(head, chance), BAD)
    if uncertain := _uncertain(run):
        return Answer(*question, "uncertain", f"{_against(head, chance)}; {uncertain}", DOUBTFUL)
    # rows are in time order
    complete, is_hit = run.complete & ~run.events.is_dark, run.events.is_hit
    frames = [int(part.sum()) for part in np.array_split(complete, 4)]
    hits = [int(part.sum()) for part in np.array_split(is_hit, 4)]
    rates = (f"{100 * h / n:.3g}" if n else "–" for h, n in zip(hits, frames, strict=True))
    why = f"hit rate by quarters of the run: {' → '.join(rates)} %"
    expected = [head.hit_rate * n for n in frames]
    steady = all(e < ENOUGH or h > e / 3 for h, e in zip(hits, expected, strict=True))
    return _yes_or(question, "not always", why, yes=steady)


def _hits(run: FinishedRun, head: Headline, chance: Chance) -> Answer:
    question = "hits", "Are these hits real?"
    if not head.hits:
        return Answer(*question, "no hits", "nothing to judge", BAD)
    sigma = run.events.hit_sigma[run.events.is_hit]
    if not np.isfinite(sigma).any():
        why = "no statistics with a fixed threshold: look at the histogram and at the hits"
        return Answer(*question, "look at them", why, DOUBTFUL)
    if not _more_than_chance(run, chance):
        return Answer(*question, "no more than by chance", _against(head, chance), BAD)
    if uncertain := _uncertain(run):
        return Answer(*question, "uncertain", f"{_against(head, chance)}; {uncertain}", DOUBTFUL)
    beyond = run.config.sigma + 2
    share = float(np.nanmean(sigma > beyond))
    why = (
        f"{100 * share:.3g} % of the hits are still hits at σ = {beyond:g}; "
        f"the median hit has {np.nanmedian(sigma):,.1f} σ; {_against(head, chance)}"
    )
    if chance.expected > FALSE_HITS * head.hits:
        return Answer(*question, "some are false", why, DOUBTFUL)
    if share > 0.5:
        return Answer(*question, "clear", why, GOOD)
    return Answer(*question, "many near the threshold", why, DOUBTFUL)


def _yes_or(question: tuple[str, str], otherwise: str, why: str, *, yes: bool) -> Answer:
    return Answer(*question, *(("yes", why, GOOD) if yes else (otherwise, why, DOUBTFUL)))


def _detector(run: FinishedRun, head: Headline, bad_pixels: float) -> Answer:
    question = "detector", "Is the detector healthy?"
    modules, all_modules = run.modules_in_run.bit_count(), run.detector_type.n_modules
    incomplete = head.incomplete / max(head.frames, 1)
    why = f"{modules} of {all_modules} modules, {100 * incomplete:.2g} % of the frames incomplete"
    if np.isfinite(bad_pixels):
        why += f", {100 * bad_pixels:.2g} % of the pixels bad"
    if modules < all_modules:
        missing = counted(all_modules - modules, "module")
        return Answer(*question, f"{missing} missing", why, BAD)
    fine = incomplete <= FEW and not bad_pixels > FEW
    return _yes_or(question, "not quite", why, yes=fine)


def _reconstruction(
    run: FinishedRun, head: Headline, chance: Chance, distance: float | None
) -> Answer:
    question = "reconstruction", "Enough for a reconstruction?"
    if not head.hits:
        return Answer(*question, "no", "there are no hits", BAD)
    photons = float(np.median(run.events.photons[run.events.is_hit]))
    why = f"{head.hits:,} hits, {photons:,.0f} photons in the median one"
    rule = "rule of thumb: weak hits take thousands, strong ones a few hundred"
    if not _more_than_chance(run, chance):
        return Answer(*question, "no", f"{why}; {chance.words}", BAD)
    if head.hits < LEAST_HITS:
        return Answer(*question, "no", f"{why}; {rule}", BAD)
    missing = []
    if distance is None or np.isnan(distance):
        missing.append("the detector distance")
    if not np.isfinite(head.photon_energy):
        missing.append("the wavelength")
    if any("pixel positions are nominal" in line for line in head.warnings):
        missing.append("the geometry")
    if missing:
        return Answer(*question, "not yet", f"{why}; unknown: {', '.join(missing)}", DOUBTFUL)
    if head.hits < MANY_HITS:
        return Answer(*question, "only if they are strong", f"{why}; {rule}", DOUBTFUL)
    return Answer(*question, "yes", f"{why}; geometry and wavelength are known", GOOD)


def _more_than_chance(run: FinishedRun, chance: Chance) -> bool:
    """Whether there are particles: more hits than chance gives, or some far beyond its tail."""
    sigma = run.events.hit_sigma[run.events.is_hit]
    if not np.isfinite(chance.expected):
        return True
    far = int((sigma > max(2 * run.config.sigma, FAR)).sum())
    return len(sigma) > chance.most or far >= FEW_HITS


def _uncertain(run: FinishedRun) -> str:
    """Return why the thresholds are uncertain; empty if enough frames have no particle."""
    distance = run.events.hit_sigma[np.isfinite(run.events.hit_sigma)]
    n, wanted = int((distance <= run.config.sigma).sum()), LEVEL_FRAMES * run.config.min_scores
    if n >= wanted or not len(distance):
        return ""
    return f"only {counted(n, 'frame')} without a particle, fewer than {wanted:,}"


def _against(head: Headline, chance: Chance) -> str:
    return f"{counted(head.hits, 'hit')}, {chance.words}"
