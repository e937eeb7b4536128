"""Where the radial profiles of ``--profiles`` are in a CXI file."""

GROUP = "radial_profile"
"""Below an entry."""

AXES = "experiment_identifier:ring"
"""Of the datasets with a row per hit."""
