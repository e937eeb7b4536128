"""The CXI file: written, read, and its masks."""
