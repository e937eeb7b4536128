"""Waiting for signals; cython/_signals.pyx."""

from collections.abc import Iterable

def wait(numbers: Iterable[int], seconds: int) -> int: ...
