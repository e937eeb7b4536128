"""Descriptions of detectors of tests, and what EXtra-data has of them."""

from dataclasses import replace

import extra_data.components
import numpy as np

from xfelmpi.detectors.base import Detector
from xfelmpi.detectors.lpd import LPD_1M


def of_extra_data(detector: Detector) -> type:
    """Return EXtra-data's class of a detector, e.g. ``AGIPD500K`` or ``JUNGFRAU``."""
    of_size = detector.name.replace("-", "")
    of_kind = detector.name.partition("-")[0]
    return getattr(extra_data.components, of_size, None) or getattr(extra_data.components, of_kind)


WIDE = replace(
    LPD_1M, name="LPD-1M with wide pixels", pixel_area=np.outer(np.ones(256), 1 + np.arange(256.0))
)
"""One whose pixels have different areas."""

MINI = Detector(
    name="MINI",
    module_name="MINI",
    file_name="MINI",
    device="LAB_DET_MINI",
    source=r"/DET/(\d+)CH0:xtdf",
    n_modules=3,
    first_module=1,
    module_shape=(16, 64),
    asic_shape=(8, 32),
    pixel_size=(100e-6, 50e-6),
    max_cells=1200,
)
"""Small, so that tests are short; nothing of it is as AGIPD has it."""
