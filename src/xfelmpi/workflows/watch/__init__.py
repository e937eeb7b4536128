"""Watching an experiment folder: every run that is complete is submitted, and followed up."""
