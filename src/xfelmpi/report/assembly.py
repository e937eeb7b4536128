"""Detector images laid out by EXtra-geom, quickly for many of the same geometry."""

from functools import cached_property

import numpy as np

from xfelmpi.calibration.geometry import first_pixels
from xfelmpi.detectors.base import Detector


class Assembler:
    """Lays detector data out in two dimensions, as EXtra-geom's ``position_modules`` does.

    Parameters
    ----------
    xyz : ndarray, float64 (3, module, ss, fs)
        Centres of the pixels in m.
    detector : Detector
    """

    def __init__(self, xyz: np.ndarray, detector: Detector):
        self._xyz = np.nan_to_num(xyz)
        self._detector = detector
        self._templates: dict[int, np.ndarray] = {}

    @cached_property
    def geometry(self):
        """EXtra-geom's object for the positions in the file; it also draws and interpolates."""
        import extra_geom

        of_detector = getattr(extra_geom, self._detector.geometry)
        first = first_pixels(self._detector).tolist()
        places = [divmod(number, self._detector.module_shape[1]) for number in first]
        return of_detector(
            [
                [self._tile(module, *place) for place in places]
                for module in range(self._detector.n_modules)
            ]
        )

    def _tile(self, module: int, ss: int, fs: int):
        """Return EXtra-geom's tile whose first pixel is (ss, fs) of a module."""
        from extra_geom.base import GeometryFragment

        n_ss, n_fs = self._detector.tile_shape
        centres = self._xyz[:, module, ss : ss + n_ss, fs : fs + n_fs]
        # of a honeycomb, every other row is shifted
        last = (n_ss - 1) // 2 * 2
        along_ss = (centres[:, last, 0] - centres[:, 0, 0]) / last
        along_fs = (centres[:, 0, -1] - centres[:, 0, 0]) / (n_fs - 1)
        corner = centres[:, 0, 0] - (along_ss + along_fs) / 2
        return GeometryFragment(corner, along_ss, along_fs, n_ss, n_fs)

    @cached_property
    def _layout(self) -> tuple[np.ndarray, tuple[float, float]]:
        """Which pixel stands at every point of the image, int64 (y, x), -1: none; and the beam."""
        frame = (self._detector.n_modules, *self._detector.module_shape)
        numbers = np.arange(np.prod(frame), dtype=np.float64).reshape(frame)
        image, beam = self.geometry.position_modules(numbers)
        return np.where(np.isnan(image), -1, np.nan_to_num(image)).astype(np.int64), beam

    @property
    def _source(self) -> np.ndarray:
        return self._layout[0]

    @property
    def beam(self) -> tuple[float, float]:
        """Where the beam goes through the images, (y, x) in points."""
        return self._layout[1]

    @cached_property
    def target(self) -> np.ndarray:
        """Index of every pixel in the flat image, int64 (pixel,); past its end: nowhere."""
        source = self._source.reshape(-1)
        target = np.full(self._detector.frame_pixels, source.size, np.int64)
        there = np.flatnonzero(source >= 0)
        target[source[there]] = there
        return target

    @property
    def shape(self) -> tuple[int, int]:
        """Of the images, (y, x)."""
        return self._source.shape

    def image(self, values: np.ndarray) -> np.ndarray:
        """Lay values out, NaN where there is no pixel; float32 (y, x).

        Parameters
        ----------
        values : ndarray (module, ss, fs)
        """
        flat = np.append(np.asarray(values, np.float32).reshape(-1), np.float32(np.nan))
        return flat[self._source]

    def photons(self, photons: np.ndarray, good: np.ndarray, mask_number: int) -> np.ndarray:
        """Lay the photons of a hit out, NaN where there is no good pixel; float32 (y, x).

        Parameters
        ----------
        photons : ndarray, uint8 or uint16 (module, ss, fs)
        good : ndarray, bool (module, ss, fs)
        mask_number : int
            Hits with the same number have the same good pixels.
        """
        if mask_number not in self._templates:
            zeros = np.where(good, np.float32(0), np.float32(np.nan))
            # one point more, for pixels that stand nowhere
            self._templates[mask_number] = np.append(self.image(zeros), np.float32(np.nan))
            while len(self._templates) > _MOST_TEMPLATES:
                del self._templates[next(iter(self._templates))]
        image = self._templates[mask_number].copy()
        pixel = lit_pixels(photons)
        at = self.target[pixel]
        # a bad pixel stays NaN, whatever its counts
        image[at] += photons.reshape(-1)[pixel]
        return image[:-1].reshape(self.shape)


_MOST_TEMPLATES = 16
"""Masks of which an empty image is kept, 5 MB each."""


def lit_pixels(photons: np.ndarray) -> np.ndarray:
    """Return the numbers of the pixels with photons, int64 (pixel,), ascending."""
    flat = np.ascontiguousarray(photons).reshape(-1)
    per_word = 8 // flat.itemsize
    if flat.size % per_word:
        return np.flatnonzero(flat)
    # most words of 8 bytes are dark
    words = np.flatnonzero(flat.view(np.uint64))
    some = (words[:, None] * per_word + np.arange(per_word)).reshape(-1)
    return some[flat[some] > 0]
