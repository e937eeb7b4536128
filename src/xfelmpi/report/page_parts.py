"""Parts of the page of a run that take longest: another rank may make them meanwhile."""

from collections.abc import Callable
from typing import Any

from xfelmpi.core.config.parts import HitSettings
from xfelmpi.hitfinding.hit_finder import hits_by_sigma, scored_before
from xfelmpi.report.detector_images import hit_images
from xfelmpi.report.run_files import RunFiles

SIGMAS = (3.0, 4.0, 5.0, 6.0)
"""Thresholds that are tried."""


def hits_of_sigmas(found: RunFiles) -> list[tuple[float, int, float]]:
    """Return hits and thresholds with other sigmas, see `hits_by_sigma`."""
    run = found.run
    settings = run.config.part(HitSettings)
    return hits_by_sigma(settings, scored_before(settings, run.events, run.complete), list(SIGMAS))


PARTS: dict[str, Callable[[RunFiles], Any]] = {"sigmas": hits_of_sigmas, "hits": hit_images}
"""How each part is made, by name, in the order in which the page needs them."""
