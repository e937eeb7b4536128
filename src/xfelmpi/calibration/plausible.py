"""Masks that can be read, but hardly are what was meant."""

import numpy as np

from xfelmpi.calibration.pixel_mask import Masks, count_good
from xfelmpi.core.log import plural
from xfelmpi.detectors.module_bits import modules_of
from xfelmpi.mpi import allreduce_sum

LEAST_GOOD = 0.1
"""Share of the pixels below which a mask is more likely inverted than meant."""

LEAST_REGION = 0.001
"""The same of a hit-finding region, which may be small."""


def few_good_pixels(comm, masks: Masks, modules_in_run: int) -> tuple[str, ...]:
    """Return warnings if masks, constants and geometry leave few good pixels; collective.

    Parameters
    ----------
    comm : Intracomm
    masks : Masks
    modules_in_run : int
        Bit field of the modules that count.
    """
    in_run = modules_of(modules_in_run, masks.n_modules)
    total = int(in_run.sum()) * masks.module_pixels
    region = masks.region_pixels / (masks.n_modules * masks.module_pixels)
    counted = masks.counted
    if counted is None or region < 1:
        mine = range(comm.rank, masks.n_modules, comm.size)
        counted = allreduce_sum(
            comm, count_good(masks.good, np.full_like(masks.region, 0xFF), mine)
        )
    good = float(counted[in_run].mean(axis=1).sum())
    warnings: tuple[str, ...] = ()
    if good < LEAST_GOOD * total:
        files = [f"{file.role}: {file.path}" for file in masks.files]
        sources = ", ".join(files) or "no file of good pixels is used"
        share = 100 * good / max(total, 1)
        warnings += (
            f"masks leave {good:,.0f} of {total:,} pixels good ({share:.2g} %; {sources}): is one "
            "of them inverted? Good is 1 in mask files, and 0 in image/mask and Badpixel",
        )
    elif dead := [m for m in np.flatnonzero(in_run) if not counted[m].any()]:
        named = f"{plural(len(dead), 'module')} {', '.join(map(str, dead))}"
        warnings += (f"masks leave no good pixel of {named}, though there are frames",)
    if region < LEAST_REGION:
        warnings += (
            f"hit-finding region: {masks.region_pixels:,} pixels ({100 * region:.2g} %): is it "
            "inverted? 1 is inside",
        )
    return warnings
