"""Where a pixel lies on the Ewald sphere, and how much of the scattered light it takes. Pure.

Coordinates are those of `geometry`: the sample at the origin, z along the beam, x horizontal.
"""

import numpy as np


def ewald_vectors(xyz: np.ndarray, radius: float) -> np.ndarray:
    """Return the scattering vectors of pixels, float64 (3, …), in the unit of `radius`.

    q = R (r / |r| − e_z), with R the radius of the Ewald sphere, 1 / wavelength in 1/m: elastic
    scattering, no 2π, so that |q| = 2 R sin θ (Loh & Elser, Phys. Rev. E 80 (2009) 026705, sec. II;
    Dragonfly, ``Detector.calc_from_coords``, has the same sign of q_z).

    Parameters
    ----------
    xyz : ndarray, float64 (3, …)
        Positions in m.
    radius : float
    """
    q = xyz * (radius / np.linalg.norm(xyz, axis=0))
    q[2] -= radius
    return q


def onto_sphere(q: np.ndarray, length: float, radius: float) -> np.ndarray:
    """Return the points of the Ewald sphere at |q| = `length` with the azimuths of `q` (3, …).

    There, q_z = −|q|² / 2 R, from |q + R e_z| = R.
    """
    across = np.hypot(q[0], q[1])
    z = -(length**2) / (2 * radius)
    scale = np.sqrt(length**2 - z**2) / across
    return np.stack([q[0] * scale, q[1] * scale, np.full_like(across, z)])


def solid_angle(xyz: np.ndarray, asic_shape: tuple[int, int]) -> np.ndarray:
    """Return the solid angles of the pixels of one module, float64 (ss, fs), in sr.

    |r · (a × b)| / |r|³ of a pixel with the edges a and b, which are small against |r|: its area
    seen from the sample, over the square of its distance. With the detector at right angles to the
    beam, A cos³(2θ) / d² (Bösecke & Diat, J. Appl. Cryst. 30 (1997) 867; Dragonfly has the same).
    The edges are those of the ASIC, so that every panel may be tilted in its own way.

    Parameters
    ----------
    xyz : ndarray, float64 (3, ss, fs)
        Centres of the pixels in m.
    asic_shape : (int, int)
        Pixels of an ASIC, (ss, fs), all at equal steps.
    """
    n_ss, n_fs = asic_shape
    asics = xyz.reshape(3, xyz.shape[1] // n_ss, n_ss, xyz.shape[2] // n_fs, n_fs)
    first = asics[:, :, 0, :, 0]
    along_ss = (asics[:, :, -1, :, 0] - first) / (n_ss - 1)
    along_fs = (asics[:, :, 0, :, -1] - first) / (n_fs - 1)
    normal = np.cross(along_ss, along_fs, axis=0)[:, :, None, :, None]
    area = np.abs((asics * normal).sum(axis=0))
    return (area / np.linalg.norm(asics, axis=0) ** 3).reshape(xyz.shape[1:])


def polarisation(xyz: np.ndarray, direction: str) -> np.ndarray:
    """Return the polarisation factor of pixels, float64 (…).

    1 − (e · r / |r|)² for light that is linearly polarised along e: an electron does not radiate
    along its own motion (Kahn et al., J. Appl. Cryst. 15 (1982) 330). Without polarisation, the
    mean of both directions, (1 + cos² 2θ) / 2.

    Parameters
    ----------
    xyz : ndarray, float64 (3, …)
        Positions in m.
    direction : str
        ``x``, ``y`` or ``none``.
    """
    share_x, share_y = (xyz[:2] / np.linalg.norm(xyz, axis=0)) ** 2
    if direction == "none":
        return 1 - (share_x + share_y) / 2
    return 1 - (share_x if direction == "x" else share_y)
