"""Mask bits of the CXI format 1.6 (Maia 2012)."""

CXI_BAD = 0x80
"""The pixel is bad."""

CXI_MISSING = 0x200
"""There are no data from this pixel."""
