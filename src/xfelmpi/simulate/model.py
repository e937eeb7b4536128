"""The photons: a background that falls off with the radius, and particles in the beam.

Background and spheres depend only on the length of the momentum transfer q, so everything is
tabulated over rings of equal q; a photon is first given a ring, then a pixel of that ring.
"""

from dataclasses import dataclass

import numpy as np

from xfelmpi.simulate.cluster import Cluster, rotation
from xfelmpi.simulate.options import SimulationOptions
from xfelmpi.simulate.particles import OTHERS, SINGLE, sphere_amplitude, spheroid
from xfelmpi.simulate.plan import TrainPlan

N_RINGS = 4096
TABLE_BITS = 20
"""The background of a module is drawn from a table of 2**20 pixel numbers: 16 entries a pixel."""

BACKGROUND_RADIUS = 0.06
"""Radius in m at which the falling part of the background is down to 1/e."""

HC_KEV_NM = 1.2398419843320026
"""Planck constant × speed of light (exact in the SI since 2019) in keV nm."""

_DRAW, _NOISE = 1, 2


def wavelength_nm(options: SimulationOptions) -> np.float32:
    """Return the photon wavelength in nm as the gas monitor's file holds it."""
    return np.float32(HC_KEV_NM / options.photon_energy_kev)


def pixel_dtype(n_pixels: int) -> np.dtype:
    """Return the dtype of numbers of a module's pixels."""
    return np.min_scalar_type(max(n_pixels - 1, 256))


@dataclass(frozen=True)
class Scene:
    """The detector as seen from the sample.

    Parameters
    ----------
    ring : ndarray, uint16 (module, pixel)
        Ring of every pixel.
    ring_q : ndarray, float64 (ring,)
        Momentum transfer of the rings in 1/m.
    ring_solid_angle : ndarray, float64 (ring,)
        Solid angle of one pixel of the ring in sr.
    ring_pixels : ndarray, int64 (ring,)
        Pixels of the whole detector in the ring.
    ring_background : ndarray, float64 (ring,)
        Background of a pixel of the ring, relative to the mean pixel.
    q : ndarray, float64 (3, module, pixel) or None
        Momentum transfer of every pixel in 1/m; None if that of its ring is enough.
    """

    ring: np.ndarray
    ring_q: np.ndarray
    ring_solid_angle: np.ndarray
    ring_pixels: np.ndarray
    ring_background: np.ndarray
    q: np.ndarray | None = None


def make_scene(positions: np.ndarray, options: SimulationOptions) -> Scene:
    """Work out the scene from where the pixels are.

    Parameters
    ----------
    positions : ndarray, float64 (module, ss, fs, xyz)
        Pixel centres in m, the beam at x = y = 0.
    options : SimulationOptions
        For distance and photon energy.
    """
    radius = np.hypot(positions[..., 0], positions[..., 1]).reshape(len(positions), -1)
    width = radius.max() * (1 + 1e-9) / N_RINGS
    ring = (radius / width).astype(np.uint16)
    ring_radius = (np.arange(N_RINGS) + 0.5) * width
    two_theta = np.arctan2(ring_radius, options.distance)
    pixels = np.bincount(ring.reshape(-1), minlength=N_RINGS)
    background = 0.6 + np.exp(-ring_radius / BACKGROUND_RADIUS)
    return Scene(
        ring=ring,
        ring_q=4 * np.pi / (float(wavelength_nm(options)) * 1e-9) * np.sin(two_theta / 2),
        ring_solid_angle=options.detector_type.pixel_area
        * np.cos(two_theta) ** 3
        / options.distance**2,
        ring_pixels=pixels,
        ring_background=background / np.average(background, weights=pixels),
        q=_pixel_q(positions, options) if options.needs_vectors else None,
    )


def _pixel_q(positions: np.ndarray, options: SimulationOptions) -> np.ndarray:
    x, y = np.moveaxis(positions[..., :2], -1, 0).reshape(2, len(positions), -1)
    length = np.sqrt(x**2 + y**2 + options.distance**2)
    wave_number = 2 * np.pi / (float(wavelength_nm(options)) * 1e-9)
    return wave_number * np.stack([x / length, y / length, options.distance / length - 1])


