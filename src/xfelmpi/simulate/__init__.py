"""Runs with a known answer: European XFEL files, and a truth file beside them.

`options` says what is asked for, `plan` decides what happens in every train, `model` draws the
photons, `exdf` writes the facility's files, `truth` the answer, and `run` puts it together. Every
random number comes from a generator seeded with (seed, purpose, train, module), so the files are
the same on any number of ranks.
"""

from xfelmpi.simulate.options import SimulationOptions, parse_cells
from xfelmpi.simulate.run import SimulationResult, simulate

__all__ = ["SimulationOptions", "SimulationResult", "parse_cells", "simulate"]
