"""Mask bits of the CXI format."""

CXI_BAD = 0x80


CXI_MISSING = 0x200
"""Mask bits of the CXI format 1.6 (Maia 2012): pixel is bad; no data from this pixel."""
