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

_TAIL = """\
beta_factor = 1.0
beta_schedule = 2.0 10
# without the two '#', the background is part of the model, scaled for each hit: far slower
# background_file = data/{detector}
# bgscale_file = data/{detector}
"""

_OF_CLASSES = "# then make the folder again, for a brightness of the hits without the background\n"

_HITS_OF_CLASS, _CLASSES_FROM, _CLASSES_TO = 20, 4, 50
"""Hits of a class in the mean, and how many classes there are at least and at most."""

_STEP, _ROTATIONS_FROM, _ROTATIONS_TO = 1.5, 12, 180
"""Voxels from rotation to rotation at the edge: speckles are two or three wide."""


def volume_config(photons: str, detector: str) -> str:
    """Return the text for a reconstruction, by the names of the files in ``data/``."""
    text = _HEAD + _VOLUME + _FILES + _FITTED_SCALE + _TAIL
    return text.format(photons=photons, detector=detector, iterations=10)


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
    return (_HEAD + _CLASSES + _FILES + _FIXED_SCALE + _TAIL + _OF_CLASSES).format(
        photons=photons,
        detector=detector,
        iterations=15,
        modes=modes,
        rotations=min(max(rotations, _ROTATIONS_FROM), _ROTATIONS_TO),
    )
