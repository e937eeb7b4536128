"""Descriptions of detectors of tests, and what EXtra-data has of them."""

import extra_data.components
import numpy as np

from xfelmpi.detectors.base import Detector, FrameDatasets

DSSC_PITCH = (204e-6, 236e-6)
"""Steps of a honeycomb: (ss, fs) in m."""


def of_extra_data(detector: Detector) -> type:
    """Return EXtra-data's class of a detector, e.g. ``AGIPD500K`` or ``JUNGFRAU``."""
    of_size = detector.name.replace("-", "")
    of_kind = detector.name.partition("-")[0]
    return getattr(extra_data.components, of_size, None) or getattr(extra_data.components, of_kind)


def lpd_area() -> np.ndarray:
    """Pixels of 500 µm whose tiles of 32 × 128 have wider ones at two edges."""
    width = np.full(256, 500e-6)
    width[[127, 128]] *= 1.5
    return np.full((256, 1), 500e-6) * width


OTHERS = {
    "AGIPD500K2G": Detector(
        name="AGIPD500K2G",
        module_name="AGIPD",
        file_name="AGIPD",
        device="HED_DET_AGIPD500K2G",
        source=r"/DET/(\d+)CH0:xtdf",
        n_modules=8,
        module_shape=(512, 128),
        asic_shape=(64, 64),
        pixel_size=(200e-6, 200e-6),
        max_cells=352,
        raw_planes=2,
    ),
    "DSSC-1M": Detector(
        name="DSSC-1M",
        module_name="DSSC",
        file_name="DSSC",
        device="SCS_DET_DSSC1M-1",
        source=r"/DET/(\d+)CH0:xtdf",
        n_modules=16,
        module_shape=(128, 512),
        asic_shape=(64, 64),
        pixel_size=DSSC_PITCH,
        max_cells=800,
    ),
    "LPD-1M": Detector(
        name="LPD-1M",
        module_name="LPD",
        file_name="LPD",
        device="FXE_DET_LPD1M-1",
        source=r"/DET/(\d+)CH0:xtdf",
        n_modules=16,
        module_shape=(256, 256),
        asic_shape=(32, 128),
        uniform_tiles=False,
        pixel_size=(500e-6, 500e-6),
        pixel_area=lpd_area(),
        max_cells=512,
    ),
    "JUNGFRAU-4M": Detector(
        name="JUNGFRAU-4M",
        module_name="JNGFR",
        file_name="JNGFR",
        device="SPB_IRDA_JF4M",
        source=r"/DET/JNGFR(\d+):daqOutput",
        n_modules=8,
        first_module=1,
        module_shape=(512, 1024),
        asic_shape=(256, 256),
        uniform_tiles=False,
        pixel_size=(75e-6, 75e-6),
        max_cells=16,
        datasets=FrameDatasets("data/adc", "data/mask", "data/memoryCell", "data/trainId", None),
    ),
}


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
