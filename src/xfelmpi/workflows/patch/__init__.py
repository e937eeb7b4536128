"""Finished files with another geometry, distance or mask, without the run."""
