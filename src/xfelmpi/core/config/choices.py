"""What an option with a fixed set of values may be, where other parts use the same set."""

import math
from typing import NamedTuple

from xfelmpi.detectors.known import DETECTORS

_EDGE = max(math.gcd(*detector.asic_shape) for detector in DETECTORS)
BIN_SIZES = tuple(n for n in range(1, _EDGE + 1) if _EDGE % n == 0)
"""``--bin``: bins never reach over the edge of an ASIC, which is checked again with the run."""


class ScoreOption(NamedTuple):
    """What is said of a score.

    Parameters
    ----------
    title : str
        In the report.
    help : str
        In the help text: what it counts.
    """

    title: str
    help: str


SCORES = {
    "litpixels": ScoreOption("hit score: lit pixels", "lit pixels of the hit-finding region"),
    "photons": ScoreOption("hit score: photons", "photons in the hit-finding region"),
    "facility": ScoreOption(
        "score (facility)",
        "lit pixels in --hit-modules, as counted by the facility, so that only hits and misses are"
        " read",
    ),
}
"""``--score``, by name; the function of each but the facility's is in `hitfinding.frame_scores`."""


def score_title(name: str) -> str:
    """Return what the report calls a score, also one of another version."""
    return SCORES[name].title if name in SCORES else f"score ({name})"


class DecideOption(NamedTuple):
    """What is said of a way to find hits.

    Parameters
    ----------
    help : str
        In the help text: the frames from which median and background width are computed.
    words : str
        In the report, after "both from the".
    not_used : tuple of str
        Options that have no effect.
    """

    help: str
    words: str
    not_used: tuple[str, ...]


DECISIONS = {
    "auto": DecideOption(
        "frames without a particle, of as many trains as needed, at any hit rate",
        "background around the train; the threshold is corrected for the skew of counts",
        ("width",),
    ),
    "train": DecideOption("all frames of the train", "frames of the train", ("min_scores",)),
    "window": DecideOption(
        "--min-scores frames around the train, as in EXtra-redu",
        "frames of the train and of trains around it",
        (),
    ),
    "run": DecideOption("all frames of the run", "frames of the run", ("min_scores",)),
    "fixed": DecideOption(
        "none, the threshold is --fixed-threshold",
        "",
        ("sigma", "width", "sigma_floor", "min_scores"),
    ),
}
"""``--decide``, by name; `hitfinding.hit_finder` has what each does."""

POLARISATIONS = ("x", "y", "none")
"""``--polarisation``: direction of the electric field."""

RECONSTRUCTIONS = ("3d", "2d")
"""``--recon``: what Dragonfly makes of the hits, a volume or classes."""

CLASS_BIN, CLASS_QMAX = 8, 16.0
"""``--bin`` and ``--roi-qmax`` (in voxels) of classes, where they are not given."""

CLASS_COLUMNS = ("class", "class_weight")
"""Columns of ``xfelmpi classes``."""

SUSPECT_TRAINS = ("include", "exclude")
"""``--suspect-trains``: what becomes of trains that the files flag as suspect."""

BACKGROUNDS = ("run", "cell")
"""``--background``: of which frames the CXI file has the mean."""

SIZES = ("auto", "sphere", "spheroid", "none")
"""``--size``: what particles are taken for."""

SIZE_COLUMNS = (
    *("diameter", "diameter_error", "short_axis_diameter", "short_axis_error"),
    *("long_axis_diameter", "long_axis_error", "theta_x", "theta_z", "theta_z_error"),
    *("fluence", "fluence_error", "size_deviance", "size_edge"),
)
"""Columns of sizes, whatever particles are taken for."""
