"""The powder of hits near the beam, from which the position of the beam is found. Pure."""

import math
from dataclasses import dataclass

import numpy as np

from xfelmpi.analysis.centre_fit import PowderPixels, Shifts, fit_shifts
from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.detectors.scattering import polarisation, solid_angle

NEAR = 0.025
"""m from the beam, in the geometry as it is: pixels farther out say little about the centre."""

GEOMETRY_OFF = "the geometry is off"
"""How the warning of a job begins."""

_QUADRANTS = 4

_FEWEST_HITS = 50
"""With fewer, nothing is said of the geometry: the powder need not be round."""

_CLEAR = 5.0
"""Standard errors by which a geometry must be off for a warning, besides a pixel."""


@dataclass(frozen=True)
class HitPowder:
    """Sums over the hits of some runs with one geometry, of the pixels near the beam.

    Parameters
    ----------
    geometry : DetectorGeometry
    n_hits : int
    pixels : ndarray, int (pixel,)
        Numbers of the pixels that are nearer to the beam than `NEAR`, ascending.
    photons : ndarray, float64 (pixel,)
        On good pixels.
    good : ndarray, float64 (pixel,)
        In how many hits each pixel was good, 0 where the background is not known.
    background : ndarray, float64 (pixel,)
        Expected photons without particles.
    """

    geometry: DetectorGeometry
    n_hits: int
    pixels: np.ndarray
    photons: np.ndarray
    good: np.ndarray
    background: np.ndarray

    @classmethod
    def of_sums(
        cls,
        geometry: DetectorGeometry,
        n_hits: int,
        photons: np.ndarray,
        good: np.ndarray,
        background: np.ndarray,
    ) -> "HitPowder":
        """Return the powder of one run.

        Parameters
        ----------
        geometry : DetectorGeometry
        n_hits : int
        photons, good : ndarray (…)
            Sums over the hits, and in how many each pixel was good.
        background : ndarray, float (…)
            Expected photons in one hit; NaN where it is not known.
        """
        xyz = geometry.xyz
        near = [np.hypot(xyz[0, m], xyz[1, m]) < NEAR for m in range(xyz.shape[1])]
        pixels = np.flatnonzero(near)
        photons, good, background = (v.reshape(-1)[pixels] for v in (photons, good, background))
        ground = np.asarray(background, np.float64)
        used = good * np.isfinite(ground)
        photons = np.where(used > 0, photons, 0).astype(np.float64)
        return cls(geometry, n_hits, pixels, photons, used, np.nan_to_num(ground) * used)

    def near(self, *, quadrants: bool = False) -> tuple[PowderPixels, np.ndarray]:
        """Return the good pixels, and which these are, int (pixel,)."""
        geometry = self.geometry
        seen = self.good > 0
        near, xyz = self.pixels[seen], geometry.xyz.reshape(3, -1)
        n_parts = _QUADRANTS if quadrants else 1
        per_part = xyz.shape[1] // n_parts
        light = np.ones(len(near))
        if np.isfinite(geometry.distance):
            light = polarisation(xyz[:, near], "x") * self._solid_angles(near)
        size = min(geometry.detector.pixel_size)
        exposure, background = light * self.good[seen], self.background[seen]
        pixels = PowderPixels(
            xyz[:, near],
            near // per_part,
            self.photons[seen],
            exposure,
            background,
            size,
            n_parts,
        )
        return pixels, near

    def _solid_angles(self, pixels: np.ndarray) -> np.ndarray:
        xyz, asic = self.geometry.xyz, self.geometry.detector.asic_shape
        module, pixel = np.divmod(pixels, math.prod(xyz.shape[2:]))
        angles = np.empty(len(pixels))
        for m in np.unique(module):
            own = module == m
            angles[own] = solid_angle(xyz[:, m], asic).reshape(-1)[pixel[own]]
        return angles


def has_signal(pixels: PowderPixels) -> bool:
    """Return whether the pixels have more photons than the background explains."""
    return bool(pixels.photons.sum() > pixels.background.sum() + 100)


def geometry_warning(powder: HitPowder) -> str:
    """Return what to say of a geometry that is off by more than a pixel, or nothing."""
    if powder.n_hits < _FEWEST_HITS:
        return ""
    pixels, _ = powder.near()
    if not has_signal(pixels):
        return ""
    found: Shifts = fit_shifts(pixels)
    (shift,), (error,) = found.shift, found.error
    far = np.abs(shift) > np.maximum(pixels.pixel_size, _CLEAR * error)
    if not (found.converged and far.any()):
        return ""
    x, y = shift / pixels.pixel_size
    return (
        f"{GEOMETRY_OFF}: its powder of hits is round if the detector moves by {x:+.1f} "
        f"pixels in x and {y:+.1f} in y; xfelmpi geometry writes such a geometry"
    )
