"""The LPD-1M of FXE."""

from xfelmpi.detectors.base import XTDF_SOURCE, Detector

LPD_1M = Detector(
    name="LPD-1M",
    module_name="LPD",
    file_name="LPD",
    device=r"[^/]+_LPD1M[^/]*",
    source=XTDF_SOURCE,
    geometry="LPD_1MGeometry",
    n_modules=16,
    module_shape=(256, 256),
    # sensors of 32 × 128 pixels, eight above each other, two side by side
    asic_shape=(32, 128),
    pixel_size=(500e-6, 500e-6),
    max_cells=512,
)
