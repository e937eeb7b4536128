"""Where the beam meets the detector, by the Poisson likelihood of a powder of hits. Pure.

A powder of many particles in all orientations depends on the distance from the beam alone. Expected
photons of a pixel: W = E f(r) + B, with the exposure E, the background B, and any f: its logarithm
is a cubic spline with nodes about a pixel apart. Fisher scoring finds f and the shifts of all parts
of the detector that maximise Σ K log W − W, together, and their covariance.

Scripts of the field minimise Σ (powder − azimuthal mean)² by steps; with the likelihood, bright
pixels do not count too much, and there are error bars.
"""

from dataclasses import dataclass

import numpy as np

_GROWTH = 1 / 40
"""Distance of nodes over their radius, where that is more than a pixel."""

_STEPS, _SMALL_STEP = 300, 3e-3
"""Of the climb: how many at most, and the share of an error below which it ends."""

_LARGEST_CHANGE = 1.0
"""Of log f in one step."""

_COARSE = np.arange(-6.0, 6.1, 2.0)
"""Pixels: shifts that are tried before the climb, of x and of y."""

_EVERY = 4
"""Of the pixels for these."""

_SMOOTH = 1e-3
"""Information on second differences of log f: nodes without photons need some."""


@dataclass(frozen=True)
class PowderPixels:
    """A powder of hits on pixels near the beam.

    Parameters
    ----------
    xyz : ndarray, float64 (3, pixel)
        Centres in m, as far as they are known.
    part : ndarray, int (pixel,)
        Parts of the detector that move each by itself, counted from 0.
    photons : ndarray, float64 (pixel,)
        Sum over the hits.
    exposure : ndarray, float64 (pixel,)
        Solid angle × polarisation × hits in which the pixel was good; above 0.
    background : ndarray, float64 (pixel,)
        Expected photons without particles.
    pixel_size : float
        In m.
    n_parts : int
        Also those without pixels.
    """

    xyz: np.ndarray
    part: np.ndarray
    photons: np.ndarray
    exposure: np.ndarray
    background: np.ndarray
    pixel_size: float
    n_parts: int


@dataclass(frozen=True)
class Shifts:
    """How far the parts of a detector are from where they should be.

    Parameters
    ----------
    shift : ndarray, float64 (part, 2)
        What x and y in m have to be moved by.
    error : ndarray, float64 (part, 2)
        Standard errors; where the powder is less alike around the beam than photons are by
        chance, as much larger.
    misfit : float
        Deviation from the model in units of what chance makes, 1 for a perfect one.
    converged : bool
        Whether the climb came to its end; else, shifts and errors mean nothing.
    """

    shift: np.ndarray
    error: np.ndarray
    misfit: float
    converged: bool


class _Model:
    """The expected photons for given shifts and log f."""

    def __init__(self, powder: PowderPixels):
        self._powder = powder
        x, y, z = powder.xyz
        # as seen in one plane
        self._scale = np.median(z) / z if np.isfinite(z).all() else np.ones_like(z)
        self._bend = powder.pixel_size / _GROWTH
        self._farthest = 1.2 * np.hypot(x, y).max() + 10 * powder.pixel_size
        self.n_nodes = int(self._steps(np.array([self._farthest]))[0][0]) + 4
        self.n_parts = powder.n_parts
        self._of_part = [np.flatnonzero(powder.part == p) for p in range(self.n_parts)]

    def _steps(self, radius: np.ndarray):
        """Return how many nodes are nearer to the beam than a radius, and the change with it."""
        outside = np.maximum(radius, self._bend)
        inner, outer = radius / self._powder.pixel_size, 1 / _GROWTH
        steps = np.where(radius < self._bend, inner, outer * (1 + np.log(outside / self._bend)))
        return steps, outer / outside

    def place(self, shift: np.ndarray):
        """Return node, steps beyond it, and the change of the steps with x and y, per pixel."""
        powder = self._powder
        x, y = powder.xyz[:2] + shift[powder.part].T
        radius = np.hypot(x, y)
        steps, change = self._steps(np.minimum(radius * self._scale, self._farthest))
        node = np.floor(steps).astype(np.int64)
        change *= self._scale / np.maximum(radius, 1e-9)
        return node, steps - node, change * x, change * y

    def start(self, shift: np.ndarray) -> np.ndarray:
        """Return log f by the mean around the beam, float64 (node,)."""
        powder, n = self._powder, self.n_nodes
        node, share, _, _ = self.place(shift)
        # the second spline of four is the highest in the first half of a step
        near = node + 1 + (share > 0.5)
        exposure = np.bincount(near, powder.exposure, n)
        signal = np.bincount(near, powder.photons - powder.background, n)
        signal = np.maximum(signal, 0.02 * np.bincount(near, powder.photons, n) + 0.1)
        seen = np.flatnonzero(exposure > 0)
        return np.interp(np.arange(n), seen, np.log(signal[seen] / exposure[seen]))

    def likelihood(self, shift: np.ndarray) -> float:
        """Return Σ K log W − W with the mean around the beam for f."""
        powder, log_f = self._powder, self.start(shift)
        node, share, _, _ = self.place(shift)
        splines, _ = _splines(share)
        signal = np.exp(sum(splines[k] * log_f[node + k] for k in range(4)))
        expected = np.maximum(powder.exposure * signal + powder.background, 1e-9)
        return float((powder.photons * np.log(expected) - expected).sum())

    def derivatives(self, shift: np.ndarray, log_f: np.ndarray):
        """Return gradient (node + 2 part,) and Fisher's information, and the misfit."""
        powder, n = self._powder, self.n_nodes
        node, share, by_x, by_y = self.place(shift)
        splines, slopes = _splines(share)
        nearby = np.stack([log_f[node + k] for k in range(4)])
        signal = powder.exposure * np.exp((splines * nearby).sum(axis=0))
        expected = np.maximum(signal + powder.background, 1e-9)
        off = powder.photons - expected
        pull, weight = off * signal / expected, signal**2 / expected
        slope = (slopes * nearby).sum(axis=0)
        size = n + 2 * self.n_parts
        gradient, information = np.zeros(size), np.zeros((size, size))
        gradient[:n] = _to_nodes(node, splines * pull, n)
        for k in range(4):
            for apart in range(4 - k):
                values = weight * splines[k] * splines[k + apart]
                i = np.flatnonzero(sums := np.bincount(node + k, values, n))
                information[i, i + apart] += sums[i]
                if apart:
                    information[i + apart, i] += sums[i]
        for p, some in enumerate(self._of_part):
            a = n + 2 * p
            steps = slope[some] * np.stack([by_x[some], by_y[some]])
            weighted = weight[some] * steps
            gradient[a : a + 2] = steps @ pull[some]
            information[a : a + 2, a : a + 2] = weighted @ steps.T
            for j, w in enumerate(weighted):
                column = _to_nodes(node[some], splines[:, some] * w, n)
                information[:n, a + j] = information[a + j, :n] = column
        return gradient, information, float((off**2 / expected).mean())


