"""What Dragonfly must know of the detector: where its pixels are in reciprocal space. Pure.

Ayyer et al., J. Appl. Cryst. 49 (2016) 1320; github.com/duaneloh/Dragonfly, "Data stream".
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.core.config.parts import OutputSettings
from xfelmpi.core.errors import InputError
from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.scattering import ewald_vectors, onto_sphere, polarisation, solid_angle
from xfelmpi.output.dragonfly.binning import in_blocks

USE, _BAD = 0, 2
_INSIDE = 1 - 1e-9
"""Dragonfly rounds the largest |q| up to whole voxels."""

_VOLUMES, _VOLUMES_PER_THREAD = 3, 2
"""Arrays of one float64 per voxel: model, new model, weights; each thread has the latter two."""


@dataclass(frozen=True, kw_only=True)
class DragonflyDetector:
    """Dragonfly's detector.

    Parameters
    ----------
    q : ndarray, float64 (3, pixel)
        In voxels, x, y and z.
    corr : ndarray, float64 (pixel,)
        Solid angle in sr × polarisation.
    mask : ndarray, uint8 (pixel,)
        0: use, 2: bad.
    detd : float
        Sample to detector in pixels.
    ewald_rad : float
        Radius of the Ewald sphere in voxels.
    wavelength : float
        In m, NaN if unknown.
    bin : int
        Edge of a pixel here in pixels of the detector.
    polarisation : str
        ``x``, ``y`` or ``none``.
    background : ndarray, float64 (pixel,), or None
        Expected photons without a particle in a hit of weighting 1.
    weighting : ndarray, float64 (hit,), or None
        What scales the background to each hit.
    """

    q: np.ndarray
    corr: np.ndarray
    mask: np.ndarray
    detd: float
    ewald_rad: float
    wavelength: float
    bin: int
    polarisation: str
    background: np.ndarray | None = None
    weighting: np.ndarray | None = None

    @property
    def n_used(self) -> int:
        """Number of pixels that are not masked."""
        return int((self.mask == USE).sum())

    @property
    def voxel(self) -> float:
        """Edge of a voxel in 1/m (no 2π), NaN if the wavelength is unknown."""
        return 1 / (self.wavelength * self.ewald_rad)

    @cached_property
    def volume_edge(self) -> int:
        """Edge of Dragonfly's volume in voxels (``Iterate.calculate_size``)."""
        # in parts, for the sake of memory
        parts = np.array_split(self.q, 16, axis=1)
        return int(2 * np.ceil(max(np.linalg.norm(q, axis=0).max(initial=0) for q in parts)) + 3)

    def memory(self, threads: int) -> int:
        """Return the bytes that the volumes take in Dragonfly with some threads."""
        return 8 * self.volume_edge**3 * (_VOLUMES + _VOLUMES_PER_THREAD * threads)


def usable_pixels(good_frames: np.ndarray, n_frames: int, max_bad: float) -> np.ndarray:
    """Return which pixels are good in enough of the frames, bool (…).

    EMC files have no mask per frame: a pixel that is bad in a frame looks dark there.

    Parameters
    ----------
    good_frames : ndarray, int (…)
        In how many frames each pixel is good.
    n_frames : int
        Number of frames.
    max_bad : float
        Fraction of all frames in which a usable pixel may be bad.
    """
    return n_frames - good_frames.astype(np.int64) <= max_bad * n_frames


def background_of_blocks(background: np.ndarray, usable: np.ndarray | None, n: int) -> np.ndarray:
    """Return the background on the usable pixels of every block, float64 (block,).

    Parameters
    ----------
    background : ndarray, float32 (module, ss, fs)
        NaN where it is not known; that counts as none.
    usable : ndarray, bool (module, ss, fs), or None
        None: all.
    n : int
        Edge of a block in pixels.
    """
    counts = np.isfinite(background) & (True if usable is None else usable)
    # module by module: temporary arrays stay small
    blocks = [
        in_blocks(np.where(counts[m], background[m], 0.0).astype(np.float64), n).sum(axis=(1, 3))
        for m in range(len(background))
    ]
    return np.concatenate([values.reshape(-1) for values in blocks])


