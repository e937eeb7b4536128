"""Pixels in the bins of the sizes of hits, which are not worked out for every job of a process.

With the same geometry and settings they are the same: a tenth of a small job. `make_bins` itself is
called wherever an argument is another one, and by its own tests.
"""

from collections import deque

import numpy as np

from xfelmpi.analysis import size_analysis

_KEPT = 2
"""Results, each with a copy of the geometry: some 40 MB of an AGIPD-1M."""


def keep_bins() -> None:
    """Have the analyses of sizes take the bins of one of the last jobs with the same arguments."""
    make_bins, kept = size_analysis.make_bins, deque(maxlen=_KEPT)

    def bins_of(geometry, wavelength, direction, edges, sectors):
        facts = (geometry.detector, wavelength, direction)
        arrays = (edges, sectors, geometry.xyz)
        for known, same, bins in kept:
            if known == facts and all(map(np.array_equal, same, arrays)):
                return bins
        bins = make_bins(geometry, wavelength, direction, edges, sectors)
        for values in vars(bins).values():
            values.flags.writeable = False
        kept.append((facts, [array.copy() for array in arrays], bins))
        return bins

    size_analysis.make_bins = bins_of
