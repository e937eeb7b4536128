"""Compiled kernels: loops over bytes and pixels, without the interpreter's lock."""
