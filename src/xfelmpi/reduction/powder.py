"""Sums over frames, per pixel; pure, and merged by addition."""

from dataclasses import dataclass

import numpy as np

from xfelmpi._kernels import _masks
from xfelmpi._kernels._packed import add_entries
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.detectors.base import Detector


@dataclass(frozen=True)
class PowderSum:
    """Photons and good frames of every pixel, over a set of frames.

    How often a pixel was good is not counted pixel by pixel: it is the number of frames of every
    mask row, times that row's mask, less the frames in which the pixel itself was bad.

    Parameters
    ----------
    photons : ndarray, uint64 (module, pixel)
        Photons on good pixels.
    invalid : ndarray, uint32 (module, pixel)
        Frames in which a pixel that the masks call good was bad.
    frames : ndarray, int64 (module, row)
        Frames of each module by row of the mask.
    """

    photons: np.ndarray
    invalid: np.ndarray
    frames: np.ndarray

    @classmethod
    def zeros(cls, n_mask_rows: int, detector: Detector | Masks) -> "PowderSum":
        """Return the sum over no frames; masks tell the shape of the detector, too."""
        shape = (detector.n_modules, detector.module_pixels)
        return cls(
            np.zeros(shape, np.uint64),
            np.zeros(shape, np.uint32),
            np.zeros((detector.n_modules, n_mask_rows), np.int64),
        )

    def zeros_like(self) -> "PowderSum":
        """Return the sum over no frames, of the same shapes."""
        return PowderSum(*(np.zeros_like(getattr(self, name)) for name in self.names()))

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the arrays."""
        return list(cls.__dataclass_fields__)

    def add(self, other: "PowderSum") -> None:
        """Add the sum over other frames."""
        for name in self.names():
            getattr(self, name)[...] += getattr(other, name)

    def clear(self) -> None:
        """Forget all frames."""
        for name in self.names():
            getattr(self, name)[...] = 0

    def add_frames(self, module: int, mask_row: np.ndarray) -> None:
        """Count frames of a module, given the mask row of each, int (frame,)."""
        self.frames[module] += np.bincount(mask_row, minlength=self.frames.shape[1])

    def add_sparse(self, sparse, modules: np.ndarray, mask_row: np.ndarray) -> None:
        """Add frames that are already sparse.

        Parameters
        ----------
        sparse : SparseFrames
        modules : ndarray, uint16 (frame,)
            Bit field of the modules that have each frame.
        mask_row : ndarray, int (frame,)
        """
        add_entries(sparse.pixel, sparse.count, self.photons.reshape(-1), self.invalid.reshape(-1))
        for module in range(len(self.frames)):
            self.add_frames(module, mask_row[modules >> module & 1 == 1])


def mask_good_frames(module_bits: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Return in how many frames the masks call every pixel of one module good, uint32 (pixel,).

    Parameters
    ----------
    module_bits : ndarray, uint8 (row, byte)
        Bits of the good pixels of this module.
    frames : ndarray, int64 (row,)
        Frames of every mask row.
    """
    # few pixels are bad
    total = np.full(8 * module_bits.shape[1], frames.sum(), np.uint32)
    _masks.take_off_bad(module_bits.view(np.uint64), frames.astype(np.uint32), total)
    return total