def _splines(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the four cubic B-splines in one step, and their slopes, float64 (4, …)."""
    u = 1 - t
    values = [u**3, (3 * t - 6) * t * t + 4, (3 * u - 6) * u * u + 4, t**3]
    slopes = [-u * u, (3 * t - 4) * t, (4 - 3 * u) * u, t * t]
    return np.stack(values) / 6, np.stack(slopes) / 2


def _to_nodes(node: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    return sum(np.bincount(node + k, values[k], n) for k in range(4))


def _coarse(powder: PowderPixels) -> np.ndarray:
    """Return the best of some shifts of the whole detector, float64 (2,): the climb needs it."""
    some = slice(None, None, _EVERY)
    sums = (v[some] for v in (powder.photons, powder.exposure, powder.background))
    about = (powder.pixel_size, powder.n_parts)
    model = _Model(PowderPixels(powder.xyz[:, some], powder.part[some], *sums, *about))
    tried = np.stack(np.meshgrid(_COARSE, _COARSE), axis=-1).reshape(-1, 2) * powder.pixel_size
    likelihood = [model.likelihood(np.tile(shift, (model.n_parts, 1))) for shift in tried]
    return tried[int(np.argmax(likelihood))]


def fit_shifts(powder: PowderPixels) -> Shifts:
    """Return what the parts of a detector have to be moved by.

    Parameters
    ----------
    powder : PowderPixels
        At least some pixels around the beam, and of every part.
    """
    model = _Model(powder)
    n, parts = model.n_nodes, model.n_parts
    shift = np.tile(_coarse(powder), (parts, 1))
    log_f = model.start(shift)
    bend = np.diff(np.eye(n), 2, axis=0)
    smooth = _SMOOTH * bend.T @ bend
    for _ in range(_STEPS):
        gradient, information, misfit = model.derivatives(shift, log_f)
        gradient[:n] -= smooth @ log_f
        information[:n, :n] += smooth
        # in pixels: the matrix is then well scaled
        units = np.ones(len(gradient))
        units[n:] = powder.pixel_size
        scaled = information * units * units[:, None]
        scaled[np.diag_indices_from(scaled)] += 1e-9 * np.trace(scaled) / len(scaled)
        covariance = np.linalg.inv(scaled)
        step = covariance @ (gradient * units)
        error = np.sqrt(np.diagonal(covariance))[n:]
        found = bool((np.abs(step[n:]) < _SMALL_STEP * error).all())
        # nodes that no pixel is near may want to go far: they must not hold up the others
        log_f = log_f + np.clip(step[:n], -_LARGEST_CHANGE, _LARGEST_CHANGE)
        shift = shift + np.clip(step[n:], -1, 1).reshape(parts, 2) * powder.pixel_size
        if found:
            break
    error = error.reshape(parts, 2) * powder.pixel_size * np.sqrt(max(1.0, misfit))
    return Shifts(shift, error, misfit, found)
