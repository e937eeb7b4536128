"""What an option with a fixed set of values may be, where other parts use the same set."""

import math

from xfelmpi.detectors.agipd import AGIPD_1M

_EDGE = math.gcd(*AGIPD_1M.asic_shape)
BIN_SIZES = tuple(n for n in range(1, _EDGE + 1) if _EDGE % n == 0)
"""``--bin``: bins never reach over the edge of an ASIC."""

POLARISATIONS = ("x", "y", "none")
"""``--polarisation``: direction of the electric field."""

SUSPECT_TRAINS = ("include", "exclude")
"""``--suspect-trains``: what becomes of trains that the files flag as suspect."""
