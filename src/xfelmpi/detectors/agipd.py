"""The AGIPD-1M of SPB/SFX and MID, and the AGIPD-500K of HED.

Axis order everywhere: (module, ss, fs), slow scan before fast scan. A *pixel number* is
``(module * 512 + ss) * 128 + fs``, the numbering that Dragonfly's EMC files use.
"""

from dataclasses import replace

from xfelmpi.detectors.base import XTDF_SOURCE, Detector, DetectorControl, DetectorMotors

N_MODULES = 16
MODULE_SHAPE = (512, 128)
MODULE_PIXELS = MODULE_SHAPE[0] * MODULE_SHAPE[1]
ASIC_SIZE = 64
"""Edge of an ASIC in pixels; a module has 8 × 2 of them."""

MAX_CELLS = 352
"""Analogue memory cells of every pixel; a cellId is 0 … 351."""

PIXEL_SIZE = 200e-6
"""Edge of a pixel in m."""

_MOTORS = DetectorMotors(
    # EXtra's AGIPD1MQuadrantMotors
    quadrants={"SPB": "SPB_IRU_AGIPD1M/MOTOR/", "MID": "MID_EXP_AGIPD1M/MOTOR/"},
    # EXtra-redu 1.1, litfrm/agipd_offline.py
    along_beam={
        "SPB": ("SPB_IRU_AGIPD1M/MOTOR/Z_STEPPER", ("encoderPosition", "actualPosition")),
        "MID": ("MID_AGIPD_MOTION/MDL/DOWNSAMPLER", ("t4EncoderPosition",)),
    },
    geometry="AGIPD_1MMotors",
)

_CONTROL = DetectorControl(
    # EXtra-redu 1.1, litfrm/agipd_offline.py
    device="/MDL/FPGA_COMP",
    generations={"AgipdComposite": 1, "Agipd2Composite": 2},
    # of 10 ns
    clocks_per_pulse=22,
)

AGIPD_1M = Detector(
    name="AGIPD-1M",
    module_name="AGIPD",
    file_name="AGIPD",
    device=r"[^/]+_AGIPD1M[^/]*",
    source=XTDF_SOURCE,
    geometry="AGIPD_1MGeometry",
    n_modules=N_MODULES,
    module_shape=MODULE_SHAPE,
    asic_shape=(ASIC_SIZE, ASIC_SIZE),
    # two ASICs side by side, without a gap
    tile_shape=(ASIC_SIZE, MODULE_SHAPE[1]),
    pixel_size=(PIXEL_SIZE, PIXEL_SIZE),
    max_cells=MAX_CELLS,
    dark_first_cell=True,
    raw_planes=2,
    # as XFEL's documentation gives them
    nominal_gains=(1.0, 38.0, 180.0),
    motors=_MOTORS,
    control=_CONTROL,
)

AGIPD_500K = replace(
    AGIPD_1M,
    name="AGIPD-500K",
    device=r"[^/]+_AGIPD500K[^/]*",
    geometry="AGIPD_500K2GGeometry",
    n_modules=8,
    # of the second generation, whose constants are others
    raw_planes=0,
    motors=DetectorMotors(),
)
