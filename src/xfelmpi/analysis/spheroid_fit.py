"""Axes, angle and fluence of spheroids by the Poisson likelihood of their photons. Pure.

Expected photons of a bin: W = φ c (s² l)² g(H)² E + B, H = π √(l² u² + s² w²), with l and s the
diameters along and across the axis of revolution, u and w the parts of q along and across that
axis as seen along the beam (Hantke et al., Nat. Photon. 8 (2014) 943), and the rest as in
`sphere_fit`. What tilts the axis out of the plane changes little but l.

In bins of |q| and azimuth, a turned spheroid is a template moved along the azimuth: one product of
matrices per harmonic of the azimuth tries all pairs of axes at all angles.
"""

from typing import NamedTuple

import numpy as np
from numpy.polynomial.legendre import leggauss

from xfelmpi.analysis.fit_blocks import (
    BLOCK_HITS,
    deviance_per_freedom,
    fit_in_blocks,
    hits_arrays,
)
from xfelmpi.analysis.form_factor import forward_scattering, sphere_amplitude
from xfelmpi.analysis.polar_bins import BinnedHits, PolarBins

N_ANGLES = 64
"""Sectors of every ring, and angles of the grid in [0, π)."""

_HARMONICS = N_ANGLES // 2 + 1

_LARGEST_RATIO = 5.0
"""Of the axes: more is no particle, but a streak."""

_LEVELS = np.array([0.0, 0.1, 0.35, 1.0, 3.0])
"""Background over signal for which the grid has templates; the nearest one is taken."""

_PAIRS_AT_ONCE = 128
_STEPS, _LARGEST_STEP = 25, np.array([0.05, 0.05, 0.15, 0.7])
_SMALL_STEP = 0.02
"""Of the standard error: nothing is gained by a further step."""

_ANGLE_INFORMATION = 12 / np.pi**2
"""Of an angle of which nothing is known: 1 / variance of equal chances in [0, π)."""

_DAMPING = 1e-6

_POINTS = [(node * 3**0.5, weight / 2) for node, weight in zip(*leggauss(4), strict=True)]
"""Points across a bin in standard deviations of |q|, and their weights: outer bins are as wide as
fringes are."""


class Spheroids(NamedTuple):
    """What fits the hits best, float64 (hit,) each; NaN where there is nothing to fit.

    Short and long diameter in m as seen along the beam, the long one's angle from the x axis in
    [0, π), diameter of the sphere of the same volume, fluence in photons/m², standard errors,
    deviance per degree of freedom, and 1 where an axis is at the edge of the grid, else 0.
    """

    diameter: np.ndarray
    diameter_error: np.ndarray
    short: np.ndarray
    short_error: np.ndarray
    long: np.ndarray
    long_error: np.ndarray
    angle: np.ndarray
    angle_error: np.ndarray
    fluence: np.ndarray
    fluence_error: np.ndarray
    deviance: np.ndarray
    edge: np.ndarray


