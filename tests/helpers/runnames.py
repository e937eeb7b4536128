"""Names in a simulated run of the AGIPD-1M or a detector like it: files, sources, groups."""

DETECTOR = "SPB_DET_AGIPD1M-1"


def file_name(module: int, sequence: int = 0, run: int = 50, kind: str = "CORR") -> str:
    """Return the name of a module's file; `kind` is ``CORR`` or ``RAW``."""
    return f"{kind}-R{run:04d}-AGIPD{module:02d}-S{sequence:05d}.h5"


def constants_name(module: int) -> str:
    """Return the name of a module's file of constants."""
    return f"Cheetah-AGIPD{module:02d}-calib.h5"


def source_of(module: int, detector: str = DETECTOR) -> str:
    """Return the source of a module in corrected data."""
    return f"{detector}/CORR/{module}CH0:output"


def images_of(module: int, detector: str = DETECTOR) -> str:
    """Return the group with a module's frames in corrected data."""
    return f"INSTRUMENT/{source_of(module, detector)}/image"
