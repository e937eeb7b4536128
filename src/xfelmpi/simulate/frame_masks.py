"""Masks of corrected frames, as the facility's correction writes them: a reason in bits, or 0."""

import numpy as np

from xfelmpi.detectors.bad_pixels import BAD_PIXELS, USUAL_MASK_BITS
from xfelmpi.simulate.options import SimulationOptions
from xfelmpi.simulate.plan import TrainPlan

_BITS = np.array([bit for bit in BAD_PIXELS.values() if bit & USUAL_MASK_BITS], np.uint32)

_ALWAYS, _AT_TIMES = 20, 21
"""First numbers after the seed of the generators; other modules use others."""


class FrameMasks:
    """The masks of one module: some pixels of every cell are always bad, others in one frame only.

    Parameters
    ----------
    options : SimulationOptions
        ``masked_pixels``, ``masked_at_times`` and the seed.
    module : int
    """

    def __init__(self, options: SimulationOptions, module: int):
        self._options = options
        self._module = module
        self._n_pixels = options.detector_type.module_pixels
        self._always: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def fill(self, plan: TrainPlan, frame: int, mask: np.ndarray) -> None:
        """Write the mask of a frame, given by its number in the plan, into uint32 (pixel,)."""
        cell = int(plan.cells[frame])
        if cell not in self._always:
            rng = self._generator(_ALWAYS, cell)
            pixels = np.flatnonzero(rng.random(self._n_pixels) < self._options.masked_pixels)
            self._always[cell] = pixels, _reasons(rng, len(pixels))
        pixels, reasons = self._always[cell]
        mask.fill(0)
        mask[pixels] = reasons
        rng = self._generator(_AT_TIMES, plan.position, cell)
        pixels = rng.integers(0, self._n_pixels, rng.poisson(self._options.masked_at_times))
        mask[pixels] |= _reasons(rng, len(pixels))

    def _generator(self, *numbers):
        return np.random.default_rng([self._options.seed, numbers[0], self._module, *numbers[1:]])


def _reasons(rng, n: int) -> np.ndarray:
    # one or two bits each
    bits = _BITS[rng.integers(0, len(_BITS), (2, n))]
    return bits[0] | bits[1]
