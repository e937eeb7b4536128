"""How far from the beam the photons of a hit are, in the mean."""

import numpy as np

from xfelmpi.analysis.hit_analysis import AnalysedHits, AnalysedRun, AnalysisColumn, HitAnalysis


class PhotonRadius(HitAnalysis):
    """Mean distance of the photons from the beam, across it; small for large particles."""

    columns = (AnalysisColumn("photon_radius", "m"),)

    def __init__(self, run: AnalysedRun):
        x, y, _ = run.geometry.xyz.reshape(3, -1)
        self._radius = np.hypot(x, y)

    def process(self, hits: AnalysedHits) -> list[np.ndarray]:
        """Return the mean radius of each hit; NaN without photons."""
        frames, frame = hits.frames, hits.frames.frame_of_entry
        count = frames.count.astype(np.float64)
        total = np.bincount(frame, count * self._radius[frames.pixel], len(frames))
        photons = np.bincount(frame, count, len(frames))
        return [np.divide(total, photons, out=np.full(len(frames), np.nan), where=photons > 0)]
