"""The questions that a person at the beamtime has, answered from the numbers of a run. Pure."""

from dataclasses import dataclass

import numpy as np

from xfelmpi.output.events import FinishedRun
from xfelmpi.report.headline import Headline, energy, plural

GOOD, LOOK, BAD = "good", "look", "bad"

WEAK = 0.2
"""Of the median pulse energy: pulses below are called weak."""

FEW = 0.05
"""More weak pulses, incomplete frames or bad pixels than this share are worth a look."""


ENOUGH = 9
"""Hits expected in a quarter of the run, so that a third of them is no matter of chance."""


@dataclass(frozen=True)
class Answer:
    """A question, a word or two, what they rest on, and ``good``, ``look`` or ``bad``."""

    question: str
    short: str
    why: str
    state: str


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
    return [
        _beam(run),
        _sample(run, head),
        _hits(run, head),
        _detector(run, head, bad_pixels),
        _reconstruction(run, head, distance),
    ]


def _beam(run: FinishedRun) -> Answer:
    question = "Is the beam on?"
    pulses = run.events.pulse_energy
    known = pulses[np.isfinite(pulses)]
    if not len(known):
        return Answer(question, "unknown", "no pulse energies in the run", LOOK)
    middle = float(np.median(known))
    if not middle > 1e-6:
        return Answer(question, "no", f"median pulse energy {energy(middle)}", BAD)
    weak = float((known < WEAK * middle).mean())
    why = f"median pulse energy {energy(middle)}, {100 * weak:.2g} % of the pulses weak"
    if len(known) < len(pulses):
        why += f", {100 * (1 - len(known) / len(pulses)):.2g} % unknown"
    return Answer(question, *(("yes", why, GOOD) if weak <= FEW else ("not always", why, LOOK)))


def _sample(run: FinishedRun, head: Headline) -> Answer:
    question = "Is the sample there?"
    if not head.hits:
        return Answer(question, "no hits", f"none of {head.complete:,} complete frames", BAD)
    # rows are in time order
    complete, is_hit = run.complete, run.events.is_hit
    frames = [int(part.sum()) for part in np.array_split(complete, 4)]
    hits = [int(part.sum()) for part in np.array_split(is_hit, 4)]
    rates = (f"{100 * h / max(n, 1):.3g}" for h, n in zip(hits, frames, strict=True))
    why = f"hit rate by quarters of the run: {' → '.join(rates)} %"
    expected = [head.hit_rate * n for n in frames]
    steady = all(e < ENOUGH or h > e / 3 for h, e in zip(hits, expected, strict=True))
    return Answer(question, *(("yes", why, GOOD) if steady else ("not always", why, LOOK)))


def _hits(run: FinishedRun, head: Headline) -> Answer:
    question = "Are these hits real?"
    if not head.hits:
        return Answer(question, "no hits", "nothing to judge", BAD)
    sigma = run.events.hit_sigma[run.events.is_hit]
    if not np.isfinite(sigma).any():
        why = "no statistics with a fixed threshold: look at the histogram and at the hits"
        return Answer(question, "look at them", why, LOOK)
    beyond = run.config.sigma + 2
    share = float(np.nanmean(sigma > beyond))
    why = (
        f"{100 * share:.3g} % of the hits are still hits at σ = {beyond:g}; "
        f"the median hit has {np.nanmedian(sigma):,.1f} σ"
    )
    return Answer(
        question, *(("clear", why, GOOD) if share > 0.5 else ("many near the threshold", why, LOOK))
    )


def _detector(run: FinishedRun, head: Headline, bad_pixels: float) -> Answer:
    question = "Is the detector healthy?"
    modules, all_modules = run.modules_in_run.bit_count(), run.detector_type.n_modules
    incomplete = head.incomplete / max(head.frames, 1)
    why = f"{modules} of {all_modules} modules, {100 * incomplete:.2g} % of the frames incomplete"
    if np.isfinite(bad_pixels):
        why += f", {100 * bad_pixels:.2g} % of the pixels bad"
    if modules < all_modules:
        missing = plural(all_modules - modules, "module")
        return Answer(question, f"{missing} missing", why, BAD)
    fine = incomplete <= FEW and not bad_pixels > FEW
    return Answer(question, *(("yes", why, GOOD) if fine else ("not quite", why, LOOK)))


def _reconstruction(run: FinishedRun, head: Headline, distance: float | None) -> Answer:
    question = "Start the reconstruction?"
    if not head.hits:
        return Answer(question, "no", "there are no hits", BAD)
    photons = float(np.median(run.events.photons[run.events.is_hit]))
    why = f"{head.hits:,} hits, {photons:,.0f} photons in the median one"
    missing = []
    if distance is None or np.isnan(distance):
        missing.append("the detector distance")
    if not np.isfinite(head.photon_energy):
        missing.append("the wavelength")
    if any("pixel positions are nominal" in line for line in head.warnings):
        missing.append("the geometry")
    if missing:
        return Answer(question, "not yet", f"{why}; unknown: {', '.join(missing)}", LOOK)
    return Answer(question, "can start", f"{why}; geometry and wavelength are known", GOOD)
