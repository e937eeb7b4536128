"""Masks, calibration constants and geometry."""
