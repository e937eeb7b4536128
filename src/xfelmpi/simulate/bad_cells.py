"""Hot, dead and flickering pixels of corrected data: they change the photons that are drawn."""

import numpy as np

from xfelmpi.simulate.constants import DEAD, HOT, NOISY, PixelConstants
from xfelmpi.simulate.model import ModulePhotons, pixel_dtype
from xfelmpi.simulate.options import SimulationOptions
from xfelmpi.simulate.plan import TrainPlan

HOT_PHOTONS = (1.0, 20.0)
"""Smallest and largest mean number of false photons of a hot pixel in a frame; log-uniform."""

FLICKER = 0.2
FLICKER_PHOTONS = 20
"""Noisy pixels give 1 to so many false photons in this fraction of the frames, else none."""

_BAD_CELLS = 5
"""Second number of the generators' seeds; other modules use others."""


class BadCells:
    """What bad pixels do to the photons of one module. Which are bad: `PixelConstants.bad_kind`.

    Parameters
    ----------
    options : SimulationOptions
        For seed, fraction of bad pixels and largest count.
    module : int
        Module number.
    """

    def __init__(self, options: SimulationOptions, module: int):
        self._options = options
        self._module = module
        self._n_pixels = options.detector_type.module_pixels
        pixels = PixelConstants(options, module)
        self._kinds = {cell: pixels.bad_kind(cell) for cell in options.cells}
        rng = np.random.default_rng([options.seed, _BAD_CELLS, module])
        self._hot = np.exp(rng.uniform(*np.log(HOT_PHOTONS), self._n_pixels))

    def spoil(self, plan: TrainPlan, photons: ModulePhotons) -> ModulePhotons:
        """Return the photons of a train as the bad pixels show them."""
        seed = [self._options.seed, _BAD_CELLS, self._module, plan.position + 1]
        rng = np.random.default_rng(seed)
        pixels, counts = [], []
        for frame, cell in enumerate(plan.cells.tolist()):
            entries = slice(*photons.indptr[frame : frame + 2])
            image = np.zeros(self._n_pixels, np.int64)
            image[photons.pixel[entries]] = photons.count[entries]
            self._spoil(image, self._kinds[cell], rng)
            lit = np.flatnonzero(image)
            pixels.append(lit.astype(pixel_dtype(self._n_pixels)))
            counts.append(np.minimum(image[lit], self._options.max_count).astype(np.uint16))
        return ModulePhotons(
            np.cumsum([0, *(len(lit) for lit in pixels)]),
            np.concatenate(pixels),
            np.concatenate(counts),
        )

    def _spoil(self, image: np.ndarray, kinds: np.ndarray, rng) -> None:
        hot, noisy = np.flatnonzero(kinds == HOT), np.flatnonzero(kinds == NOISY)
        image[kinds == DEAD] = 0
        image[hot] += rng.poisson(self._hot[hot])
        flickers = noisy[rng.random(len(noisy)) < FLICKER]
        image[flickers] += rng.integers(1, FLICKER_PHOTONS + 1, len(flickers))
