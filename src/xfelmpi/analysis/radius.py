"""How far from the beam the photons of a hit are, in the mean."""

import numpy as np

from xfelmpi.analysis.hit_analysis import AnalysisColumn, HitAnalysis
from xfelmpi.calibration.geometry import DetectorGeometry
from xfelmpi.core.sparse_frames import SparseFrames


class PhotonRadius(HitAnalysis):
    """Mean distance of the photons from the beam, across it; small for large particles."""

    columns = (AnalysisColumn("photon_radius", "m"),)

    def __init__(self, geometry: DetectorGeometry):
        x, y, _ = geometry.xyz.reshape(3, -1)
        self._radius = np.hypot(x, y)

    def process(self, hits: SparseFrames) -> list[np.ndarray]:
        """Return the mean radius of each hit; NaN without photons."""
        frame = np.repeat(np.arange(len(hits)), np.diff(hits.indptr))
        count = hits.count.astype(np.float64)
        total = np.bincount(frame, count * self._radius[hits.pixel], len(hits))
        photons = np.bincount(frame, count, len(hits))
        return [np.divide(total, photons, out=np.full(len(hits), np.nan), where=photons > 0)]