def make_detector(
    settings: OutputSettings,
    geometry: DetectorGeometry,
    wavelength: float,
    usable: np.ndarray | None = None,
) -> DragonflyDetector:
    """Work out the detector.

    A pixel is usable or not. A block (``--bin``) has the photons of its usable pixels, so it lies
    at the mean of their positions and has the sum of their solid angles; it is bad if it has none.

    Parameters
    ----------
    settings : OutputSettings
        ``bin``, ``roi_qmax``, ``ewald_rad``, ``polarisation``.
    geometry : DetectorGeometry
    wavelength : float
        In m, NaN if unknown.
    usable : ndarray, bool (module, ss, fs), optional
        Default: all.

    Raises
    ------
    InputError
        If the distance is unknown, or the wavelength and it is needed.
    """
    if np.isnan(geometry.distance):
        raise InputError(
            f"Dragonfly's detector file: the distance is unknown ({geometry.description}); "
            "give --distance or a geometry file with clen"
        )
    n = settings.bin
    # panels may have an offset of their own along the beam
    about = geometry.detector
    detd = float(np.median(geometry.xyz[2])) / (about.pixel_size[0] * n)
    ewald_rad = settings.ewald_rad or detd
    q_max = _in_voxels(settings.roi_qmax, wavelength, ewald_rad)
    if usable is None:
        usable = np.ones(geometry.xyz.shape[1:], bool)
    n_blocks = usable[0].size // n**2
    q = np.empty((3, len(usable) * n_blocks))
    corr, mask = np.empty(q.shape[1]), np.empty(q.shape[1], np.uint8)
    # module by module: the temporary arrays of all pixels would take more memory than the result
    for m in range(len(usable)):
        at = slice(m * n_blocks, (m + 1) * n_blocks)
        xyz, corr[at], good = _module(
            geometry.xyz[:, m], usable[m], n, settings.polarisation, about
        )
        vectors = ewald_vectors(xyz, ewald_rad)
        if q_max is not None:
            beyond = np.linalg.norm(vectors, axis=0) > q_max
            good = good & ~beyond
            # Dragonfly's volume is as large as the largest |q|, also if masked
            vectors[:, beyond] = onto_sphere(vectors[:, beyond], q_max * _INSIDE, ewald_rad)
        q[:, at], mask[at] = vectors, np.where(good, USE, _BAD)
    return DragonflyDetector(
        q=q,
        corr=corr,
        mask=mask,
        detd=detd,
        ewald_rad=ewald_rad,
        wavelength=wavelength,
        bin=n,
        polarisation=settings.polarisation,
    )


def _in_voxels(limit: tuple[float, str] | None, wavelength: float, ewald_rad: float):
    if limit is None:
        return None
    value, unit = limit
    if not unit:
        return value
    if np.isnan(wavelength):
        raise InputError(
            f"--roi-qmax {value:g}{unit}: the run does not tell the wavelength; give "
            "--photon-energy, or the limit in voxels"
        )
    return value * 1e9 * wavelength * ewald_rad


def _module(xyz: np.ndarray, usable: np.ndarray, n: int, direction: str, detector: Detector):
    """Return positions (3, block), corrections (block,) and which are good, of one module."""
    corr = solid_angle(xyz, detector.asic_shape) * polarisation(xyz, direction)
    if n == 1:
        return xyz.reshape(3, -1), corr.reshape(-1), usable.reshape(-1)
    number = in_blocks(usable, n).sum(axis=(1, 3))
    counts = in_blocks(usable, n) | (number == 0)[:, None, :, None]
    corr = (in_blocks(corr, n) * counts).sum(axis=(1, 3))
    xyz = (in_blocks(xyz, n) * counts).sum(axis=(2, 4)) / counts.sum(axis=(1, 3))
    return xyz.reshape(3, -1), corr.reshape(-1), (number > 0).reshape(-1)
