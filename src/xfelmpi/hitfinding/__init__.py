"""Scores, thresholds, and which frames are hits."""
