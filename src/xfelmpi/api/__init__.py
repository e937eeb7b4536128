"""What a Python program or a notebook reads of processed runs: tables, hits, powder, plots.

Start with `xfelmpi.open_run`.
"""

from xfelmpi.api.hits import Coordinates, Hit, Hits, Profiles
from xfelmpi.api.merged import MergedRuns
from xfelmpi.api.powder import Powder
from xfelmpi.api.rethreshold import Rethresholded
from xfelmpi.api.run import Run, open_run

__all__ = [
    "Coordinates",
    "Hit",
    "Hits",
    "MergedRuns",
    "Powder",
    "Profiles",
    "Rethresholded",
    "Run",
    "open_run",
]
