"""Why a pixel is bad: the bits of ``image/mask``, which are the same for all detectors."""

BAD_PIXELS = {
    "OFFSET_OUT_OF_THRESHOLD": 1 << 0,
    "NOISE_OUT_OF_THRESHOLD": 1 << 1,
    "OFFSET_NOISE_EVAL_ERROR": 1 << 2,
    "NO_DARK_DATA": 1 << 3,
    "CI_GAIN_OUT_OF_THRESHOLD": 1 << 4,
    "CI_LINEAR_DEVIATION": 1 << 5,
    "CI_EVAL_ERROR": 1 << 6,
    "FF_GAIN_EVAL_ERROR": 1 << 7,
    "FF_GAIN_DEVIATION": 1 << 8,
    "FF_NO_ENTRIES": 1 << 9,
    "CI2_EVAL_ERROR": 1 << 10,
    "VALUE_IS_NAN": 1 << 11,
    "VALUE_OUT_OF_RANGE": 1 << 12,
    "GAIN_THRESHOLDING_ERROR": 1 << 13,
    "DATA_STD_IS_ZERO": 1 << 14,
    "ASIC_STD_BELOW_NOISE": 1 << 15,
    "INTERPOLATED": 1 << 16,
    "NOISY_ADC": 1 << 17,
    "OVERSCAN": 1 << 18,
    "NON_SENSITIVE": 1 << 19,
    "NON_LIN_RESPONSE_REGION": 1 << 20,
    "WRONG_GAIN_VALUE": 1 << 21,
    "NON_STANDARD_SIZE": 1 << 22,
    "EXPERT_CHOICE": 1 << 23,
    "USER1": 1 << 30,
    "USER2": 1 << 31,
}
"""Bits of ``image/mask`` in corrected files, by their names (the facility's
``extra.calibration.BadPixels``)."""

ALL_MASK_BITS = 0xFFFF_FFFF
"""Any bit of ``image/mask``, whether it has a name or not."""

USUAL_MASK_BITS = ALL_MASK_BITS & ~BAD_PIXELS["NON_STANDARD_SIZE"]
"""Bits that make a pixel bad unless the user says otherwise.

``NON_STANDARD_SIZE`` marks pixels that are larger than others, at the edges of ASICs: they collect
more photons, and are not broken.
"""