def sphere_intensity(q: np.ndarray, radius: float) -> np.ndarray:
    """Return the diffraction of a homogeneous sphere, relative to forward scattering.

    Parameters
    ----------
    q : ndarray, float64
        Momentum transfer in 1/m.
    radius : float
        Radius of the sphere in m.

    Returns
    -------
    ndarray, float64
        [3 (sin x − x cos x) / x³]² with x = q × radius; Lord Rayleigh, Proc. R. Soc. A 84
        (1910) 25; Guinier & Fournet, Small-Angle Scattering of X-rays (1955), ch. 2.
    """
    return sphere_amplitude(np.asarray(q) * radius) ** 2


def ring_photons(scene: Scene, diameter: float, photons: float) -> np.ndarray:
    """Return the mean photons of a particle in one pixel of every ring, float64 (ring,)."""
    profile = sphere_intensity(scene.ring_q, diameter / 2) * scene.ring_solid_angle
    return profile * (photons / (profile @ scene.ring_pixels))


DENSITY = 430e27
"""Electrons per m³ of the particles: protein."""

_ELECTRON_RADIUS = 2.8179403205e-15


def fluence(scene: Scene, diameter: float, photons: float) -> float:
    """Return the light on a sphere that scatters so many photons onto the detector, photons/m².

    Photons = fluence · r_e² · ρ² · V² · Σ intensity · solid angle.
    """
    volume = np.pi / 6 * diameter**3
    profile = sphere_intensity(scene.ring_q, diameter / 2) * scene.ring_solid_angle
    forward = (_ELECTRON_RADIUS * DENSITY * volume) ** 2
    return photons / (forward * (profile @ scene.ring_pixels))


@dataclass(frozen=True)
class ModulePhotons:
    """The photons of one module in one train, sparse, frames in ascending order of cells.

    Parameters
    ----------
    indptr : ndarray, int64 (frame + 1,)
        Frame i has the entries ``indptr[i]:indptr[i + 1]``.
    pixel : ndarray, uint16 or uint32 (entry,)
        Pixel number in the module, ``ss * n_fs + fs``, ascending within a frame.
    count : ndarray, uint16 (entry,)
        Photons in the pixel, at least 1.
    switched : ndarray, uint32 (frame, 2) or None
        Good pixels in medium and in low gain; only known of raw frames.
    masked : ndarray, bool (entry,) or None
        Whether the mask of the frame calls the pixel bad; None if there are no masks.
    """

    indptr: np.ndarray
    pixel: np.ndarray
    count: np.ndarray
    switched: np.ndarray | None = None
    masked: np.ndarray | None = None


