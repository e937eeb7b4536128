"""What fits of spheres and of spheroids have in common: blocks of hits, and how well they fit."""

from collections.abc import Callable

import numpy as np

from xfelmpi.analysis.poisson import deviance, expected_deviance
from xfelmpi.analysis.polar_bins import BinnedHits

BLOCK_HITS = 32
"""Rows of every product of matrices: its rounding depends on the shape."""


def hits_arrays(hits: BinnedHits) -> tuple[np.ndarray, ...]:
    """Return photons, exposure and background."""
    return hits.photons, hits.exposure, hits.background


def fit_in_blocks(fit: Callable, hits: BinnedHits, result: type):
    """Fit hits block by block, so that each has the same bits in any company.

    Parameters
    ----------
    fit : callable
        Takes `BLOCK_HITS` hits or fewer and returns a `result`.
    hits : BinnedHits
    result : type
        A named tuple of columns, (hit,) each.
    """
    parts = []
    for a in range(0, len(hits.photons), BLOCK_HITS):
        part = BinnedHits(*(values[a : a + BLOCK_HITS] for values in hits_arrays(hits)))
        parts.append(fit(part))
    if not parts:
        return result(*np.zeros((len(result._fields), 0)))
    return result(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def deviance_per_freedom(hits: BinnedHits, signal: np.ndarray, n_parameters: int) -> np.ndarray:
    """Return the deviance per degree of freedom over the bins, float64 (hit,).

    Parameters
    ----------
    hits : BinnedHits
    signal : ndarray, float64 (hit, bin)
        Expected photons besides the background.
    n_parameters : int
        That were fitted to each hit.
    """
    seen = hits.exposure > 0
    expected = np.where(seen, np.maximum(signal + hits.background, 1e-12), 1.0)
    total = np.where(seen, deviance(hits.photons, expected), 0.0).sum(axis=1)
    usual = np.where(seen, expected_deviance(expected), 0.0).sum(axis=1)
    return total / np.maximum(usual - n_parameters, 1.0)