class SpheroidFit:
    """Fits spheroids to binned hits.

    Parameters
    ----------
    bins : PolarBins
        With `N_ANGLES` sectors in every ring.
    diameters : ndarray, float64 (size,)
        The grid of both axes in m, ascending.
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
        self._range = np.log(diameters[[0, -1]])
        self._forward = forward_scattering(density) * (np.pi / 6) ** 2
        short, long = np.triu_indices(len(diameters))
        near = diameters[long] <= _LARGEST_RATIO * diameters[short]
        short, long = short[near], long[near]
        # (pair,): across and along the axis of revolution, never shorter along it
        self._pairs = np.stack([diameters[short], diameters[long]], axis=1)
        self._shape = (len(bins.first), N_ANGLES)
        self._exposure = exposure.reshape(self._shape)
        self._background = background.reshape(self._shape).sum(axis=1)
        self._spread = bins.ring_spread / np.where(bins.ring_q > 0, bins.ring_q, 1.0)
        self._beyond = np.maximum(bins.q**2 - bins.q_x**2 - bins.q_y**2, 0.0)
        self._logarithms: dict[int, np.ndarray] = {}
        self._visible = self._all_visible()

    def __call__(self, hits: BinnedHits) -> Spheroids:
        """Return the spheroid that fits each hit best."""
        return fit_in_blocks(self._fit, hits, Spheroids)

    def _fit(self, hits: BinnedHits) -> Spheroids:
        total = hits.photons.sum(axis=1)
        usable = (total > 0) & (hits.exposure.sum(axis=1) > 0)
        where, covariance = self._refine(hits, self._search(hits, total))
        across, along, angle, fluence = where.T
        error = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        swapped = across > along
        short, long = np.exp(np.minimum(across, along)), np.exp(np.maximum(across, along))
        short_error = short * np.where(swapped, error[:, 1], error[:, 0])
        long_error = long * np.where(swapped, error[:, 0], error[:, 1])
        angle = np.where(swapped, angle + np.pi / 2, angle) % np.pi
        volume = np.exp((2 * across + along) / 3)
        weights = np.array([2 / 3, 1 / 3])
        volume_error = np.sqrt(np.einsum("i,hij,j->h", weights, covariance[:, :2, :2], weights))
        light = np.exp(fluence)
        low, high = self._range
        edge = ((where[:, :2] <= low) | (where[:, :2] >= high)).any(axis=1).astype(np.float64)
        columns = (volume, volume * volume_error, short, short_error, long, long_error)
        columns += (angle, error[:, 2], light, light * error[:, 3])
        signal, _ = self._model(hits.exposure, where, slopes=False)
        columns += (deviance_per_freedom(hits, signal, 4), edge)
        return Spheroids(*(np.where(usable, c, np.nan) for c in columns))

    def _templates(self, pairs: np.ndarray) -> np.ndarray:
        """Return g² of spheroids whose axis is along x, float64 (pair, ring, sector)."""
        angle = (np.arange(N_ANGLES // 2) + 0.5) * np.pi / N_ANGLES
        across, along = pairs.T
        turned = np.sqrt(
            np.square(along[:, None] * np.cos(angle)) + np.square(across[:, None] * np.sin(angle))
        )
        q = self._bins.ring_q[None, :, None]
        found = 0.0
        for sign in (-1, 1):
            node = q * (1 + sign * self._spread[None, :, None])
            found = found + sphere_amplitude(np.pi * node * turned[:, None])[0] ** 2 / 2
        return np.concatenate([found, found[..., ::-1]], axis=2)

    def _all_visible(self) -> np.ndarray:
        """Return what a usual hit sees of every pair at every angle, float64 (pair, angle)."""
        parts = []
        exposure = np.fft.rfft(self._exposure, axis=1)
        for a in range(0, len(self._pairs), _PAIRS_AT_ONCE):
            template = np.fft.rfft(self._templates(self._pairs[a : a + _PAIRS_AT_ONCE]), axis=2)
            product = (exposure * np.conj(template)).sum(axis=1)
            parts.append(np.fft.irfft(product, N_ANGLES, axis=1))
        return np.maximum(np.concatenate(parts), 1e-300)

    def _log_templates(self, level: int) -> np.ndarray:
        """Return harmonics of the logarithm of the templates, complex64 (harmonic, ring, pair)."""
        if level in self._logarithms:
            return self._logarithms[level]
        found = np.empty((_HARMONICS, self._shape[0], len(self._pairs)), np.complex64)
        exposure = self._exposure.sum(axis=1)
        ground = self._background / np.where(exposure > 0, exposure, np.inf)
        ground *= _LEVELS[level] / max(self._background.sum(), 1e-300)
        for a in range(0, len(self._pairs), _PAIRS_AT_ONCE):
            part = slice(a, a + _PAIRS_AT_ONCE)
            signal = self._templates(self._pairs[part])
            signal /= self._visible[part].mean(axis=1)[:, None, None]
            mixed = signal + ground[None, :, None]
            logarithm = np.log(np.maximum(mixed, 1e-9 * signal[:, :1, :1]))
            harmonics = np.conj(np.fft.rfft(logarithm, axis=2)[..., :_HARMONICS])
            found[:, :, part] = np.moveaxis(harmonics, 0, -1).swapaxes(0, 1)
        self._logarithms[level] = found
        return found

    def _search(self, hits: BinnedHits, total: np.ndarray) -> np.ndarray:
        """Return where the grid is best: logarithms of diameters and fluence, angle, (hit, 4)."""
        ground = hits.background.sum(axis=1)
        signal = np.maximum(total - ground, np.maximum(0.02 * total, 1e-3))
        ratio = ground / signal
        level = np.abs(np.log((_LEVELS + 0.05) / (ratio[:, None] + 0.05))).argmin(axis=1)
        n = len(total)
        photons = np.zeros((BLOCK_HITS, *self._shape), np.float32)
        photons[:n] = hits.photons.reshape(n, *self._shape)
        harmonics = np.fft.rfft(photons, axis=2)[..., :_HARMONICS].astype(np.complex64)
        harmonics = np.ascontiguousarray(np.moveaxis(harmonics, 2, 0))
        best = np.zeros(n, np.int64)
        seen = self._visible / self._visible.mean(axis=1, keepdims=True)
        seen = np.log(seen).astype(np.float32)
        for number in np.unique(level).tolist():
            product = np.matmul(harmonics, self._log_templates(number))
            for hit in np.flatnonzero(level == number):
                likelihood = np.fft.irfft(product[:, hit].T, N_ANGLES, axis=1)
                best[hit] = (likelihood - np.float32(signal[hit]) * seen).argmax()
        pair, angle = np.divmod(best, N_ANGLES)
        across, along = self._pairs[pair].T
        turn = angle * np.pi / N_ANGLES
        scale = self._forward * (across**2 * along) ** 2 * self._visible[pair, angle]
        return np.stack([np.log(across), np.log(along), turn, np.log(signal / scale)], axis=1)

    def _model(self, exposure: np.ndarray, where: np.ndarray, *, slopes: bool = True):
        """Return expected signal of the bins (hit, bin) and its derivatives (4 of them)."""
        across, along = np.exp(where[:, :2, None]).swapaxes(0, 1)
        cosine, sine = np.cos(where[:, 2, None]), np.sin(where[:, 2, None])
        bins = self._bins
        u = along * (cosine * bins.q_x + sine * bins.q_y)
        w = across * (cosine * bins.q_y - sine * bins.q_x)
        # along the beam, and what the mean over a sector is shorter than its pixels' |q|
        beyond = across * across * self._beyond
        length = np.sqrt(u * u + w * w + beyond)
        scale = self._forward * np.exp(where[:, 3, None]) * (across**2 * along) ** 2 * exposure
        spread = bins.spread / np.where(bins.q > 0, bins.q, 1.0)
        squares, changes = 0.0, 0.0
        for node, weight in _POINTS:
            h = np.pi * length * (1 + node * spread)
            value, slope = sphere_amplitude(h)
            squares = squares + weight * value * value
            # d g² / d log(length)
            changes = changes + 2 * weight * value * slope * h
        signal = scale * squares
        if not slopes:
            return signal, ()
        change = scale * changes / np.where(length > 0, length * length, 1.0)
        turn = change * u * w * (along / across - across / along)
        by_across = 4 * signal + change * (w * w + beyond)
        return signal, (by_across, 2 * signal + change * u * u, turn, signal)

    def _refine(self, hits: BinnedHits, where: np.ndarray):
        """Climb to the maximum; return where it is (hit, 4) and the covariance (hit, 4, 4)."""
        covariance = np.zeros((len(where), 4, 4))
        moving = np.arange(len(where))
        diagonal = np.arange(4)
        for _ in range(_STEPS):
            photons, exposure, ground = (values[moving] for values in hits_arrays(hits))
            signal, slopes = self._model(exposure, where[moving])
            expected = np.maximum(signal + ground, 1e-12)
            residual = photons / expected - 1
            gradient = np.stack([(residual * d).sum(axis=1) for d in slopes], axis=1)
            information = np.empty((len(moving), 4, 4))
            for i in range(4):
                weighted = slopes[i] / expected
                for j in range(i, 4):
                    information[:, i, j] = (weighted * slopes[j]).sum(axis=1)
                    information[:, j, i] = information[:, i, j]
            information[:, diagonal, diagonal] *= 1 + _DAMPING
            information[:, diagonal, diagonal] += 1e-12
            information[:, 2, 2] += _ANGLE_INFORMATION
            found = np.linalg.inv(information)
            covariance[moving] = found
            step = (found * gradient[:, None]).sum(axis=2)
            step = np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
            where[moving] += step
            where[moving, :2] = np.clip(where[moving, :2], *self._range)
            error = np.sqrt(np.diagonal(found, axis1=1, axis2=2))
            moving = moving[(np.abs(step) > _SMALL_STEP * error).any(axis=1)]
            if not len(moving):
                break
        return where, covariance
