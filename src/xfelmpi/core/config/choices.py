"""What an option with a fixed set of values may be, where other parts use the same set."""

from xfelmpi.detectors.agipd import ASIC_SIZE

BIN_SIZES = tuple(n for n in range(1, ASIC_SIZE + 1) if ASIC_SIZE % n == 0)
"""``--bin``: bins never reach over the edge of an ASIC."""

POLARISATIONS = ("x", "y", "none")
"""``--polarisation``: direction of the electric field."""

SUSPECT_TRAINS = ("include", "exclude")
"""``--suspect-trains``: what becomes of trains that the files flag as suspect."""
