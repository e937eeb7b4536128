"""The AGIPD-1M: shape, names, limits and mask bits.

Axis order everywhere: (module, ss, fs), slow scan before fast scan. A *pixel number* is
``(module * 512 + ss) * 128 + fs``, the numbering that Dragonfly's EMC files use.
"""

import numpy as np

from xfelmpi.detectors.base import Detector

N_MODULES = 16
MODULE_SHAPE = (512, 128)
FRAME_SHAPE = (N_MODULES, *MODULE_SHAPE)
MODULE_PIXELS = MODULE_SHAPE[0] * MODULE_SHAPE[1]
FRAME_PIXELS = N_MODULES * MODULE_PIXELS
ASIC_SIZE = 64
"""Edge of an ASIC in pixels; a module has 8 × 2 of them."""

MODULE_BYTES = MODULE_PIXELS // 8
"""Bytes of a mask of one module, one bit a pixel."""

MAX_CELLS = 352
"""Analogue memory cells of every pixel; a cellId is 0 … 351."""

PIXEL_SIZE = 200e-6
"""Edge of a pixel in m."""

AGIPD_1M = Detector(
    name="AGIPD-1M",
    module_name="AGIPD",
    file_name="AGIPD",
    # corrected data have a source of their own, or in older files that of the raw data
    source=r"(.+)/(?:CORR|DET)/(\d+)CH0:(?:output|xtdf)",
    n_modules=N_MODULES,
    module_shape=MODULE_SHAPE,
    asic_shape=(ASIC_SIZE, ASIC_SIZE),
    pixel_size=(PIXEL_SIZE, PIXEL_SIZE),
    max_cells=MAX_CELLS,
    raw_planes=2,
)

MAX_COUNT = 65535
"""More photons than this in one pixel of one frame cannot be a signal: the pixel is bad there."""


BAD_PIXELS = (
    "OFFSET_OUT_OF_THRESHOLD",
    "NOISE_OUT_OF_THRESHOLD",
    "OFFSET_NOISE_EVAL_ERROR",
    "NO_DARK_DATA",
    "CI_GAIN_OUT_OF_THRESHOLD",
    "CI_LINEAR_DEVIATION",
    "CI_EVAL_ERROR",
    "FF_GAIN_EVAL_ERROR",
    "FF_GAIN_DEVIATION",
    "FF_NO_ENTRIES",
    "CI2_EVAL_ERROR",
    "VALUE_IS_NAN",
    "VALUE_OUT_OF_RANGE",
    "GAIN_THRESHOLDING_ERROR",
    "DATA_STD_IS_ZERO",
    "ASIC_STD_BELOW_NOISE",
    "INTERPOLATED",
    "NOISY_ADC",
    "OVERSCAN",
    "NON_SENSITIVE",
    "NON_LIN_RESPONSE_REGION",
    "WRONG_GAIN_VALUE",
    "NON_STANDARD_SIZE",
)
"""Names of the bits of ``image/mask`` in corrected files, from bit 0 on (the facility's
``extra.calibration.BadPixels``)."""

ALL_MASK_BITS = 0xFFFF_FFFF
"""Any bit of ``image/mask``, whether it has a name or not."""


def rows_of_cells(cells: np.ndarray) -> np.ndarray:
    """Return the row of every memory cell where only some cells have rows, int32 (352,).

    Parameters
    ----------
    cells : ndarray, int (row,)
        The cell of every row. Others are said to be in the first.
    """
    row_of_cell = np.zeros(MAX_CELLS, np.int32)
    row_of_cell[cells] = np.arange(len(cells))
    return row_of_cell
