"""The DSSC-1M of SQS and SCS."""

import math

from xfelmpi.detectors.base import XTDF_SOURCE, Detector

_PITCH = 236e-6
"""From pixel to pixel of a row in m; every other row is shifted by half of it."""

DSSC_1M = Detector(
    name="DSSC-1M",
    module_name="DSSC",
    file_name="DSSC",
    device=r"[^/]+_DSSC1M[^/]*",
    source=XTDF_SOURCE,
    geometry="DSSC_1MGeometry",
    n_modules=16,
    module_shape=(128, 512),
    asic_shape=(64, 64),
    # two sensors side by side
    tile_shape=(128, 256),
    # hexagons, whose area is the product of the two steps
    pixel_size=(_PITCH * math.sqrt(3) / 2, _PITCH),
    max_cells=800,
)
"""Regular hexagons (Porro et al., IEEE Trans. Nucl. Sci. 68 (2021) 1334; EXtra-geom's
``DSSC_1MGeometry``)."""
