"""Simulated runs with known ground truth: European XFEL files, and a truth file beside them.

`options` says what is asked for, `plan` decides what happens in every train, `model` draws the
photons, `constants` says what the pixels are like and `raw` what they make of photons, `exdf` and
`modulefile` write the facility's files, `truth` the answer, and `run` puts it together. Every
random number comes from a generator seeded with (seed, purpose, train, module), so the files are
the same on any number of ranks.
"""

from xfelmpi.simulate.constants import PixelConstants
from xfelmpi.simulate.options import SimulationOptions, parse_cells
from xfelmpi.simulate.run import SimulationResult, simulate

__all__ = ["PixelConstants", "SimulationOptions", "SimulationResult", "parse_cells", "simulate"]
