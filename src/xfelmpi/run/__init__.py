"""A run as the facility wrote it: which frames it has, where they are, beamline data."""
