"""Diameter and fluence of spheres by the Poisson likelihood of their photons in rings. Pure.

Expected photons of a ring: W = φ c d⁶ f(q) E + B, with fluence φ, c = r_e² ρ² (π / 6)², f the
square of the amplitude of a sphere of diameter d, E the exposure of the good pixels, and B the
background.
A grid of diameters by one product of matrices gives the start, Fisher scoring the maximum of
Σ K log W − W and its covariance.
"""

from typing import NamedTuple

import numpy as np

from xfelmpi.analysis.fit_blocks import (
    BLOCK_HITS,
    deviance_per_freedom,
    fit_in_blocks,
    hits_arrays,
)
from xfelmpi.analysis.form_factor import forward_scattering, sphere_amplitude
from xfelmpi.analysis.polar_bins import BinnedHits, PolarBins

_LEVELS = np.array([0.0, 0.03, 0.1, 0.2, 0.35, 0.6, 1.0, 1.6, 2.5, 4.0, 8.0, 20.0])
"""Background over signal for which the grid has templates; the nearest one is taken."""

_STEPS, _LARGEST_STEP = 30, np.array([0.04, 0.7])
"""Of the climb: how many, and the largest in the logarithms of diameter and fluence."""

_SMALL_STEP = 1e-3
"""Of the standard error: nothing is gained by a further step."""

_LEAST_SIGNAL = 0.02
"""Of the photons, where the background alone explains more than all."""


class Spheres(NamedTuple):
    """What fits the hits best, float64 (hit,) each; NaN where there is nothing to fit.

    Diameters in m, fluences in photons/m², standard errors of both, deviance per degree of freedom,
    and 1 where the diameter is at the edge of the grid, else 0.
    """

    diameter: np.ndarray
    diameter_error: np.ndarray
    fluence: np.ndarray
    fluence_error: np.ndarray
    deviance: np.ndarray
    edge: np.ndarray


