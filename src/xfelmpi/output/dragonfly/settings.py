"""The ``config.ini`` with which Dragonfly starts: a volume, or classes of hits. Pure.

Names and meanings: Dragonfly, ``params.pyx``, ``iterate.pyx`` and ``quaternion.pyx``.
"""

import math

_HEAD = """\
# dragonfly.emc -t 4 {iterations}: {iterations} iterations in 4 threads; -r goes on with the last.
# All options: https://github.com/duaneloh/Dragonfly/wiki/Configuring-your-experiment

[emc]
in_photons_file = data/{photons}
in_detector_file = data/{detector}
"""

_VOLUME = """\
# rotations: about 50 num_div^3, 0.94 / num_div rad apart
num_div = 6
"""

_CLASSES = """\
# classes of hits, each seen in num_rot rotations around the beam, up to half a turn
recon_type = 2d
num_modes = {modes}
num_rot = {rotations}
# a pattern is the same after half a turn
friedel_sym = 1
"""

_FITTED_SCALE = """\
# hits differ in brightness
need_scaling = 1
"""

_FIXED_SCALE = """\
# hits differ in brightness, which is known from their photons; fitted, all would end in one class
need_scaling = 1
scale_file = data/hits.h5
update_scale = 0
"""

_FILES = """\
output_folder = data/
log_file = logs/EMC.log
"""

_BETA = """\
beta_factor = 1.0
beta_schedule = 2.0 10
"""

_OF_CLASSES = """\
# without the two '#', the background is part of the model, scaled for each hit: far slower
# background_file = data/{detector}
# bgscale_file = data/{detector}
# then make the folder again, for a brightness of the hits without the background
"""

_BACKGROUND = """\
# dragonfly.emc -c background.ini -t 4 5, after config.ini: 5 iterations from the model that is
# named below, to background/, with the background of the non-hits as part of the model.

[emc]
in_photons_file = data/{photons}
in_detector_file = data/{detector}
# the last output of config.ini; without it, they start from noise, which takes far longer
start_model_file = data/output_010.h5
# as in config.ini
num_div = 6
output_folder = background/
log_file = logs/background.log
# how bright each hit is, from its photons without the background
need_scaling = 1
scale_file = data/hits.h5
update_scale = 0
# mean photons of the non-hits, and what scales them to each hit
background_file = data/{detector}
bgscale_file = data/{detector}
# 1 takes the likelihood as it is; with less, each hit has more orientations: with 0.5, many of
# them have hardly a hit, and Dragonfly takes these for empty
beta = 0.1
"""

_HITS_OF_CLASS, _CLASSES_FROM, _CLASSES_TO = 20, 4, 50
"""Hits of a class in the mean, and how many classes there are at least and at most."""

_STEP, _ROTATIONS_FROM, _ROTATIONS_TO = 1.5, 12, 180
"""Voxels from rotation to rotation at the edge: speckles are two or three wide."""


def volume_config(photons: str, detector: str) -> str:
    """Return the text for a reconstruction, by the names of the files in ``data/``."""
    text = _HEAD + _VOLUME + _FILES + _FITTED_SCALE + _BETA
    return text.format(photons=photons, detector=detector, iterations=10)


def background_config(photons: str, detector: str) -> str:
    """Return the text for a reconstruction with background, likewise; it follows the other one.

    In the model, a pixel has scale · particle + background scale · background photons. From noise,
    most orientations of most hits are possible, and Dragonfly solves for all of them by Ridder's
    method (``max_update.c``), so the first iterations take very long. Where the probabilities of an
    orientation sum up to less than about 1e-4, the tolerance of that method, it takes the slice for
    empty, not for unknown; ``beta`` keeps such orientations few.
    """
    return _BACKGROUND.format(photons=photons, detector=detector)


def class_config(photons: str, detector: str, n_hits: int, radius: float) -> str:
    """Return the text for a classification.

    Parameters
    ----------
    photons, detector : str
        Names of the files in ``data/``.
    n_hits : int
    radius : float
        Largest |q| of the detector in voxels.
    """
    modes = min(max(n_hits // _HITS_OF_CLASS, _CLASSES_FROM), _CLASSES_TO)
    rotations = math.ceil(math.pi * radius / _STEP)
    return (_HEAD + _CLASSES + _FILES + _FIXED_SCALE + _BETA + _OF_CLASSES).format(
        photons=photons,
        detector=detector,
        iterations=15,
        modes=modes,
        rotations=min(max(rotations, _ROTATIONS_FROM), _ROTATIONS_TO),
    )
