"""Sums over frames."""

from dataclasses import dataclass

import numpy as np

from xfelmpi.report.assembly import Assembler


@dataclass(frozen=True, eq=False, repr=False)
class Powder:
    """The sum of many frames.

    Parameters
    ----------
    data : ndarray, uint64 (module, ss, fs)
        Photons summed over the frames.
    frames : ndarray, uint32 (module, ss, fs)
        In how many frames a pixel was good.
    title : str
    """

    data: np.ndarray
    frames: np.ndarray
    title: str
    _assembler: Assembler

    @property
    def mask(self) -> np.ndarray:
        """Which pixels were good in some frame, bool (module, ss, fs)."""
        return self.frames > 0

    def image(self) -> np.ndarray:
        """Return mean photons per frame, float32 (module, ss, fs), NaN where never good."""
        mean = np.full(self.data.shape, np.nan, np.float32)
        np.divide(self.data, self.frames, out=mean, where=self.mask, casting="unsafe")
        return mean

    def assembled(self) -> np.ndarray:
        """Return mean photons per frame where the pixels are, float32 (y, x), by EXtra-geom."""
        return self._assembler.image(self.image())

    def plot(self, ax=None):
        """Draw it on a logarithmic scale and return the matplotlib axes."""
        from xfelmpi.api.plots import plot_image

        return plot_image(self.assembled(), self.title, ax)

    def __repr__(self) -> str:
        return f"<{self.title}: {int(self.data.sum()):,} photons>"

    def _repr_html_(self) -> str:
        from xfelmpi.api.html import picture

        return picture(repr(self).strip("<>"), self.assembled())