class SphereFit:
    """Fits spheres to binned hits.

    Parameters
    ----------
    bins : PolarBins
    diameters : ndarray, float64 (template,)
        The grid in m, ascending, at equal ratios.
    density : float
        Electrons per m³.
    exposure, background : ndarray, float64 (bin,)
        Of a usual hit, for the grid.
    """

    def __init__(
        self,
        bins: PolarBins,
        diameters: np.ndarray,
        density: float,
        exposure: np.ndarray,
        background: np.ndarray,
    ):
        self._bins = bins
        self._diameters = diameters
        # of a sphere with d = 1 m
        self._forward = forward_scattering(density) * (np.pi / 6) ** 2
        # two points that have the mean and the variance of |q| in a ring
        spread = np.stack([-bins.ring_spread, bins.ring_spread])
        self._nodes = np.maximum(bins.ring_q + spread, 0.0)
        value = sphere_amplitude(np.pi * diameters[:, None, None] * self._nodes)[0]
        self._templates = (value**2).mean(axis=1)
        self._exposure = bins.of_rings(exposure)
        self._background = bins.of_rings(background)
        self._logarithms: dict[int, np.ndarray] = {}

    def __call__(self, hits: BinnedHits) -> Spheres:
        """Return the sphere that fits each hit best."""
        return fit_in_blocks(self._fit, hits, Spheres)

    def _fit(self, hits: BinnedHits) -> Spheres:
        rings = BinnedHits(*(self._bins.of_rings(values) for values in hits_arrays(hits)))
        total = rings.photons.sum(axis=1)
        usable = (total > 0) & (rings.exposure.sum(axis=1) > 0)
        start = self._search(rings, total)
        size, fluence, covariance = self._refine(rings, start)
        # of logarithms and back: the ends are not met to the bit
        lowest, highest = self._diameters[[0, -1]] * (1 + np.array([1e-9, -1e-9]))
        edge = ((size <= lowest) | (size >= highest)).astype(np.float64)
        error = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        columns = (size, size * error[:, 0], fluence, fluence * error[:, 1])
        fit = self._goodness(hits, size, fluence)
        return Spheres(*(np.where(usable, c, np.nan) for c in (*columns, fit, edge)))

    def _search(self, rings: BinnedHits, total: np.ndarray) -> np.ndarray:
        """Return logarithms of diameter and fluence where the grid is best, float64 (hit, 2)."""
        signal = np.maximum(total - rings.background.sum(axis=1), _LEAST_SIGNAL * total)
        signal = np.maximum(signal, 1e-3)
        ratio = rings.background.sum(axis=1) / signal
        level = np.abs(np.log((_LEVELS + 0.02) / (ratio[:, None] + 0.02))).argmin(axis=1)
        n = len(total)
        photons, exposure = np.zeros((2, BLOCK_HITS, rings.photons.shape[1]))
        photons[:n], exposure[:n] = rings.photons, rings.exposure
        best = np.zeros(n, np.int64)
        # what the good pixels of this hit would see of each template
        visible = (exposure @ self._templates.T)[:n]
        seen = np.maximum(visible / (self._templates @ self._exposure), 1e-12)
        for number in np.unique(level).tolist():
            likelihood = (photons @ self._log_templates(number).T)[:n]
            likelihood -= signal[:, None] * np.log(seen)
            best = np.where(level == number, likelihood.argmax(axis=1), best)
        diameter = self._diameters[best]
        scale = self._forward * diameter**6 * visible[np.arange(n), best]
        return np.log(np.stack([diameter, signal / np.maximum(scale, 1e-300)], axis=1))

    def _log_templates(self, level: int) -> np.ndarray:
        """Return logarithms of the expected photons, for one ratio of background to signal."""
        if level not in self._logarithms:
            signal = self._templates / (self._templates @ self._exposure)[:, None]
            total = self._background.sum()
            ground = self._background / np.where(self._exposure > 0, self._exposure, np.inf)
            mixed = signal + _LEVELS[level] * (ground / total if total > 0 else 0.0)
            self._logarithms[level] = np.log(np.maximum(mixed, 1e-12 * signal[:, :1]))
        return self._logarithms[level]

    def _model(self, rings: BinnedHits, where: np.ndarray):
        """Return expected signal of the rings and its derivatives, float64 (hit, ring) each."""
        diameter = np.exp(where[:, 0])[:, None]
        h = np.pi * diameter[..., None] * self._nodes
        value, slope = sphere_amplitude(h)
        scale = self._forward * np.exp(where[:, 1])[:, None] * diameter**6 * rings.exposure
        signal = (value**2).mean(axis=1)
        change = 6 * signal + (2 * value * h * slope).mean(axis=1)
        return scale * signal, scale * change

    def _refine(self, rings: BinnedHits, where: np.ndarray):
        """Climb to the maximum; return diameter, fluence and covariance of their logarithms."""
        log_range = np.log(self._diameters[[0, -1]])
        covariance = np.zeros((len(where), 2, 2))
        moving = np.arange(len(where))
        for _ in range(_STEPS):
            # a hit moves by itself: the others of its block have no say
            part = BinnedHits(*(values[moving] for values in hits_arrays(rings)))
            signal, by_size = self._model(part, where[moving])
            expected = np.maximum(signal + part.background, 1e-12)
            residual = part.photons / expected - 1
            gradient = np.stack([(residual * d).sum(axis=1) for d in (by_size, signal)], axis=1)
            pairs = ((by_size, by_size), (by_size, signal), (signal, signal))
            step, found = _solve(gradient, *((a * b / expected).sum(axis=1) for a, b in pairs))
            covariance[moving] = found
            step = np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
            where[moving] += step
            where[moving, 0] = np.clip(where[moving, 0], *log_range)
            error = np.sqrt(np.diagonal(found, axis1=1, axis2=2))
            moving = moving[(np.abs(step) > _SMALL_STEP * error).any(axis=1)]
            if not len(moving):
                break
        return np.exp(where[:, 0]), np.exp(where[:, 1]), covariance

    def _goodness(self, hits: BinnedHits, size, fluence) -> np.ndarray:
        """Return the deviance per degree of freedom over the bins, float64 (hit,)."""
        bins, ring = self._bins, self._bins.ring_of_bin
        h = np.pi * size[:, None, None] * self._nodes
        value, slope = sphere_amplitude(h)
        mean = (value**2).mean(axis=1)
        change = (2 * value * slope).mean(axis=1) * np.pi * size[:, None]
        # pixels of a small bin are not where those of the whole ring are, in the mean
        shift = np.where(bins.total > 0, bins.q - bins.ring_q[ring], 0.0)
        intensity = np.maximum(mean[:, ring] + change[:, ring] * shift, 0.2 * mean[:, ring])
        scale = self._forward * (fluence * size**6)[:, None]
        return deviance_per_freedom(hits, scale * intensity * hits.exposure, 2)


def _solve(gradient: np.ndarray, aa: np.ndarray, ab: np.ndarray, bb: np.ndarray):
    """Return step (hit, 2) and covariance (hit, 2, 2) of Fisher's information and the gradient."""
    determinant = aa * bb - ab * ab
    determinant = np.where(determinant > 1e-12 * aa * bb, determinant, np.inf)
    inverse = np.empty((len(aa), 2, 2))
    inverse[:, 0, 0], inverse[:, 1, 1] = bb / determinant, aa / determinant
    inverse[:, 0, 1] = inverse[:, 1, 0] = -ab / determinant
    return (inverse * gradient[:, None]).sum(axis=2), inverse
