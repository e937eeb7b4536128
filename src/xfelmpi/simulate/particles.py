"""What is in the beam besides spheres: spheroids, pairs of spheres, pieces of ice, stray light.

All intensities are relative to the forward scattering of the sphere with the frame's diameter. q is
in 1/m and has its 2π, as in `model`.
"""

import numpy as np

NOTHING, SINGLE, PAIR, ICE, RING = range(5)
"""What a frame shows."""

_FARTHEST = 4.0
"""Gap between the spheres of a pair at most, in diameters of the first."""

_ICE_EDGES = (1.5, 5.0)
"""Of a piece of ice, in diameters."""

_RING_RADIUS, _RING_WIDTH = (3.0, 6.0), 0.15
"""Of stray light: where in q × diameter its ring is, and how wide, relative."""


def sphere_amplitude(x: np.ndarray) -> np.ndarray:
    """Return 3 (sin x − x cos x) / x³, float64 (…)."""
    # below 1e-2 the difference cancels; the limit is exact to 1e-5 there
    x = np.maximum(x, 1e-2)
    return 3 * (np.sin(x) - x * np.cos(x)) / x**3


def spheroid(q: np.ndarray, semi_axes: tuple[float, float], axis: np.ndarray) -> np.ndarray:
    """Return the intensity of a spheroid of revolution, 1 at q = 0, float64 (…).

    Parameters
    ----------
    q : ndarray, float64 (3, …)
    semi_axes : (float, float)
        Across the axis of revolution, and along it, in m.
    axis : ndarray, float64 (3,)
        Direction of the axis, a unit vector.
    """
    across, along = semi_axes
    projected = np.tensordot(axis, q, axes=1) ** 2
    square = (q**2).sum(axis=0)
    return sphere_amplitude(np.sqrt(across**2 * (square - projected) + along**2 * projected)) ** 2


def seen_axes(semi_axes: tuple[float, float], axis: np.ndarray) -> tuple[float, float, float]:
    """Return short and long diameter in m as seen along the beam, and the long one's angle in rad.

    The shadow of a spheroid is an ellipse: one semi-axis is that across the axis of revolution a,
    the other √(c² sin² t + a² cos² t) with t the angle between axis and beam. Angles are from the x
    axis, in [0, π).
    """
    across, along = semi_axes
    tilted = np.sqrt(along**2 * (1 - axis[2] ** 2) + across**2 * axis[2] ** 2)
    angle = np.arctan2(axis[1], axis[0])
    if tilted < across:
        angle += np.pi / 2
    short, long = sorted((2 * across, 2 * tilted))
    return short, long, float(angle % np.pi)


def pair(q: np.ndarray, diameter: float, place: np.ndarray) -> np.ndarray:
    """Return the intensity of two spheres in the same pulse, float64 (…).

    Parameters
    ----------
    q : ndarray, float64 (3, …)
    diameter : float
        Of the first in m.
    place : ndarray, float64 (4,)
        Numbers in [0, 1): of the second's size (0.7 to 1.3 times the first's), gap, direction.
    """
    ratio = 0.7 + 0.6 * place[0]
    distance = diameter * (0.5 + 0.5 * ratio + _FARTHEST * place[1])
    up = 2 * place[2] - 1
    turn = 2 * np.pi * place[3]
    flat = np.sqrt(1 - up**2)
    where = distance * np.array([flat * np.cos(turn), flat * np.sin(turn), up])
    length = np.sqrt((q**2).sum(axis=0))
    first = sphere_amplitude(length * diameter / 2)
    second = ratio**3 * sphere_amplitude(length * diameter / 2 * ratio)
    return first**2 + second**2 + 2 * first * second * np.cos(np.tensordot(where, q, axes=1))


def ice(q: np.ndarray, diameter: float, place: np.ndarray) -> np.ndarray:
    """Return the intensity of a brick, with streaks at right angles to its faces, float64 (…).

    Parameters
    ----------
    q, diameter, place
        As in `pair`: three edges, and the turn around the beam.
    """
    low, high = _ICE_EDGES
    edges = diameter * (low + (high - low) * place[:3])
    cosine, sine = np.cos(np.pi * place[3]), np.sin(np.pi * place[3])
    turned = (cosine * q[0] + sine * q[1], cosine * q[1] - sine * q[0], q[2])
    amplitude = np.prod(
        [np.sinc(e * part / (2 * np.pi)) for e, part in zip(edges, turned, strict=True)], axis=0
    )
    return amplitude**2


def ring(q: np.ndarray, diameter: float, place: np.ndarray) -> np.ndarray:
    """Return the intensity of a ring of stray light, brighter to one side, float64 (…)."""
    low, high = _RING_RADIUS
    radius = (low + (high - low) * place[0]) * 2 / diameter
    length = np.sqrt((q**2).sum(axis=0))
    turn = np.arctan2(q[1], q[0]) - 2 * np.pi * place[1]
    profile = np.exp(-0.5 * ((length / radius - 1) / _RING_WIDTH) ** 2)
    return 0.02 * profile * (1 + 0.5 * place[2] * np.cos(turn))


OTHERS = {PAIR: pair, ICE: ice, RING: ring}
"""Intensity of what is no single particle, by kind."""
