"""Sums of a pass that hardly are what was meant: a warning each."""

import numpy as np

from xfelmpi import mpi
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.calibration.plausible import LEAST_GOOD
from xfelmpi.core.log import log, plural
from xfelmpi.core.sparse_frames import FrameSums
from xfelmpi.detectors.base import Detector

_MOST_LIT = 0.5
"""Share of the good pixels with photons that no diffraction has."""

_BRIGHT_PHOTONS = 10
"""Photons of a pixel in the run that have no Poisson neighbour with one or none."""

_MOST_UNLIKE = 0.1
"""Share of neighbours of which one is bright, the other blank: a few are hot or dead pixels."""


def doubts_of_sums(
    comm, masks: Masks, detector: Detector, sums: FrameSums, good_frames: np.ndarray | None
) -> tuple[str, ...]:
    """Log what is strange about the sums of all frames, and return it on rank 0; collective.

    Parameters
    ----------
    comm : Intracomm
    masks : Masks
        What they call bad in all frames has been looked at before.
    detector : Detector
    sums : FrameSums
        Of this rank.
    good_frames : ndarray, uint32 (module, pixel), or None
        On rank 0, in how many frames every pixel was good.
    """
    modules = np.bitwise_count(sums.modules).sum(dtype=np.int64)
    counts = np.array([modules, sums.lit.sum(), sums.photons.sum(), len(sums.lit)], np.int64)
    modules, lit, photons, frames = mpi.allreduce_sum(comm, counts).tolist()
    if good_frames is None:
        return ()
    good = int(good_frames.sum(dtype=np.int64))
    pixels = modules * detector.module_pixels if masks.frame_bits else 0
    warnings = doubts(good, pixels, lit, photons, frames)
    for line in warnings:
        log.warning(line)
    return warnings


def doubts(good: int, pixels: int, lit: int, photons: int, frames: int) -> tuple[str, ...]:
    """Return what is strange about the sums over all frames.

    Parameters
    ----------
    good, pixels, lit : int
        Good pixels, all pixels that are expected to be so, and good pixels with photons.
    photons, frames : int
    """
    if good < LEAST_GOOD * pixels:
        return (
            f"{100 * good / pixels:.2g} % of the pixels were good in {frames:,} frames: are masks "
            "inverted? Good is 1 in mask files, and 0 in image/mask and Badpixel",
        )
    what = "are constants and --adu-per-photon those of these data, the dark runs in their order?"
    if good and not photons:
        return (f"not one photon in {frames:,} frames: {what}",)
    if lit > _MOST_LIT * good:
        return (f"{100 * lit / good:.0f} % of the good pixels have photons: {what}",)
    return ()


def doubts_of_raw_powder(
    powder: tuple[np.ndarray, np.ndarray] | None, detector: Detector
) -> tuple[str, ...]:
    """Log if modules look as if their calibration constants were another's, and return it; rank 0.

    Offsets of other pixels give photons in every frame to some pixels, and none ever to others
    beside them, while light is about alike in neighbours.

    Parameters
    ----------
    powder : (ndarray, ndarray) or None
        Photons and good frames, both (module, pixel), of a raw run; None: not on rank 0.
    detector : Detector
    """
    speckled = []
    shape = (-1, detector.module_shape[1])
    for module, (photons, good) in enumerate(zip(*powder, strict=True) if powder else ()):
        # per frame, and enough of them that no Poisson noise is both
        usable = good.reshape(shape) > 0
        bright = usable & ((photons >= _BRIGHT_PHOTONS) & (photons >= good / 10)).reshape(shape)
        blank = usable & (photons <= 1).reshape(shape)
        pairs = int((usable[:, 1:] & usable[:, :-1]).sum())
        unlike = (bright[:, 1:] & blank[:, :-1]) | (blank[:, 1:] & bright[:, :-1])
        if pairs and unlike.sum() > _MOST_UNLIKE * pairs:
            speckled.append(str(module))
    if not speckled:
        return ()
    line = (
        f"{plural(len(speckled), 'module')} {', '.join(speckled)}: many pixels have photons all "
        "the time, and none beside them has any: are the calibration constants those of these "
        "modules and cells?"
    )
    log.warning(line)
    return (line,)
