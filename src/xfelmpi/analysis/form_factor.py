"""How spheres and spheroids of uniform density scatter. Pure."""

import numpy as np

ELECTRON_RADIUS = 2.8179403205e-15
"""Classical electron radius in m (CODATA 2022)."""

_SMALL = 0.3
"""Below, the difference in the formula cancels; the series is exact to 1e-9 there."""


def sphere_amplitude(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the amplitude of a sphere and its derivative, float64 (…) each.

    g(H) = 3 (sin H − H cos H) / H³, 1 at H = 0, where H = π d q of a sphere of diameter d, with q
    in 1/m (no 2π), or H = 2π √(a² qₓ² + c² q_y²) of a spheroid (Guinier & Fournet, Small-Angle
    Scattering of X-rays (1955), ch. 2; Hantke et al., Nat. Photon. 8 (2014) 943). The derivative
    is 3 sin H / H² − 3 g / H.

    Parameters
    ----------
    h : ndarray, float64 (…)
        H, 0 or more.
    """
    x = np.maximum(h, _SMALL)
    sine = np.sin(x)
    value = 3 * (sine - x * np.cos(x)) / x**3
    slope = 3 * (sine / x - value) / x
    small = h < _SMALL
    if small.any():
        x = h[small]
        square = x * x
        value[small] = 1 - square / 10 * (1 - square / 28 * (1 - square / 54 * (1 - square / 88)))
        slope[small] = -x / 5 * (1 - square / 14 * (1 - square / 36 * (1 - square / 66)))
    return value, slope


def forward_scattering(density: float) -> float:
    """Return what a fluence is multiplied by, besides V² and the solid angle, in 1/m⁴.

    Photons = fluence · r_e² · ρ² · V² · g² · solid angle · polarisation.

    Parameters
    ----------
    density : float
        Electrons per m³.
    """
    return (ELECTRON_RADIUS * density) ** 2