class ModuleModel:
    """Draws the photons of one module.

    Parameters
    ----------
    scene : Scene
        The detector.
    options : SimulationOptions
        For seed and largest count.
    module : int
        Module number.
    """

    def __init__(self, scene: Scene, options: SimulationOptions, module: int):
        self._scene = scene
        self._options = options
        self._module = module
        self._n_pixels = options.detector_type.module_pixels
        self._number = pixel_dtype(self._n_pixels)
        ring = scene.ring[module]
        background = scene.ring_background[ring]
        self._share = background.mean()
        ends = np.rint(np.cumsum(background) / background.sum() * 2**TABLE_BITS).astype(np.int64)
        self._table = np.repeat(
            np.arange(self._n_pixels, dtype=self._number), np.diff(ends, prepend=0)
        )
        self._by_ring = np.argsort(ring, kind="stable")
        self._ring_pixels = np.bincount(ring, minlength=N_RINGS)
        self._ring_start = np.cumsum(self._ring_pixels) - self._ring_pixels

    def draw(self, plan: TrainPlan) -> ModulePhotons:
        """Draw all photons of a train; counts are cut at what the data type holds."""
        rng = self._generator(_DRAW, plan)
        totals = rng.poisson(plan.background * self._share)
        entries = rng.integers(0, 2**TABLE_BITS, int(totals.sum()), np.uint32)
        keys = np.repeat(np.arange(len(plan)) * self._n_pixels, totals) + self._table[entries]
        hits = np.flatnonzero(plan.is_particle)
        keys = np.concatenate([keys, *(self._particle(rng, plan, hit) for hit in hits)])
        keys.sort()
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        count = np.minimum(np.diff(starts, append=len(keys)), self._options.max_count)
        keys = keys[starts]
        return ModulePhotons(
            indptr=np.searchsorted(keys, np.arange(len(plan) + 1) * self._n_pixels),
            pixel=(keys % self._n_pixels).astype(self._number),
            count=count.astype(np.uint16),
        )

    def _particle(self, rng, plan: TrainPlan, frame: int) -> np.ndarray:
        kind, particle = plan.kind[frame], self._options.particle
        if kind == SINGLE and particle == "sphere":
            return self._sphere(rng, plan, frame)
        if kind == SINGLE and particle == "cluster":
            return self._cluster(rng, plan, frame)
        q, diameter = self._scene.q[:, self._module], plan.diameter[frame]
        if kind == SINGLE:
            intensity = spheroid(q, plan.semi_axes(frame), plan.axis(frame))
        else:
            intensity = OTHERS[int(kind)](q, diameter, plan.place[frame])
        ring, scene = self._scene.ring[self._module], self._scene
        # the same light as on a sphere of the same volume
        whole = sphere_intensity(scene.ring_q, diameter / 2) * scene.ring_solid_angle
        scale = plan.particle_photons[frame] / (whole @ scene.ring_pixels)
        photons = rng.poisson(intensity * scene.ring_solid_angle[ring] * scale)
        return frame * self._n_pixels + np.repeat(np.arange(self._n_pixels), photons)

    def _sphere(self, rng, plan: TrainPlan, frame: int) -> np.ndarray:
        """Return frame × pixels + pixel of every photon of a frame's particle, int64."""
        mean = ring_photons(self._scene, plan.diameter[frame], plan.particle_photons[frame])
        ends = np.cumsum(mean * self._ring_pixels)
        n = rng.poisson(ends[-1])
        ring = np.searchsorted(ends, rng.random(n) * ends[-1], side="right")
        # rounding must not pick the empty rings behind the last one
        ring = np.minimum(ring, np.searchsorted(ends, ends[-1]))
        nth = (rng.random(n) * self._ring_pixels[ring]).astype(np.int64)
        return frame * self._n_pixels + self._by_ring[self._ring_start[ring] + nth]

    def _cluster(self, rng, plan: TrainPlan, frame: int) -> np.ndarray:
        """Return the same of a particle that is no sphere."""
        scene = self._scene
        cluster = Cluster(plan.diameter[frame])
        q, ring = scene.q[:, self._module], scene.ring[self._module]
        amplitudes = cluster.amplitudes(scene.ring_q)
        turn = rotation(plan.orientation[frame])
        mean = cluster.intensity(q, amplitudes[:, ring], turn) * scene.ring_solid_angle[ring]
        # the same light on the particle, whatever its orientation
        whole = cluster.mean_intensity(scene.ring_q) * scene.ring_solid_angle @ scene.ring_pixels
        photons = rng.poisson(mean * (plan.particle_photons[frame] / whole))
        return frame * self._n_pixels + np.repeat(np.arange(self._n_pixels), photons)

    def noise(self, plan: TrainPlan):
        """Yield the noise of one frame after the other as filed, float32 (pixel,) photons."""
        rng = self._generator(_NOISE, plan)
        limit = np.float32(self._options.clip_noise or np.inf)
        for _ in range(len(plan)):
            noise = rng.standard_normal(self._n_pixels, np.float32)
            noise *= np.float32(self._options.noise)
            yield np.clip(noise, -limit, limit, out=noise)

    def _generator(self, purpose: int, plan: TrainPlan):
        return np.random.default_rng([self._options.seed, purpose, plan.position, self._module])
