"""One particle without any symmetry: balls of different sizes, always turned in another way."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

CENTRES = np.array(
    [
        [0.00, 0.00, 0.00],
        [0.28, 0.05, -0.06],
        [-0.14, 0.30, 0.04],
        [-0.05, -0.12, 0.33],
        [0.10, -0.28, -0.20],
        [-0.30, -0.06, -0.12],
    ]
)
"""Of the balls, relative to the particle's size; axes (ball, coordinate)."""

RADII = np.array([0.20, 0.15, 0.17, 0.13, 0.12, 0.10])
"""Relative to the particle's size."""


@dataclass(frozen=True)
class Cluster:
    """The particle.

    Parameters
    ----------
    size : float
        In m; the balls lie within a sphere of about this diameter.
    """

    size: float

    @cached_property
    def _weights(self) -> np.ndarray:
        return RADII**3 / (RADII**3).sum()

    def amplitudes(self, length: np.ndarray) -> np.ndarray:
        """Return the amplitude of every ball, float64 (ball, …); their sum is 1 at |q| = 0.

        Parameters
        ----------
        length : ndarray, float64 (…)
            |q| = 4 π sin θ / λ in 1/m. As in `model.sphere_intensity`, less the square.
        """
        shape = (-1,) + (1,) * np.ndim(length)
        x = np.maximum(length * (RADII * self.size).reshape(shape), 1e-2)
        return self._weights.reshape(shape) * 3 * (np.sin(x) - x * np.cos(x)) / x**3

    def intensity(self, q: np.ndarray, amplitudes: np.ndarray, turn: np.ndarray) -> np.ndarray:
        """Return the diffraction, relative to forward scattering, float64 (…).

        |Σ f_j(|q|) exp(i q · R x_j)|² (Guinier & Fournet, Small-Angle Scattering of X-rays (1955),
        ch. 2), with R the rotation of the particle.

        Parameters
        ----------
        q : ndarray, float64 (3, …)
            Momentum transfer in 1/m.
        amplitudes : ndarray, float64 (ball, …)
            `amplitudes` at |q|.
        turn : ndarray, float64 (3, 3)
            R.
        """
        phases = np.tensordot(CENTRES * self.size @ turn.T, q, axes=1)
        return (amplitudes * np.cos(phases)).sum(axis=0) ** 2 + (amplitudes * np.sin(phases)).sum(
            axis=0
        ) ** 2

    def mean_intensity(self, length: np.ndarray) -> np.ndarray:
        """Return the mean over all orientations, float64 (…).

        Σ f_i f_j sin(|q| d_ij) / |q| d_ij (Debye, Ann. Phys. 351 (1915) 809).
        """
        amplitudes = self.amplitudes(length)
        total = np.zeros(np.shape(length))
        for a, x in zip(amplitudes, CENTRES, strict=True):
            for b, y in zip(amplitudes, CENTRES, strict=True):
                distance = np.linalg.norm(x - y) * self.size
                total += a * b * np.sinc(length * distance / np.pi)
        return total


def rotation(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation matrix, float64 (3, 3), of a quaternion (w, x, y, z) of any length.

    Shoemake, Graphics Gems III (1992) 124: of four normal random numbers, all rotations are
    equally likely.
    """
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
