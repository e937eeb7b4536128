"""The numbers of a run that a shift follows from run to run. Pure."""

from dataclasses import dataclass

import numpy as np

from xfelmpi.output.events import FinishedRun

BRIGHTEST = 100
"""Hits of which the mean is followed: it tells of size and focus, whatever the threshold."""

SIZES = ("size", "diameter", "photon_radius")
"""Columns of analyses that tell of the size of particles, the first one that is there."""


@dataclass(frozen=True)
class RunNumbers:
    """Numbers of a run; None if unknown.

    Parameters
    ----------
    photons_per_frame : float or None
        Mean of all frames.
    brightest_100 : float or None
        Mean photons of the 100 brightest hits.
    median_size : float or None
        Of the hits, in m, if an analysis measures it.
    background : float or None
        Mean of the background's median score.
    sigma : float or None
        Widths of the background above which a frame is a hit.
    """

    photons_per_frame: float | None = None
    brightest_100: float | None = None
    median_size: float | None = None
    background: float | None = None
    sigma: float | None = None


def run_numbers(run: FinishedRun) -> RunNumbers:
    """Return the numbers of a finished run."""
    events = run.events
    of_hits = events.photons[events.is_hit.astype(bool)]
    sizes = next((c.values for c in events.added if c.name in SIZES and c.values is not None), [])
    return RunNumbers(
        _mean(events.photons),
        _mean(np.sort(of_hits)[-BRIGHTEST:]),
        _known(np.nanmedian(sizes)) if np.isfinite(sizes).any() else None,
        _mean(events.hit_median),
        float(run.config.sigma),
    )


def _mean(values) -> float | None:
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _known(value) -> float | None:
    return float(value) if np.isfinite(value) else None
