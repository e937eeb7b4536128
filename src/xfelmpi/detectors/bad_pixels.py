"""Why a pixel is bad: the bits of ``image/mask``, which are the same for all detectors."""

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
