"""Mean photons of every hit in rings of |q|: radial profiles. Pure."""

from dataclasses import replace

import numpy as np

from xfelmpi.analysis.polar_bins import HitBinner, make_bins, pixel_step, ring_edges
from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.detectors.scattering import ewald_vectors

_GROWTH = 1 / 60
"""Width of a ring over its radius, where that is more than a pixel: about 200 rings."""


class RadialRings:
    """Sums hits over rings of |q|.

    Parameters
    ----------
    geometry : DetectorGeometry
        With a distance.
    wavelength : float
        In m.
    masks : Masks
    modules_in_run : int
        Bit field.

    Attributes
    ----------
    q : ndarray, float64 (ring,)
        Mean of 4 π sin θ / λ over the pixels of each ring in 1/m, 2 θ being the scattering angle;
        NaN without pixels.
    edges : ndarray, float64 (ring + 1,)
        Of the rings, likewise.
    """

    def __init__(
        self, geometry: DetectorGeometry, wavelength: float, masks: Masks, modules_in_run: int
    ):
        vectors = ewald_vectors(geometry.xyz.reshape(3, -1), 1 / wavelength)
        largest = float(np.sqrt((vectors**2).sum(axis=0).max())) * (1 + 1e-9)
        edges = ring_edges(pixel_step(geometry, wavelength), largest, _GROWTH)
        bins = make_bins(geometry, wavelength, "none", edges, np.ones(len(edges) - 1, np.int64))
        n_pixels = np.bincount(bins.pixel_bin, minlength=bins.n_bins + 1)[:-1].astype(np.float64)
        self.q = 2 * np.pi * np.where(n_pixels > 0, bins.q, np.nan)
        self.edges = 2 * np.pi * edges
        # every pixel counts the same
        bins = replace(bins, exposure=np.ones_like(bins.exposure), total=n_pixels)
        nothing = np.zeros(geometry.xyz[0].shape, np.float32)
        self._binner = HitBinner(bins, nothing, masks, modules_in_run)

    def __call__(self, frames: SparseFrames, cell_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the profiles of some hits.

        Parameters
        ----------
        frames : SparseFrames
        cell_id : ndarray, int (hit,)

        Returns
        -------
        photons : ndarray, float32 (hit, ring)
            Mean over the good pixels of each ring, NaN without any.
        pixels : ndarray, uint32 (hit, ring)
            How many are good.
        """
        binned = self._binner(frames, cell_id, np.zeros(len(frames)))
        mean = np.full(binned.photons.shape, np.nan, np.float32)
        seen = binned.exposure > 0
        np.divide(binned.photons, binned.exposure, out=mean, where=seen, casting="unsafe")
        return mean, binned.exposure.astype(np.uint32)
